"""Intervals over dialogues: by hand, by law, and by how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editr2_jax.evaluation import statistics

NAN = np.nan


def test_a_mean_leaves_out_what_is_missing_and_says_so():
    interval = statistics.mean_interval(np.array([[1.0, 0.0, NAN], [1.0, NAN, NAN], [NAN, NAN, NAN]]))
    assert interval.mean == pytest.approx(2 / 3)
    assert (interval.n, interval.sessions) == (3, 2)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).uniform(size=40)
    assert statistics.mean_interval(values, seed=3) == statistics.mean_interval(values, seed=3)
    assert statistics.mean_interval(values, seed=3) != statistics.mean_interval(values, seed=4)


def test_an_interval_of_many_dialogues_is_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.2, size=400)
    interval = statistics.mean_interval(values, draws=4000)
    error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([interval.low, interval.high], values.mean() + np.array([-1.96, 1.96]) * error, atol=0.1 * error)


def test_dialogues_are_resampled_and_not_turns():
    """Three equal turns in a dialogue are one observation: the interval is that of the dialogues."""
    values = np.random.default_rng(2).uniform(size=50)
    alone, thrice = statistics.mean_interval(values), statistics.mean_interval(np.repeat(values[:, None], 3, axis=1))
    np.testing.assert_allclose([thrice.low, thrice.high], [alone.low, alone.high])
    assert (thrice.n, thrice.sessions) == (150, 50)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(3)
    samples = (random.binomial(1, 0.4, size=60).astype(float) for _ in range(200))
    held = [interval.low <= 0.4 <= interval.high for interval in (statistics.mean_interval(sample, draws=300) for sample in samples)]
    assert 0.88 <= np.mean(held) <= 0.99


def test_few_dialogues_get_no_interval():
    assert statistics.mean_interval(np.array([])).json() == {"mean": None, "low": None, "high": None, "n": 0, "sessions": 0}
    assert statistics.mean_interval(np.array([NAN, 0.5])).json() == {"mean": 0.5, "low": None, "high": None, "n": 1, "sessions": 1}


def test_a_pair_needs_both_verdicts():
    difference = statistics.paired_interval(np.array([0.2, NAN, 0.4, 0.0]), np.array([0.7, 1.0, 0.9, NAN]))
    assert (difference.before, difference.after) == (pytest.approx(0.3), pytest.approx(0.8))
    assert difference.mean == pytest.approx(0.5) and difference.n == 2 and difference.positive


def test_pairing_takes_out_what_dialogues_differ_by():
    random = np.random.default_rng(4)
    before = random.uniform(size=100)
    paired = statistics.paired_interval(before, before + 0.05 + random.normal(0, 0.01, size=100))
    assert paired.positive and paired.high - paired.low < 0.01


def test_pairs_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="same dialogues in the same order"):
        statistics.paired_interval(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("options", [{"level": 0.0}, {"level": 1.5}, {"draws": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="level"):
        statistics.mean_interval(np.zeros(3), **options)


def test_the_minimum_so_far_by_hand():
    scores = np.array([[1.0, 0.5, 1.0], [NAN, 1.0, 0.0], [0.0, NAN, 1.0]])
    np.testing.assert_array_equal(statistics.cumulative_min(scores), [[1.0, 0.5, 0.5], [NAN, NAN, 0.0], [0.0, 0.0, 0.0]])


def test_turns_that_do_not_count_are_skipped():
    scores, counts = np.array([[NAN, 1.0, 0.5]]), np.array([[False, True, True]])
    np.testing.assert_array_equal(statistics.cumulative_min(scores, counts=counts), [[NAN, 1.0, 0.5]])
    np.testing.assert_array_equal(statistics.full_success(scores, counts=counts), [0.0])


def test_full_success_by_hand():
    scores = np.array([[1.0, 1.0], [1.0, 0.75], [1.0, NAN], [0.0, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(statistics.full_success(scores), [1.0, 0.0, NAN, 0.0, NAN])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, NAN]), min_size=1, max_size=5))
def test_a_failed_dialogue_never_recovers(scores):
    scores = np.array([scores])
    lowest, success = statistics.cumulative_min(scores)[0], statistics.success_so_far(scores)[0]
    known = lowest[~np.isnan(lowest)]
    assert np.all(np.diff(known) <= 0)
    np.testing.assert_array_equal(success[-1], statistics.full_success(scores)[0])


def test_a_composite_of_one_part_is_its_mean():
    values = np.array([[1.0, np.nan], [0.0, 1.0], [np.nan, np.nan], [0.5, 0.5]])
    alone = statistics.mean_interval(values, draws=200)
    assert statistics.composite_interval([values], lambda means: means[0], draws=200) == alone


def test_a_composite_resamples_its_parts_together():
    a = np.array([0.2, 0.4, 0.9])
    zero = statistics.composite_interval([a, a], lambda means: means[0] - means[1], draws=100)
    assert (zero.mean, zero.low, zero.high) == (0, 0, 0)
    root = statistics.composite_interval([a[:, None], np.full((3, 2), 0.25)], lambda means: np.sqrt(means[0] * means[1]), draws=100)
    assert root.mean == pytest.approx(np.sqrt(0.5 * 0.25)) and root.low < root.mean < root.high and (root.n, root.sessions) == (6, 3)


def test_a_composite_of_nothing_is_nothing():
    empty = statistics.composite_interval([np.full((2, 2), np.nan)], lambda means: means[0])
    assert np.isnan(empty.mean) and (empty.n, empty.sessions) == (0, 0)
    with pytest.raises(ValueError, match="same dialogues"):
        statistics.composite_interval([np.zeros(2), np.zeros(3)], lambda means: means[0])
