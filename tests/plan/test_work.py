"""FLOPs that are executed, counted in programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from editr2_jax.plan import work

X, W = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
LAYER = 2 * 4 * 8 * 8


def _layers(x, w):
    return jax.lax.scan(jax.checkpoint(lambda h, one: (jnp.tanh(h @ one), None)), x, w)[0].sum()


@pytest.mark.parametrize(("function", "layers"), [(_layers, 5), (jax.grad(_layers), 15)], ids=["forward", "with the way back"])
def test_a_scan_counts_every_layer_and_what_is_computed_again(function, layers):
    assert work.flops(jax.jit(function).trace(X, W).jaxpr, 1) == layers * LAYER


def test_devices_share_the_work():
    assert work.flops(jax.jit(_layers).trace(X, W).jaxpr, 4) == 5 * LAYER / 4


def test_a_loop_that_may_stop_early_counts_to_its_limit_and_a_branch_as_its_dearest_side():
    def loop(x):
        body = lambda state: (state[0] + 1, jax.lax.cond(state[0] > 2, lambda y: y @ y @ y, lambda y: y, state[1]))  # noqa: E731
        return jax.lax.while_loop(lambda state: (state[0] < 7) & (state[1].sum() > 0), body, (0, x))

    assert work.flops(jax.jit(loop).trace(jnp.ones((3, 3))).jaxpr, 1) == 7 * 2 * 2 * 27


def test_a_convolution_counts_its_window():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    traced = jax.jit(convolve).trace(jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 5)))
    assert work.flops(traced.jaxpr, 1) == 2 * 2 * 36 * 5 * 9 * 3
