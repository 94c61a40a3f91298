import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import turn_rewards

NAN = float("nan")
turns = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4)
flags = st.lists(st.booleans(), min_size=4, max_size=4)


def improvement(row, counts=None):
    return np.asarray(turn_rewards.improvement(np.float32([row]), counts=None if counts is None else np.array([counts])))[0]


def to_go(row, gamma, counts=None):
    return np.asarray(turn_rewards.to_go(np.float32([row]), gamma=gamma, counts=None if counts is None else np.array([counts])))[0]


def test_a_session_by_hand():
    np.testing.assert_allclose(improvement([0.25, 1.0, 0.5]), [0.25, 0.75, -0.5])
    np.testing.assert_allclose(to_go([0.25, 1.0, 0.5], 0.5), [0.875, 1.25, 0.5])


def test_what_is_missing_is_missing_in_all_that_needs_it():
    np.testing.assert_array_equal(np.isnan(improvement([0.0, NAN, 0.0, 0.0])), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(to_go([0.0, NAN, 0.0, 0.0], 0.9)), [True, True, False, False])


def test_a_turn_that_does_not_count_is_stepped_over():
    counts = [True, False, True, False]
    np.testing.assert_allclose(improvement([0.25, NAN, 1.0, NAN], counts), [0.25, NAN, 0.75, NAN])
    np.testing.assert_allclose(to_go([0.25, NAN, 1.0, NAN], 0.5, counts), [0.5, 0.5, 1.0, NAN])
    np.testing.assert_allclose(improvement([NAN, 1.0, 0.5, 0.5], [False, True, True, True]), [NAN, 1.0, -0.5, 0.0])


@given(turns, flags)
def test_improvements_add_up_to_the_last_reward(row, counts):
    change = improvement(row, counts)
    kept = [value for value, here in zip(row, counts, strict=True) if here]
    assert np.nansum(change) == pytest.approx(kept[-1] if kept else 0, abs=1e-6)
    np.testing.assert_array_equal(np.isnan(change), ~np.array(counts))


@given(turns, st.sampled_from([0.5, 0.9, 1.0]))
def test_what_is_to_go_is_the_turn_and_what_is_to_go_after_it(row, gamma):
    ahead = to_go(row, gamma)
    np.testing.assert_allclose(ahead[:-1], np.array(row[:-1]) + gamma * ahead[1:], rtol=1e-5, atol=1e-6)
    assert ahead[-1] == np.float32(row[-1])


@given(turns, st.floats(-1, 1))
def test_a_constant_cancels_in_improvements_after_the_first_turn(row, constant):
    np.testing.assert_allclose(improvement(np.array(row) + constant)[1:], improvement(row)[1:], atol=1e-6)


@pytest.mark.parametrize("transform", [turn_rewards.improvement, turn_rewards.to_go])
def test_double_stays_double_and_a_flat_reward_is_refused(transform):
    with jax.enable_x64(True):
        assert transform(np.ones((1, 2))).dtype == np.float64
    with pytest.raises(ValueError, match=r"pass reward\[None\]"):
        transform(np.ones(3))


@pytest.mark.parametrize("gamma", [0.0, 1.1, -0.5])
def test_a_discount_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match="give a discount above 0 and at most 1"):
        turn_rewards.to_go(np.ones((1, 2)), gamma=gamma)
