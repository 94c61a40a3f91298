import golden_vectors as golden
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import timesteps


def test_grids_by_hand():
    np.testing.assert_allclose(timesteps.shifted(5, 3.0), [1.0, 0.9, 0.75, 0.5, 0.0], atol=1e-7)
    # S(1/1000) at s = 3 is 3/1002; half way to it u = 0.501497, S(u) = 0.751122; S(3/1002) = 9/1008
    np.testing.assert_allclose(timesteps.static(4, 3.0), [1.0, 0.751122, 9 / 1008, 0.0], atol=1e-6)
    # at e^m = 3 the dynamic grid is the shifted one of u = 1, 1/2
    np.testing.assert_allclose(timesteps.dynamic(3, np.log(3.0)), [1.0, 0.75, 0.0], atol=1e-7)


def test_the_exponent_is_a_line_through_two_sizes():
    assert (timesteps.exponent(256), timesteps.exponent(4096)) == (0.5, 1.15)
    assert timesteps.exponent(2176) == pytest.approx(0.825)


@pytest.mark.parametrize("schedule", [timesteps.shifted, timesteps.static, lambda points, shift: timesteps.dynamic(points, np.log(shift))])
@given(st.integers(2, 60), st.floats(0.2, 8.0))
def test_the_grid_falls_from_exactly_one_to_exactly_zero(schedule, points, shift):
    grid = np.asarray(schedule(points, shift))
    assert grid.shape == (points,) and grid[0] == 1.0 and grid[-1] == 0.0
    assert np.all(np.diff(grid) < 0)


@given(st.integers(4, 60))
def test_a_larger_shift_spends_more_steps_in_noise(points):
    for schedule in (timesteps.shifted, timesteps.static, lambda points, shift: timesteps.dynamic(points, np.log(shift))):
        assert np.all(np.asarray(schedule(points, 3.0))[1:-2] > np.asarray(schedule(points, 1.0))[1:-2])


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_larger_pictures_spend_more_steps_in_noise(tokens):
    small, large = (np.asarray(timesteps.dynamic(12, timesteps.exponent(n))) for n in (tokens, 2 * tokens))
    assert np.all(large[1:-1] > small[1:-1])


def test_a_grid_without_steps_or_order_is_refused():
    for schedule in (timesteps.shifted, timesteps.static):
        for points, shift in ((1, 3.0), (15, 0.0), (15, -1.0)):
            with pytest.raises(ValueError, match="give"):
                schedule(points, shift)
    with pytest.raises(ValueError, match="give at least 2 points"):
        timesteps.dynamic(1, 0.5)


@golden.each("schedule", lambda case: "num_timesteps" in case.args)
def test_grid_matches_bagel(case, bits):
    grid = timesteps.shifted(case.args["num_timesteps"], case.args["timestep_shift"])
    golden.agree(grid[:-1], case, "t", bits)
    golden.agree(jnp.diff(grid), case, "dt", bits)


def _agrees(grid, case, bits) -> None:
    """A grid and, where they are recorded, the times in thousandths that a reference feeds to its network."""
    golden.agree(grid, case, "sigmas", bits)
    if "timesteps" in case:
        golden.agree(1000 * grid[:-1], case, "timesteps", bits)
    if "timestep_int" in case:  # cut off there, while our network gets the float; rounding may decide at a whole number
        lost = 1000 * np.asarray(grid[:-1], np.float64) - case["timestep_int"]
        assert lost.min() > -1e-3 and lost.max() < 1 + 1e-3


@golden.each("schedule", lambda case: "sampling_steps" in case.args)
def test_grid_matches_a_recipe_that_counts_steps(case, bits):
    _agrees(timesteps.shifted(case.args["sampling_steps"] + 1, case.args["shift"]), case, bits)


@golden.each("schedule", lambda case: "num_inference_steps" in case.args and "shift" in case.args)
def test_grid_matches_the_static_shift_of_diffusers(case, bits):
    _agrees(timesteps.static(case.args["num_inference_steps"] + 1, case.args["shift"]), case, bits)


@golden.each("schedule", lambda case: "image_seq_len" in case.args)
def test_grid_matches_the_dynamic_shift_of_diffusers(case, bits):
    args = case.args
    line = {"few": args["base_seq_len"], "many": args["max_seq_len"], "low": args["base_shift"], "high": args["max_shift"]}
    m = timesteps.exponent(args["image_seq_len"], **line)
    golden.agree(m, case, "mu", bits)
    _agrees(timesteps.dynamic(args["num_inference_steps"] + 1, m), case, bits)
