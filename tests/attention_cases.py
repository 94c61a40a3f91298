"""Small problems for every way of attention, what is learned from them, and how near two ways must come."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_world

from editr2_jax.models import attention, flash
from editr2_jax.models.block_mask import InOrder
from editr2_jax.models.chunks import Chunks
from editr2_jax.models.execution import ATTENDED
from editr2_jax.models.splash import Splash

ROWS, TOKENS, HEADS, KV_HEADS, DIM = 2, 5, 4, 2, 8
KINDS = ("picture", "text", "dialogue")
VIEWS = {"two caches": ((8, 2), (4, 1)), "a variant without a cache": ((6, 1), (0, 1)), "no cache": ((0, 2),)}  # (slots, variants) of each
ENGINES = {"kernel": Splash(interpret=True), "chunks": Chunks(queries=3), "small tiles": Splash(queries=128, keys=128, interpret=True)}


def case(kind: str, views: str, seed: int, *, tokens: int = TOKENS, times: int = 1):
    """(q, k, v, caches), the block's mask, what the views see. Rows differ in length, text has holes; caches are `times` as long."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    r, caches = sum(n for _, n in VIEWS[views]), [(times * s, n) for s, n in VIEWS[views] if s]
    arrays = normal(ROWS, r, tokens, HEADS, DIM), normal(ROWS, r, tokens, KV_HEADS, DIM), normal(ROWS, r, tokens, KV_HEADS, DIM)
    place = rng.integers(0, tokens // 2 + 1, tokens)
    first = place == place.min() if kind == "dialogue" else np.arange(tokens) == 0  # what everybody sees is there
    valid = (rng.random((ROWS, r, tokens)) < 0.6) | first
    visible = tuple(rng.random((ROWS, n, s)) < 0.5 for s, n in caches)
    mask = {"picture": None, "text": InOrder(valid=valid), "dialogue": InOrder(valid=valid, place=place)}[kind]
    return (*arrays, tuple((normal(ROWS, KV_HEADS, s, DIM), normal(ROWS, KV_HEADS, s, DIM)) for s, _ in caches)), mask, visible


@functools.cache
def learner(way: str, layout=None):
    """(arrays, mask, visible) -> gradients of a number made of what attention gives, and what it gives."""

    def attend(*args):
        if way == "plain":
            return attention.attend(*args)
        return flash.attend(*args, engine=ENGINES[way], layout=layout, name=ATTENDED)

    def value(arrays, mask, visible):
        q, k, v, caches = arrays
        out = attend(q, k, v, mask, tuple((*pair, seen) for pair, seen in zip(caches, visible, strict=True)))
        return jnp.sum(jnp.sin(3 * out)), out

    return tiny_world.jit(jax.grad(value, has_aux=True))


def assert_equal(ours, theirs):
    """Outputs to 1e-5, gradients to 1e-4 of the largest."""
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (ours[0], theirs[0])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max()))
