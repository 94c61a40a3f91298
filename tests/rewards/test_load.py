"""How long judges take, and how many of them a step wants: arithmetic by hand, and a suite that is timed."""

import time

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Verdict
from editr2_jax.rewards import load
from editr2_jax.rewards.load import Load
from editr2_jax.rewards.suite import Suite


def told(seconds, rollouts=8, turns=3) -> Load:
    return Load(rollouts=rollouts, turns=turns, seconds=seconds, statuses={"ok": rollouts * turns}, counts={})


@pytest.mark.parametrize(
    ("seconds", "passes", "step_s", "wait", "factor"),
    [
        (8.0, 1, 100.0, 8.0, 1.0),  # 24 s for 24 rollouts, 8 s of them for the last turn, 8 % of the step
        (8.0, 2, 100.0, 4.0, 1.0),  # half as many in the last pass
        (16.0, 1, 100.0, 16.0, 1.6),  # 16 s may be 10
        (50.0, 4, 100.0, 50.0, 150 / 110),  # 150 s of judging do not fit beside 100 s of drawing; beside 110 s they may
    ],
)
def test_what_a_step_waits_for(seconds, passes, step_s, wait, factor):
    need = load.need(told(seconds), rollouts=24, passes=passes, step_s=step_s, allowed=0.1)
    assert need.judging == pytest.approx(3 * seconds) and need.last_turn == pytest.approx(seconds / passes)
    assert (need.wait, need.share, need.factor) == pytest.approx((wait, wait / step_s, factor))


def test_as_many_servers_as_the_factor_says_and_no_more():
    assert [load.whole(factor, 2) for factor in (1.0, 1.5, 1.51, 1.1 + 1e-12)] == [2, 3, 4, 3]


class _Slow:
    name = "slow"

    def __init__(self):
        self.seen = []

    def score(self, episode):
        self.seen.append(episode)
        time.sleep(0.01)
        return Verdict(value=0.5)


def test_every_turn_of_every_rollout_is_judged_once_and_no_two_are_alike():
    slow, source = _Slow(), np.full((8, 12, 3), 250, np.uint8)
    session = fakes.episode([fakes.turn()] * 3, [0], "plain", "train/0").session
    with Suite([slow], {"slow": 1.0}, workers=4) as suite:
        measured = load.measure(suite, [(session, source)], turns=3, rollouts=5)
    assert measured.statuses == {"ok": 15} and measured.seconds >= 0.01 * 15 / 4 and measured.counts == {}
    assert len({episode.pictures[-1].tobytes() for episode in slow.seen}) == 15
    assert all((episode.pictures[0] == source).all() and np.ptp(episode.pictures[-1].astype(int) - source) <= 6 for episode in slow.seen)


def test_a_session_that_is_too_short_is_named():
    session = fakes.episode([fakes.turn()], [0], "plain", "train/7").session
    with pytest.raises(ValueError, match="session train/7 has 1 turns; 3 are to be played"):
        load.rollout(session, np.zeros((4, 4, 3), np.uint8), turns=3, seed=0)
