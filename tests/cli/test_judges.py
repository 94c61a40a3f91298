"""The verb judges: asks as a run would, in a process of its own where the judge is a server."""

import pytest
from small_checkpoint import call

from editr2_jax import presets
from editr2_jax.cli import judges as verb
from editr2_jax.rewards.load import Load

CONFIG = "configs/tabletop_edit_r2.py"


def judges(*more):
    return call("judges", f"--config={CONFIG}", "--rollouts=2", "--config.rollout.turns=2", *more)


def test_it_times_the_rewards_of_the_embedded_world_and_says_how_many_there_should_be():
    outcome = judges("--step_s=1e-6")
    assert outcome.status == 0, outcome.err
    first, step, advice = outcome.out.splitlines()
    assert first.startswith("if, cc, ga of 2 rollouts of 2 turns: ") and "of 12 ok" in first
    assert step.startswith("a step (64 rollouts, 1 pass): ") and "after the last picture" in step
    assert advice.startswith("for 10%, ") and "rewards.workers=" in advice and "servers" not in advice
    assert judges("--step_s=1e6").out.endswith("that is below 10%: they are enough\n")
    assert "--step_s=SECONDS says whether" in judges().out


def test_data_of_one_s_own_is_asked_about_in_its_words(tmp_path):
    pytest.importorskip("skimage")
    assert call("data", "photos", f"--out={tmp_path}").status == 0
    outcome = judges(f"--config.data.path={tmp_path}")
    assert outcome.status == 0 and "if, cc, ga of 2 rollouts" in outcome.out, outcome.err
    outcome = judges(f"--config.data.path={tmp_path}", "--config.rollout.turns=9")
    assert outcome.status == 2 and "has 9 turns; set rollout.turns" in outcome.err


def test_a_detector_in_process_is_told_of_by_its_questions():
    counts = {"detector/cache_misses": 30.0, "detector/cache_hits": 12.0}
    load = Load(rollouts=2, turns=2, seconds=3.0, statuses={"ok": 4}, counts=counts)
    assert "detector: 30 questions, 12 more asked again and remembered" in verb._told(presets.edit_r2(), load, 0.0)


@pytest.mark.parametrize(("more", "said"), [
    (["--rollouts=0"], "give at least one rollout"),
    (["--step_s=-1"], "no negative seconds"),
    (["--config.rewards.use=('cc',)", "--config.rewards.features=vit"], "looks through the checkpoint"),
])  # fmt: skip
def test_what_cannot_be_timed_is_said(more, said):
    outcome = judges(*more)
    assert outcome.status == 2 and said in outcome.err, outcome.err
