"""The suite: weights, masks, order, limits. An outage never changes a reward, it only masks."""

import math
import threading

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import suite
from editr2_jax.rewards.questions import JudgeFormatError


def batch(turns=2, rows=4, subset="memory", id=lambda row: f"train/{row // 2}"):
    """turns[t][b]: rows of two members per session."""
    return [[fakes.episode([fakes.turn()] * turns, range(t + 2), subset, id(row)) for row in range(rows)] for t in range(turns)]


def test_weights_are_those_of_the_paper():
    rewards = [fakes.FixedReward("if", default=1.0), fakes.FixedReward("cc", default=0.5), fakes.FixedReward("ga", default=0.0)]
    with suite.Suite(rewards) as judged:
        scores = judged.score(batch())
    assert scores.combined.dtype == np.float32 and scores.combined.shape == (4, 2)
    np.testing.assert_allclose(scores.combined, 0.45, rtol=1e-6)
    assert scores.error_share == 0 and scores.statuses("if")[0, 0] == "ok"


def test_what_does_not_apply_leaves_its_weight_to_the_others():
    rewards = [fakes.FixedReward("if"), fakes.FixedReward("cc", default=0.5), fakes.FixedReward("ga", default=Status.NOT_APPLICABLE)]
    with suite.Suite(rewards) as judged:
        scores = judged.score(batch(subset="plain"))
    np.testing.assert_allclose(scores.combined, 0.75)
    assert np.isnan(scores.values["ga"]).all() and not scores.weights["ga"].any()
    np.testing.assert_allclose(scores.weights["cc"], 0.3, rtol=1e-6)


@pytest.mark.parametrize("last", [0.25, Status.NOT_APPLICABLE])
def test_the_parts_of_a_reward_add_up_to_it(last):
    rewards = [fakes.FixedReward("if"), fakes.FixedReward("cc", default=0.5), fakes.FixedReward("ga", default=last)]
    with suite.Suite(rewards) as judged:
        scores = judged.score(batch())
        parts = judged.parts({name: table[0][1] for name, table in scores.verdicts.items()}, "memory")
    np.testing.assert_allclose(sum(parts.values()), scores.combined[0, 1], rtol=1e-6)
    assert ("ga" in parts) == (last is not Status.NOT_APPLICABLE) and parts["cc"] < parts["if"]


@pytest.mark.parametrize("outage", [ConnectionError("down"), JudgeFormatError("hm"), Status.INVALID_ANNOTATION, Status.UNMEASURABLE])
def test_an_outage_masks_its_sample_and_changes_nothing_else(outage):
    def judge(last):
        rewards = [fakes.FixedReward("if", default=0.25), fakes.FixedReward("cc", default=0.5), last]
        with suite.Suite(rewards, max_error_share=1.0) as judged:
            return judged.score(batch())

    clean, broken = judge(fakes.FixedReward("ga", default=0.75)), judge(OnlyFirst(outage))
    assert np.isnan(broken.combined).sum() == 1 and np.all(broken.weights["ga"] > 0), "it is missing, not left out"
    valid = ~np.isnan(broken.combined)
    np.testing.assert_array_equal(broken.combined[valid], clean.combined[valid])


class OnlyFirst:
    """Fails for the first episode that it is asked about, whichever that is."""

    name = "ga"

    def __init__(self, outage):
        self.outage, self.lock, self.done = outage, threading.Lock(), False
        self.fixed = fakes.FixedReward("ga", default=0.75)

    def score(self, episode):
        with self.lock:
            first, self.done = not self.done, True
        return fakes.FixedReward("ga", default=self.outage).score(episode) if first else self.fixed.score(episode)


