import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import sde_window


def test_the_mask_by_hand():
    np.testing.assert_array_equal(sde_window.mask(1, 2, 4), [False, True, True, False])
    np.testing.assert_array_equal(sde_window.mask(jnp.array([0, 2]), 2, 4), [[True, True, False, False], [False, False, True, True]])
    assert not sde_window.mask(1, 0, 4).any()


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 6), st.integers(0, 99))
def test_the_window_stays_in_its_range(first, size, slack, seed):
    last = first + size + slack
    start = int(sde_window.draw(jax.random.key(seed), first, last, size))
    chosen = np.flatnonzero(sde_window.mask(start, size, last + 3))
    assert len(chosen) == size and chosen[0] >= first and chosen[-1] < last


def test_every_start_is_drawn_about_equally_often_both_ends_included():
    starts = np.asarray(sde_window.draw(jax.random.key(0), 0, 7, 2, shape=(6000,)))
    values, counts = np.unique(starts, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(6))
    assert counts.min() > 850 and counts.max() < 1150


def test_a_new_key_moves_the_window():
    assert len({int(sde_window.draw(jax.random.key(step), 0, 7, 2)) for step in range(30)}) == 6


@pytest.mark.parametrize(("first", "last", "size"), [(0, 1, 2), (-1, 7, 2), (0, 7, 0)])
def test_a_range_too_small_is_refused(first, last, size):
    with pytest.raises(ValueError, match="no window"):
        sde_window.draw(jax.random.key(0), first, last, size)


@golden.each("window", lambda case: "window_range" in case.args)
def test_our_starts_have_the_references_support(case, bits):
    """Edit-R2 keeps one window per rank; only the set of possible starts is worth keeping."""
    (first, last), size = case.args["window_range"], case.args["window_size"]
    ours = set(np.asarray(sde_window.draw(jax.random.key(0), first, last, size, shape=(2000,))).tolist())
    assert set(case["start"].tolist()) <= ours == set(range(first, last - size + 1))
