"""The TPU's attention kernel, interpreted here, against the plain products: values and gradients, blocks, whole decoders.

That it compiles for TPUs at the real sizes, and what it then takes, is tested in tests/plan.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from editr2_jax.models import attention, splash
from editr2_jax.models.attention import Causal
from editr2_jax.models.execution import Execution

ROWS, VARIANTS, TOKENS, HEADS, KV, DIM = 2, 3, 21, 4, 2, 32
SLOTS, FEW = 40, 9


def _numbers(seed: int):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    block = normal(ROWS, VARIANTS, TOKENS, HEADS, DIM), *(normal(ROWS, VARIANTS, TOKENS, KV, DIM) for _ in range(2))
    cache = lambda slots, variants, share: (  # noqa: E731
        normal(ROWS, KV, slots, DIM), normal(ROWS, KV, slots, DIM), jnp.asarray(rng.random((ROWS, variants, slots)) < share)
    )  # fmt: skip
    return block, cache, normal(ROWS, VARIANTS, TOKENS, HEADS * DIM)


@functools.partial(jax.jit, static_argnames="kind")
def _learned(kind, block, mask, views, weight):
    """Outputs where they mean something, and the gradients of a weighted sum of them."""

    def loss(q, k, v):
        out = attention.attend(q, k, v, mask, views, run=Execution(attention=kind))
        if mask is not None:
            out = jnp.where(mask.valid[..., None], out, 0.0)
        return jnp.sum(out * weight), out

    (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*block)
    return out, gradients


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.4, 1.0]), real=st.integers(1, TOKENS), kind=st.sampled_from(["seen", "text"]))
def test_the_kernel_gives_what_the_plain_products_give(seed, share, real, kind):
    block, cache, weight = _numbers(seed)
    mask = Causal(jnp.broadcast_to(jnp.arange(TOKENS) < real, (ROWS, VARIANTS, TOKENS))) if kind == "text" else None
    views = (cache(SLOTS, 2, share), cache(FEW, 1, share))
    (out, gradients), (expected, plain) = (_learned(how, block, mask, views, weight) for how in ("interpreted", "plain"))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for ours, theirs in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max() + 1))


@pytest.mark.slow
@pytest.mark.parametrize("seen", [0, 2])
def test_variants_without_a_cache_attend_to_themselves(seen):
    block, cache, weight = _numbers(1)
    views = (cache(SLOTS, seen, 0.5),) if seen else ()
    (out, _), (expected, _) = (_learned(how, block, None, views, weight) for how in ("interpreted", "plain"))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_block_of_queries_pads_as_little_as_it_can():
    assert splash.block_of(1026) == 1152  # a picture of 512 pixels: 1024 latents and two markers, in one block
    assert splash.block_of(128) == 128 and splash.block_of(150) == 256
    assert all(-(-tokens // splash.block_of(tokens)) * splash.block_of(tokens) < tokens + 192 for tokens in range(300, 2000))


def test_an_arbitrary_mask_is_refused():
    block, cache, _ = _numbers(0)
    with pytest.raises(ValueError, match="no place for an arbitrary mask; run this with attention=plain"):
        attention.attend(*block, jnp.ones((ROWS, VARIANTS, TOKENS, TOKENS), bool), (), run=Execution(attention="kernel"))


def test_the_kernel_is_taken_on_a_tpu_for_blocks_worth_it():
    assert Execution(platform="tpu").attends_by_kernel(1026) and not Execution(platform="tpu").attends_by_kernel(1)
    assert not Execution(platform="gpu").attends_by_kernel(1026) and not Execution().attends_by_kernel(1026)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "attention"])
def test_a_whole_decoder_learns_the_same_through_the_kernel(remat):
    rng = np.random.default_rng(0)
    width = tiny_world.world_model().config.decoder.width
    und = jnp.asarray(rng.normal(size=(ROWS, 2, 2, width)), jnp.float32)
    gen = jnp.asarray(rng.normal(size=(ROWS, 2, 6, width)), jnp.float32)
    place = jnp.zeros((ROWS, 2, 8), jnp.int32)

    def learn(model, gen):
        def loss(gen):
            out, drawn, _ = model.decoder.block(und, gen, positions=place)
            return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.sin(drawn))

        return jax.value_and_grad(loss)(gen)

    kernel = nnx.clone(tiny_world.world_model())
    kernel.decoder.execution = Execution(attention="interpreted", remat=remat)
    plain, ours = (tiny_world.compiled(learn, model)(gen) for model in (None, kernel))
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], plain[1], atol=1e-4)
