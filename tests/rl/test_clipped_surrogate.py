import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import clipped_surrogate


def loss_of(log_prob, advantage, **options):
    options = {"clip_low": 0.2, "clip_high": 0.3} | options
    return clipped_surrogate.surrogate(jnp.array(log_prob), jnp.zeros(len(log_prob)), jnp.array(advantage), **options)


def test_the_four_corners_by_hand():
    out = loss_of(np.log([2.0, 2.0, 0.5, 0.5]), [1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(out.loss, [-1.3, 2.0, -0.5, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(out.above, [True, True, False, False])
    np.testing.assert_array_equal(out.below, [False, False, True, True])


@given(st.floats(-3, 3), st.floats(-8, 8))
def test_the_loss_never_promises_more_than_the_plain_ratio(log_ratio, advantage):
    out = loss_of([log_ratio], [advantage])
    assert out.loss[0] >= -advantage * out.ratio[0] - 1e-5


@given(st.floats(-8, 8, width=32, allow_subnormal=False))
def test_on_policy_the_gradient_is_minus_the_advantage(advantage):
    gradient = jax.grad(lambda log_prob: loss_of(log_prob, [advantage], advantage_clip=5.0).loss.sum())(jnp.zeros(1))
    np.testing.assert_allclose(gradient[0], -np.clip(advantage, -5, 5), rtol=1e-6, atol=1e-30)


def test_a_masked_action_is_not_looked_at():
    def total(log_prob):
        out = loss_of(log_prob, [1.0, 1.0], mask=jnp.array([True, False]))
        return out.loss.sum(), out

    (value, out), gradient = jax.value_and_grad(total, has_aux=True)(jnp.array([0.0, np.nan]))
    assert value == -1 and out.ratio[1] == 1 and not out.above[1] and not out.below[1]
    np.testing.assert_array_equal(gradient, [-1.0, 0.0])


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [500.0, -500.0])
def test_an_absurd_ratio_stays_finite(advantage, log_ratio):
    value, gradient = jax.value_and_grad(lambda log_prob: loss_of(log_prob, [advantage]).loss.sum())(jnp.array([log_ratio]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_one_advantage_serves_a_whole_row():
    out = clipped_surrogate.surrogate(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.array([1.0, -2.0]), clip_low=0.1, clip_high=0.1)
    np.testing.assert_array_equal(out.loss, [[-1.0] * 3, [2.0] * 3])


def test_shapes_that_would_broadcast_into_each_other_are_refused():
    with pytest.raises(ValueError, match="leading axes"):
        clipped_surrogate.surrogate(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros(3), clip_low=0.1, clip_high=0.1)
    with pytest.raises(ValueError, match="leading axes"):
        clipped_surrogate.surrogate(jnp.zeros((2, 3)), jnp.zeros((2, 1)), jnp.zeros(2), clip_low=0.1, clip_high=0.1)


def test_the_dual_clip_bounds_a_bad_action_that_has_become_likely():
    plain, bounded = (loss_of(np.log([5.0, 5.0]), [-1.0, 1.0], dual_clip=c).loss for c in (None, 3.0))
    np.testing.assert_allclose(plain, [5.0, -1.3], rtol=1e-6)
    np.testing.assert_allclose(bounded, [3.0, -1.3], rtol=1e-6)
    with pytest.raises(ValueError, match="greater than 1"):
        loss_of([0.0], [1.0], dual_clip=1.0)
