"""The detector and the extractor as a config names them, and a run that is scored through two server processes."""

import json

import pytest
from eyes_server import EyesServer
from small_checkpoint import CONFIG, call

from editr2_jax import judging, presets, resuming
from editr2_jax.runtime import metrics

PATIENCE = {"backoff_s": 0.02, "outage_s": 20.0}


def test_what_is_not_used_is_not_looked_for():
    made = presets.edit_r2()
    for section in (made.rewards.detector_http, made.rewards.features_http):
        section.update(token_env="NOT_SET", cache="/nowhere/at/all")
    with judging.suite(made, whole=None) as suite:
        assert suite.counted() == {}
    for chooser in ("detector", "features"):
        made = presets.edit_r2()
        made.rewards[chooser] = "http"
        with pytest.raises(ValueError, match="model is empty"):
            judging.suite(made, whole=None)
        made.rewards[f"{chooser}_http"].update(model="x", token_env="NOT_SET")
        with pytest.raises(ValueError, match="token_env names 'NOT_SET'"):
            judging.suite(made, whole=None)
    made.rewards.use = ("ga",)  # which looks through neither
    with judging.suite(made, whole=None) as suite:
        assert suite.names == ("ga",)


def test_verdicts_depend_on_the_model_and_not_on_its_address():
    made = presets.edit_r2()
    made.rewards.update(detector="http")
    known = resuming.judging(made)
    made.rewards.detector_http.update(urls=("http://127.0.0.1:9/v1",), cache="elsewhere", timeout_s=1.0)
    made.rewards.features_http.model = "not used"
    assert resuming.judging(made) == known
    made.rewards.detector_http.model = "another"
    assert resuming.judging(made) != known


def train(workdir, checkpoint, *more):
    where = (f"--config={CONFIG}:edit_r2", f"--workdir={workdir}", f"--config.model.checkpoint={checkpoint}", "--config.loop.steps=1")
    outcome = call("train", *where, "--config.evaluate.before=False", "--config.doctor.before=False", *more)
    assert outcome.status == 0, outcome.err
    return metrics.read(workdir)


def behind(name, server):
    section = f"--config.rewards.{name}_http"
    told = {"urls": f"('{server.url}',)", "model": server.model, **PATIENCE}
    return (f"--config.rewards.{name}=http", *(f"{section}.{key}={value}" for key, value in told.items()))


def verdicts(workdir):
    records = [json.loads(line) for path in (workdir / "verdicts").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(
        (record["reward"], repr(record["value"]), record["status"], json.dumps(record["detail"], sort_keys=True)) for record in records
    )


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_a_step_scored_through_two_servers_is_the_step_scored_in_process(small_checkpoint, tmp_path):
    (here,) = train(tmp_path / "here", small_checkpoint)
    with EyesServer("detector") as detector, EyesServer("features") as features:
        (there,) = train(tmp_path / "there", small_checkpoint, *behind("detector", detector), *behind("features", features))
        calls = {"detector": detector.counted(), "features": features.counted()}
    scored = [name for name in here if name.startswith(("reward/", "image/", "intent/", "filter/", "advantage/"))]
    assert scored and {name: repr(there[name]) for name in scored} == {name: repr(here[name]) for name in scored}
    assert verdicts(tmp_path / "there") == verdicts(tmp_path / "here") != []
    for name in ("detector", "features"):
        assert 0 < there[f"{name}/answers"] == there[f"{name}/requests"] <= calls[name]["editr2_model_calls_total"]  # the rest: evaluation
        assert f"{name}/requests" not in here