def test_unmeasurable_for_a_whole_session_drops_the_reward_for_the_whole_group():
    nothing = {("train/0", 0): Status.UNMEASURABLE}
    rewards = [fakes.FixedReward("if", default=1.0), fakes.FixedReward("cc", nothing, default=0.0)]
    with suite.Suite(rewards, {"if": 0.5, "cc": 0.5}) as judged:
        scores = judged.score(batch(turns=1))
        np.testing.assert_allclose(scores.combined[:, 0], [1.0, 1.0, 0.5, 0.5])
        np.testing.assert_allclose(scores.weights["cc"][:, 0], [0.0, 0.0, 0.5, 0.5])
    with suite.Suite(rewards, {"if": 0.5, "cc": 0.5}, min_valid_weight=0.6) as judged:
        scores = judged.score(batch(turns=1))
        np.testing.assert_allclose(scores.combined[:, 0], [np.nan, np.nan, 0.5, 0.5])
        np.testing.assert_allclose(scores.weights["if"][:, 0], [0.0, 0.0, 0.5, 0.5])


def test_too_many_errors_stop_the_step_and_say_which():
    rewards = [fakes.FixedReward("if"), fakes.FixedReward("cc", default=ConnectionError("refused"))]
    with suite.Suite(rewards, {"if": 0.5, "cc": 0.5}) as judged:
        with pytest.raises(suite.TooManyErrors, match="cc: service_error.*refused"):
            judged.score(batch())


def test_results_come_in_order_whatever_finishes_first():
    class Slow:
        name = "if"

        def score(self, episode):
            pause = threading.Event()
            pause.wait(0.002 * (7 - int(episode.session.id[-1])))
            return fakes.FixedReward("if", default=int(episode.session.id[-1]) / 10).score(episode)

    with suite.Suite([Slow()], {"if": 1.0}, workers=3) as judged:
        scores = judged.score(batch(rows=7, id=lambda row: f"train/{row}"))
    np.testing.assert_allclose(scores.values["if"][:, 1], np.arange(7) / 10, rtol=1e-6)


def test_scoring_goes_on_while_the_next_turn_is_drawn():
    drawn = threading.Event()

    class Waits:
        name = "if"

        def score(self, episode):
            assert episode.turn > 0 or drawn.wait(5)
            return fakes.FixedReward("if").score(episode)

    first, second = batch()
    with suite.Suite([Waits()], {"if": 1.0}, workers=2) as judged:
        pending = [judged.submit(first)]  # returns although no verdict is ready
        drawn.set()
        pending.append(judged.submit(second))
        assert judged.collect(pending).combined.shape == (4, 2)


def test_weights_may_differ_by_subset_and_wrong_names_are_refused():
    rewards = [fakes.FixedReward("if"), fakes.FixedReward("cc", default=0.0)]
    with suite.Suite(rewards, {"plain": {"if": 1.0}, "memory": {"if": 0.25, "cc": 0.75}}) as judged:
        np.testing.assert_allclose(judged.score(batch(subset="plain")).combined, 1.0)
        np.testing.assert_allclose(judged.score(batch(subset="memory")).combined, 0.25)
        assert np.isnan(judged.score(batch(subset="understanding")).combined).all()
    with pytest.raises(ValueError, match="no reward is called ga"):
        suite.Suite(rewards)
    with pytest.raises(ValueError, match="unknown subset"):
        suite.Suite(rewards, {"plane": {"if": 1.0}})


def test_turns_of_different_batches_are_refused():
    with suite.Suite([fakes.FixedReward("if")], {"if": 1.0}) as judged:
        one, other = judged.submit(batch()[0]), judged.submit(batch(rows=3)[1])
        with pytest.raises(ValueError, match="one batch"):
            judged.collect([one, other])


def test_a_raised_verdict_keeps_its_reason():
    verdict = suite.verdict_of(fakes.FixedReward("if", default=TimeoutError("after 30 s")), fakes.episode([fakes.turn()], [0, 1]))
    assert verdict.status is Status.SERVICE_ERROR and math.isnan(verdict.value) and "after 30 s" in verdict.detail["reason"]


def test_services_are_counted_since_last_time_and_closed_with_the_suite():
    class Meter:
        count, closed = 2.0, 0

        def counters(self):
            return {"requests": self.count}

        def close(self):
            self.closed += 1

    meter = Meter()
    with suite.Suite([fakes.FixedReward("if")], {"if": 1.0}, services={"judge": meter}) as judged:
        assert judged.counted() == {"judge/requests": 2.0}
        meter.count = 7.0
        assert judged.counted() == {"judge/requests": 5.0} and judged.counted() == {"judge/requests": 0.0}
    assert meter.closed == 1
