import golden_vectors as golden
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import timesteps


def test_five_points_by_hand():
    np.testing.assert_allclose(timesteps.shifted(5, 3.0), [1.0, 0.9, 0.75, 0.5, 0.0], atol=1e-7)


@given(st.integers(2, 60), st.floats(0.2, 8.0))
def test_the_grid_falls_from_exactly_one_to_exactly_zero(points, shift):
    grid = np.asarray(timesteps.shifted(points, shift))
    assert grid.shape == (points,) and grid[0] == 1.0 and grid[-1] == 0.0
    assert np.all(np.diff(grid) < 0)


@given(st.integers(3, 60))
def test_a_larger_shift_spends_more_steps_in_noise(points):
    assert np.all(np.asarray(timesteps.shifted(points, 3.0))[1:-1] > np.asarray(timesteps.shifted(points, 1.0))[1:-1])


@pytest.mark.parametrize(("points", "shift"), [(1, 3.0), (15, 0.0), (15, -1.0)])
def test_a_grid_without_steps_or_order_is_refused(points, shift):
    with pytest.raises(ValueError, match="give"):
        timesteps.shifted(points, shift)


@golden.each("schedule", lambda case: "num_timesteps" in case.args)
def test_grid_matches_bagel(case, bits):
    grid = timesteps.shifted(case.args["num_timesteps"], case.args["timestep_shift"])
    golden.agree(grid[:-1], case, "t", bits)
    golden.agree(jnp.diff(grid), case, "dt", bits)


@golden.each("schedule", lambda case: "sampling_steps" in case.args)
def test_grid_matches_a_recipe_that_counts_steps(case, bits):
    golden.agree(timesteps.shifted(case.args["sampling_steps"] + 1, case.args["shift"]), case, "sigmas", bits)
