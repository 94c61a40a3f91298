import golden_vectors as golden
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import rectified_flow

times = st.floats(0.0, 1.0, width=32)


def pair(seed: int):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(size=(2, 3, 4)), jnp.float32), jnp.asarray(draw.normal(size=(2, 3, 4)), jnp.float32)


def test_the_path_by_hand():
    clean, noise = jnp.array([[2.0]]), jnp.array([[10.0]])
    assert rectified_flow.interpolate(clean, noise, 0.25)[0, 0] == 4.0
    assert rectified_flow.velocity(clean, noise)[0, 0] == 8.0
    assert rectified_flow.euler(jnp.array([[4.0]]), jnp.array([[8.0]]), 0.25, 0.0)[0, 0] == 2.0


@given(st.integers(0, 99), times)
def test_velocity_leads_back_to_both_ends(seed, t):
    clean, noise = pair(seed)
    x, v = rectified_flow.interpolate(clean, noise, t), rectified_flow.velocity(clean, noise)
    np.testing.assert_allclose(rectified_flow.clean_from(x, v, t), clean, atol=2e-6)
    np.testing.assert_allclose(rectified_flow.noise_from(x, v, t), noise, atol=2e-6)


@given(st.integers(0, 99), times, times)
def test_euler_is_exact_on_a_straight_path(seed, t, t_next):
    clean, noise = pair(seed)
    x = rectified_flow.interpolate(clean, noise, t)
    there = rectified_flow.euler(x, rectified_flow.velocity(clean, noise), t, t_next)
    np.testing.assert_allclose(there, rectified_flow.interpolate(clean, noise, t_next), atol=2e-6)


def test_one_time_per_row_is_a_row_at_a_time():
    clean, noise = pair(0)
    t = jnp.array([0.3, 0.9])
    together = rectified_flow.interpolate(clean, noise, t)
    for row in range(2):
        alone = rectified_flow.interpolate(clean[row][None], noise[row][None], float(t[row]))[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-6)


def test_times_that_are_not_rows_are_refused():
    clean, noise = pair(0)
    with pytest.raises(ValueError, match="one value per row"):
        rectified_flow.interpolate(clean, noise, jnp.ones(4))


def test_half_precision_inputs_are_computed_in_float32():
    half = jnp.ones((1, 2), jnp.bfloat16)
    assert rectified_flow.euler(half, half, 0.5, 0.25).dtype == jnp.float32


@golden.each("step_ode")
def test_euler_matches(case, bits):
    grid, step = golden.put(case["sigmas"], bits), case.args["step_index"]
    ours = rectified_flow.euler(golden.put(case["x"], bits), golden.put(case["v"], bits), grid[step], grid[step + 1])
    golden.agree(ours, case, "mean", bits)
    golden.agree(ours, case, "next", bits)
