from pathlib import Path

import pytest

from editr2_jax import assemble
from editr2_jax.claims import questions
from editr2_jax.cli import common
from editr2_jax.training.train_batch import AdvantageConfig

COMMON = str(Path(__file__).parents[2] / "configs" / "tabletop_edit_r2.py") + ":claims"


@pytest.mark.parametrize("arm", questions.ARMS.values(), ids=lambda arm: arm.name)
def test_every_arm_is_a_config_that_can_start(arm):
    """Its values exist, have the right types, and contradict nothing."""
    config = common.load_config(COMMON, [(name, str(value)) for name, value in arm.values.items()])
    assemble.refuse_contradictions(config)
    assemble.rollout(config)
    assemble.settings(AdvantageConfig, config.advantage)


def test_no_two_arms_are_the_same_run():
    seen = {}
    for arm in questions.ARMS.values():
        config = common.load_config(COMMON, [(name, str(value)) for name, value in arm.values.items()])
        other = seen.setdefault((arm.trains, config.to_json_best_effort(sort_keys=True)), arm.name)
        assert other == arm.name


def test_every_arm_is_asked_about_and_every_question_can_be_answered():
    asked = {name for q in questions.QUESTIONS for name in (q.against, *q.arms)}
    assert asked == set(questions.ARMS)
    assert len(questions.QUESTIONS) >= 10
    assert all(set(q.expected) <= set(q.arms) and q.against not in q.arms for q in questions.QUESTIONS)


def test_all_rollouts_of_a_step_are_as_many_in_every_arm_that_trains():
    """At 3 turns and 64 rollouts: what differs is not the number of pictures."""
    for arm in questions.ARMS.values():
        config = common.load_config(COMMON, [(name, str(value)) for name, value in arm.values.items()])
        assert config.data.sessions * config.data.group * config.rollout.turns == 192


def test_one_question_or_one_arm_of_it_can_be_chosen():
    (one,) = questions.chosen(["joint/text_only"])
    assert one.arms == ("text_only",) and [arm.name for arm in questions.needed([one])] == [questions.COMMON, "text_only"]
    (whole,) = questions.chosen(["joint/text_only", "joint/image_only"])
    assert whole.arms == ("image_only", "text_only")
    with pytest.raises(ValueError, match="there is no question 'filtre', did you mean 'filter'"):
        questions.chosen(["filtre"])
