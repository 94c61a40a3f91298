import golden_vectors as golden
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import trajectory_filter


def test_the_failed_turn_still_teaches_and_the_next_does_not():
    np.testing.assert_array_equal(trajectory_filter.learn_mask(jnp.array([[1.0, 0.0, 1.0]])), [[True, True, False]])


def test_no_verdict_is_not_a_failure_and_a_higher_floor_fails_more():
    np.testing.assert_array_equal(trajectory_filter.learn_mask(jnp.array([[np.nan, 0.25, 1.0]])), [[True, True, True]])
    np.testing.assert_array_equal(trajectory_filter.learn_mask(jnp.array([[np.nan, 0.25, 1.0]]), floor=0.25), [[True, True, False]])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, np.nan]), min_size=1, max_size=6))
def test_a_turn_never_comes_back(scores):
    mask = np.asarray(trajectory_filter.learn_mask(jnp.array([scores])))[0]
    assert mask[0] and np.all(mask[1:] <= mask[:-1])


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan]), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_floor_keeps_no_more(scores, a, b):
    low, high = (np.asarray(trajectory_filter.learn_mask(jnp.array([scores]), floor=floor)) for floor in sorted((a, b)))
    assert np.all(high <= low)


@pytest.mark.parametrize(("mode", "image", "text"), [("all", False, False), ("image", False, True), ("off", True, True)])
def test_modes_say_who_is_filtered(mode, image, text):
    image_mask, text_mask = trajectory_filter.masks(jnp.array([[0.0, 1.0]]), mode=mode)
    np.testing.assert_array_equal(image_mask, [[True, image]])
    np.testing.assert_array_equal(text_mask, [[True, text]])


def test_a_flat_score_or_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"pass score\[None\]"):
        trajectory_filter.learn_mask(jnp.ones(3))
    with pytest.raises(ValueError, match="choose one of all, image, off"):
        trajectory_filter.masks(jnp.ones((1, 3)), mode="text")


@golden.each("trajectory_filter")
def test_the_filter_matches_edit_r2(case, bits):
    for score, used, before, after, words in zip(
        *(case[name] for name in ("if_score", "used_to_learn", "advantage", "advantage_masked", "text_advantage")), strict=True
    ):
        image_mask, text_mask = trajectory_filter.masks(golden.put(score.T, bits), mode="image")  # recorded as (turns, rollouts)
        np.testing.assert_array_equal(image_mask.T, used.astype(bool))
        np.testing.assert_array_equal(np.where(image_mask.T, before, 0), after)
        np.testing.assert_array_equal(np.where(text_mask.T, before, 0), words)
