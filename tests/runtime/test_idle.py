"""Idle shares, and one warning for each time that devices begin to stand still."""

import pytest

from editr2_jax.runtime import idle
from editr2_jax.runtime.idle import Streaks


def test_shares_are_of_the_whole_step():
    told = {"time/step_s": 20.0, "time/data_s": 1.0, "time/reward_wait_s": 5.0, "time/update_s": 9.0}
    assert idle.shares(told) == pytest.approx({"idle/data_share": 0.05, "idle/reward_share": 0.25})
    assert idle.shares({"idle/repeated_share": 0.3} | told)["idle/repeated_share"] == 0.3
    assert idle.shares({"time/step_s": 20.0}) == {} == idle.shares({"time/data_s": 1.0})


def told(shares) -> list[int]:
    """The steps at which judges are complained of."""
    streaks, at = Streaks(), []
    for step, share in enumerate(shares):
        streaks, lines = streaks.after({"idle/data_share": 0.0, "idle/reward_share": share})
        at += [step for line in lines if "wait for judges" in line and "rewards.workers" in line]
    return at


def test_a_warning_comes_after_several_steps_and_once():
    assert told([0.5, 0.5]) == []
    assert told([0.5] * 10) == [2]


def test_a_step_without_waiting_begins_anew():
    assert told([0.5, 0.5, 0.05, 0.5, 0.5]) == []
    assert told([0.5, 0.5, 0.5, 0.05, 0.5, 0.5, 0.5]) == [2, 6]
