"""The judge as a config names it, and a run that is judged by it while it misbehaves."""

import pytest
from judge_server import PATIENT
from small_checkpoint import CONFIG, call

from editr2_jax import judging, presets, resuming
from editr2_jax.records import Episode
from editr2_jax.runtime import metrics
from editr2_jax.tabletop import world


def config(server, **vlm):
    made = presets.tabletop(presets.edit_r2())
    made.rewards.update(answerer="vlm", use=("ga",), max_error_share=1.0, workers=4)
    made.rewards.vlm.update(urls=(server.url,), model="judge", **PATIENT, **vlm)
    return made


def episodes(rows=3):
    made = [world.make_session("train", 0, row, turns=1, subset="memory", size=(48, 48)) for row in range(rows)]
    return [[Episode(session=session, pictures=(source, after[0])) for session, source, after in made]]


def test_a_config_s_judge_is_asked_in_its_language_as_often_as_it_says(server, tmp_path):
    settings = {"language": "zh", "votes": 2, "temperature": 0.5, "cache": str(tmp_path / "answers.sqlite")}
    with judging.suite(config(server, **settings), whole=None) as suite:
        first = suite.score(episodes())
        counted = suite.counted()
    assert counted["judge/requests"] == counted["judge/cache_misses"] == len(server.questions()) == 6 and first.error_share == 0
    assert "请按顺序检查每一次编辑" in server.questions()[0]["prompt"]
    server.kill()
    with judging.suite(config(server, **settings, cache_mode="replay"), whole=None) as suite:
        again = suite.score(episodes())
        assert suite.counted() == {"judge/cache_hits": 6.0}
    assert repr(again.verdicts) == repr(first.verdicts)


@pytest.mark.slow
def test_if_and_ga_share_one_judge_and_if_may_be_soft(server):
    made = config(server, soft=True)
    made.rewards.use = ("if", "ga")
    with judging.suite(made, whole=None) as suite:
        suite.score(episodes(rows=6))
        assert suite.counted()["judge/requests"] == len(server.questions())
    kinds = {"ga" if "first_failed_turn" in question["prompt"] else "if" for question in server.questions()}
    assert "ga" in kinds and all(("logprobs" in q["settings"]) == ("first_failed_turn" not in q["prompt"]) for q in server.questions())


def test_a_judge_that_is_not_used_is_not_looked_for():
    made = presets.edit_r2()
    made.rewards.vlm.update(token_env="NOT_SET", cache="/nowhere/at/all")
    with judging.suite(made, whole=None) as suite:
        assert suite.counted() == {}
    made.rewards.answerer = "vlm"
    with pytest.raises(ValueError, match="VlmConfig.model is empty"):
        judging.suite(made, whole=None)
    made.rewards.vlm.model = "judge"
    with pytest.raises(ValueError, match="token_env names 'NOT_SET'"):
        judging.suite(made, whole=None)


def test_verdicts_depend_on_the_model_and_not_on_its_address(server):
    names = [name.removeprefix("rewards.vlm.") for name in resuming.JUDGE_ADDRESS if name.startswith("rewards.vlm.")]
    assert set(names) < set(presets.edit_r2().rewards.vlm) and "urls" in names and "cache" in names and "model" not in names
    known = resuming.judging(config(server))
    assert known == resuming.judging(config(server, token_env="X", cache="elsewhere", concurrency=3))
    assert known != resuming.judging(config(server, language="zh"))
    unused = presets.edit_r2()
    unused.rewards.vlm.model = unused.rewards.detector_http.model = unused.rewards.features_http.model = "another"
    assert resuming.judging(unused) == resuming.judging(presets.edit_r2())


def train(workdir, checkpoint, server, *more):
    patience = [f"--config.rewards.vlm.{name}={value}" for name, value in PATIENT.items()]
    judge = (f"--config.rewards.vlm.urls=('{server.url}',)", "--config.rewards.vlm.model=judge", "--config.rewards.answerer=vlm")
    where = (f"--config={CONFIG}:edit_r2", f"--workdir={workdir}", f"--config.model.checkpoint={checkpoint}")
    return call("train", *where, *judge, *patience, "--config.evaluate.before=False", "--config.doctor.before=False", *more)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_training_goes_on_while_its_judge_misbehaves_and_stops_clearly_when_it_is_gone(server, small_checkpoint, tmp_path):
    server.control(shares={"error": 0.3, "reset": 0.1, "malformed": 0.1})
    outcome = train(tmp_path / "run", small_checkpoint, server, "--config.loop.steps=3")
    assert outcome.status == 0, outcome.err
    lines = metrics.read(tmp_path / "run")
    assert len(lines) == 3 and all(line["reward/error_share"] == 0 for line in lines)
    assert sum(line.get("judge/requests", 0) for line in lines) > sum(line.get("judge/answers", 0) for line in lines) > 0
    server.kill()
    outcome = train(tmp_path / "run", small_checkpoint, server, "--config.loop.steps=5", "--config.rewards.vlm.outage_s=0.5")
    assert outcome.status != 0 and "verdicts failed" in outcome.err and "No endpoint has answered for 0.5 s" in outcome.err
    server.port = 0  # it comes back elsewhere
    server.start()
    outcome = train(tmp_path / "run", small_checkpoint, server, "--config.loop.steps=5")
    assert outcome.status == 0, outcome.err
    assert [line["step"] for line in metrics.read(tmp_path / "run")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_judge_is_timed_by_a_command(server):
    server.control(delay_s=0.2)
    judge = (f"--config.rewards.vlm.urls=('{server.url}',)", "--config.rewards.vlm.model=judge", "--config.rewards.answerer=vlm")
    more = ("--config.rewards.use=('ga',)", "--config.rewards.workers=4", "--step_s=0.1")
    outcome = call("judges", f"--config={CONFIG}:edit_r2", "--rollouts=4", *judge, *more)
    assert outcome.status == 0, outcome.err
    asked = len(server.questions())
    assert (
        f"judge: {asked} requests, " in outcome.out and "0.2" in outcome.out and "servers instead of 1, and rewards.workers=" in outcome.out
    )
