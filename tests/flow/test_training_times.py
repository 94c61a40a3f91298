import jax
import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.flow import timesteps, training_times

GRID = timesteps.shifted(9, 3.0)
KEYS = jax.random.split(jax.random.key(0), 2000)


def drawn(times: str, count: int, shift: float = 3.0) -> np.ndarray:
    return np.asarray(training_times.draw(KEYS, GRID, count=count, times=times, shift=shift))


def test_times_of_the_grid_are_its_own_and_none_comes_twice():
    times = drawn("grid", 3)
    assert set(times.ravel()) == set(np.asarray(GRID[:-1])), "every start of a step, t = 1 too, and never the picture itself"
    assert all(len(set(row)) == 3 for row in times)


def test_every_step_of_the_grid_is_equally_likely():
    counts = np.unique(drawn("grid", 2), return_counts=True)[1] / 4000
    np.testing.assert_allclose(counts, 1 / 8, atol=0.02)


@pytest.mark.parametrize("times", training_times.TIMES)
def test_defect_20_a_shift_moves_training_times_to_the_noise_as_it_moves_the_sampler_s(times):
    """Flow-Factory's mean at shift 3 is 0.29. Here it is the sampler's, 1.5 - 0.75 log 3 for a continuous draw."""
    mean = drawn(times, 2).mean()
    np.testing.assert_allclose(mean, np.asarray(GRID[:-1]).mean() if times == "grid" else 1.5 - 0.75 * np.log(3), atol=0.02)


def test_defect_21_every_part_of_the_path_is_drawn():
    """Flow-Factory never draws the last part: here each of four parts gets one of four times."""
    u = np.sort(drawn("continuous", 4, shift=1.0), axis=1)
    np.testing.assert_array_equal(np.floor(u * 4), np.broadcast_to(np.arange(4), u.shape))
    assert u.max() > 0.999


def test_a_row_s_times_are_its_key_s():
    np.testing.assert_array_equal(drawn("grid", 2)[5], training_times.draw(KEYS[5:6], GRID, count=2, times="grid", shift=3.0)[0])


@pytest.mark.parametrize(("times", "count"), [("late", 1), ("grid", 9), ("continuous", 0)])
def test_what_cannot_be_drawn_is_refused(times, count):
    with pytest.raises(ValueError, match="choose one of"):
        training_times.draw(KEYS[:1], jnp.asarray(GRID), count=count, times=times, shift=3.0)
