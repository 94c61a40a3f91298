"""The suite: weights, masks, order, limits. An outage never changes a reward, it only masks."""

import concurrent.futures
import math
import threading

import numpy as np
import pytest
import reward_fakes as fakes
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.records import Status, Verdict
from editr2_jax.rewards import base, suite
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


KINDS = [Status.OK, Status.NOT_APPLICABLE, Status.UNMEASURABLE, Status.JUDGE_FORMAT_ERROR, Status.SERVICE_ERROR, Status.INVALID_ANNOTATION]


@given(data=st.data(), least=st.sampled_from([0.0, 0.5, 0.9]))
def test_a_group_always_carries_the_same_weights(data, least):
    """What applies is the annotation's word, alike for a group; what happened to one member changes no other's weights or reward."""
    names, weights, groups, members = ("if", "cc", "ga"), {"if": 0.3, "cc": 0.3, "ga": 0.4}, 2, 3
    applies = {(name, group): data.draw(st.booleans()) for name in names for group in range(groups)}
    rows = range(groups * members)
    kinds = [kind for kind in KINDS if kind is not Status.NOT_APPLICABLE]
    happened = {
        (n, r): data.draw(st.sampled_from(kinds)) if applies[n, r // members] else Status.NOT_APPLICABLE for n in names for r in rows
    }
    value = {key: data.draw(st.sampled_from([0.0, 0.25, 1.0])) for key in happened}

    def verdict(name, row):
        status = happened[name, row]
        return Verdict(value=value[name, row] if status is Status.OK else math.nan, status=status)

    scores = put_together({name: [verdict(name, row) for row in rows] for name in names}, weights, members, least)
    for row in rows:
        group = [other for other in rows if other // members == row // members]
        carried = {name: scores.weights[name][row, 0] for name in names}
        assert all(scores.weights[name][other, 0] == carried[name] for name in names for other in group)
        seen = [n for n in names if applies[n, row // members] and any(happened[n, other] is not Status.UNMEASURABLE for other in group)]
        whole = sum(weights[n] for n in names if applies[n, row // members])
        enough = sum(weights[n] for n in seen) >= least * whole - 1e-9
        assert {name for name in names if carried[name]} == (set(seen) if enough else set())
        if seen and enough and all(happened[n, row] is Status.OK for n in seen):
            wanted = sum(weights[n] * value[n, row] for n in seen) / sum(weights[n] for n in seen)
            np.testing.assert_allclose(scores.combined[row, 0], wanted, rtol=1e-6)
        else:
            assert np.isnan(scores.combined[row, 0])


def put_together(verdicts, weights, members, least):
    """Scores of one turn from verdicts that are there already."""
    rows = len(next(iter(verdicts.values())))
    futures = {name: tuple(done(verdict) for verdict in row) for name, row in verdicts.items()}
    pending = suite.Pending(sessions=tuple(f"s/{row // members}" for row in range(rows)), subsets=("memory",) * rows, futures=futures)
    rewards = [fakes.FixedReward(name) for name in verdicts]
    with suite.Suite(rewards, weights, max_error_share=1.0, min_valid_weight=least) as judged:
        return judged.collect([pending])


def done(verdict):
    future = concurrent.futures.Future()
    future.set_result(verdict)
    return future


@given(scale=st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(scale):
    verdicts = {"if": [Verdict(value=0.25), Verdict(value=1.0)], "cc": [Verdict(value=0.5), base.missing(Status.NOT_APPLICABLE, "")]}
    plain = put_together(verdicts, {"if": 0.3, "cc": 0.6}, 1, 0.0).combined
    scaled = put_together(verdicts, {"if": 0.3 * scale, "cc": 0.6 * scale}, 1, 0.0).combined
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)
    np.testing.assert_allclose(plain[:, 0], [(0.3 * 0.25 + 0.6 * 0.5) / 0.9, 1.0], rtol=1e-6)


def test_numbers_of_a_detail_are_laid_out_like_scores():
    verdicts = {"ga": [Verdict(value=0.0, detail={"rule": 0.5}), base.missing(Status.SERVICE_ERROR, "down")]}
    told = put_together(verdicts, {"ga": 1.0}, 1, 0.0).told("ga", "rule")
    np.testing.assert_array_equal(told, np.float32([[0.5], [np.nan]]))


def test_too_many_errors_stop_the_step_and_say_which():
    rewards = [fakes.FixedReward("if"), fakes.FixedReward("cc", default=ConnectionError("refused"))]
    with suite.Suite(rewards, {"if": 0.5, "cc": 0.5}) as judged:
        with pytest.raises(suite.TooManyErrors, match="cc: service_error.*refused"):
            judged.score(batch())


def test_failures_are_a_share_of_all_batches_of_a_step():
    """The last batch of a step or of an evaluation may hold one session: a verdict of two is no half of the judges."""
    bad = [fakes.FixedReward("if", {("train/9", 0): TimeoutError("late")})]
    with suite.Suite(bad, {"if": 1.0}, max_error_share=0.05) as judged:
        turns = lambda rows, id: [judged.submit(episodes) for episodes in batch(rows=rows, id=id)]  # noqa: E731
        many, last = turns(20, lambda row: f"train/{row // 8}"), turns(1, lambda row: "train/9")
        scores = judged.collect_all([many, last])
        assert [score.error_share for score in scores] == [0.0, 0.5] and suite.error_share(scores) == pytest.approx(1 / 42)
        assert np.isnan(scores[1].combined[0, 0]) and scores[1].combined[0, 1] == 1 and (scores[0].combined == 1).all()
        with pytest.raises(suite.TooManyErrors, match="3 of 46 verdicts failed .*if: service_error.*late"):
            judged.collect_all([many, *[last] * 3])
        assert judged.collect_all([]) == [] and suite.error_share([]) == 0


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
    with pytest.raises(ValueError, match="none of if, cc has a weight, so no turn would have a reward"):
        suite.Suite(rewards, {})
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


def test_closing_does_not_wait_for_ever_for_a_judge(monkeypatch):
    """What hangs on a service ends with it; what it was about stays without a verdict."""

    class Line:
        def __init__(self):
            self.asked, self.cut = threading.Event(), threading.Event()

        def counters(self):
            return {}

        def close(self):
            self.cut.set()

    class Hangs:
        name, line = "if", Line()

        def score(self, episode):
            self.line.asked.set()
            assert self.line.cut.wait(60)
            raise ConnectionError("closed")

    monkeypatch.setattr(suite, "_PATIENCE_S", 0.05)
    reward = Hangs()
    with suite.Suite([reward], {"if": 1.0}, services={"judge": reward.line}) as judged:
        pending = judged.submit([fakes.episode([fakes.turn()], [0, 1])])
        assert reward.line.asked.wait(60)
    assert pending.futures["if"][0].result().status is Status.SERVICE_ERROR


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
