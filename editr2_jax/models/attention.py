"""Grouped-query attention over a cache and a block of new tokens; rotary positions; root-mean-square norm.

Letters: B rows, R variants of the new block per row (guidance branches, or turns), T tokens of the block, S cache slots,
H query heads, K key-value heads, G = H / K query heads per key-value head, d head width.

A variant differs from its neighbours in what it may see of the cache, never in the cache itself: the branch without the instruction is a
mask, not a copy. Scores against the cache and against the block are computed apart and share one softmax, so keys are never concatenated.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models import splash
from editr2_jax.models.execution import HERE, Execution
from editr2_jax.models.pieces import in_pieces

_CACHE_BYTES = 1 << 20  # scores that a CPU core keeps close: going through the rows in pieces of this size halves the time on a laptop
_MASKED = -1e30  # finite: a row whose keys are all masked gives a mean, not NaN; such rows are padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Causal:
    """A text segment: a token sees itself and the real ones before it."""

    valid: Bool[Array, "B R T"]  # False for padding


Mask = Causal | Bool[Array, "B R T T"] | None  # None: all tokens of a block see all; an array says which (last axis) a token sees


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, "D"], eps: float) -> Float[Array, "*B D"]:
    """x / rms(x) in float32, cast back, then scaled (the order of Qwen2's norm)."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return y.astype(x.dtype) * scale.astype(x.dtype)


def rotary_table(positions: Int[Array, "*B"], head_dim: int, theta: float) -> tuple[Float[Array, "*B d/2"], Float[Array, "*B d/2"]]:
    """Cosines and sines of position * theta^(-2i/d), i = 0..d/2-1."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "*B T H d"], cos: Float[Array, "*B T d/2"], sin: Float[Array, "*B T d/2"]) -> Float[Array, "*B T H d"]:
    """Half-split rotary embedding: channel i is paired with channel i + d/2."""
    a, b = jnp.split(x, 2, axis=-1)
    c, s = cos[..., None, :].astype(x.dtype), sin[..., None, :].astype(x.dtype)
    return jnp.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def attend(
    q: Float[Array, "B R T H d"],
    k: Float[Array, "B R T K d"],
    v: Float[Array, "B R T K d"],
    mask: Mask,
    views: tuple[tuple[Float[Array, "B K S d"], Float[Array, "B K S d"], Bool[Array, "B Rv S"]], ...],
    *,
    run: Execution = HERE,
) -> Float[Array, "B R T H*d"]:
    """Attention of every new token to its block and, through a view, to a cache.

    mask: who sees whom in the block (see `Mask`).
    views: (keys, values, visible) per cache, in the order of the variants they serve; the Rv add up to R. Without views, or for variants
    beyond them, the block attends to itself alone. Softmax in float32.
    """
    if run.attends_by_kernel(q.shape[2]):
        if isinstance(mask, jax.Array):
            raise ValueError("the attention kernel has no place for an arbitrary mask; run this with attention=plain.")
        return splash.attend(q, k, v, None if mask is None else mask.valid, views, run)
    block_mask = dense(mask, k.shape[:3])
    row_bytes = 4 * q.shape[1] * q.shape[2] * q.shape[3] * (k.shape[2] + max((keys.shape[2] for keys, *_ in views), default=0))
    return in_pieces(lambda xs: _attend(*xs), (q, k, v, block_mask, views), at_once=max(1, _CACHE_BYTES // row_bytes), run=run)


def dense(mask: Mask, shape: tuple[int, int, int]) -> Bool[Array, "B R T T"]:
    """A mask spelt out, for a block of this shape [B, R, T]."""
    if isinstance(mask, Causal):
        return jnp.tril(jnp.ones((shape[2],) * 2, bool)) & mask.valid[:, :, None, :]
    return jnp.ones((*shape, shape[2]), bool) if mask is None else mask


def weights(
    q: Float[Array, "B R T H d"],
    k: Float[Array, "B R T K d"],
    block_mask: Bool[Array, "B R T T"],
    view: tuple[Float[Array, "B K S d"], Float[Array, "B K S d"], Bool[Array, "B R S"]],
) -> Float[Array, "B R H T S+T"]:
    """What `attend` mixes values by, where all variants look at one cache: shares of its slots, then of the block; they add up to 1."""
    keys, values, visible = view
    q, k = _by_head(q, k.shape[3]), k.transpose(0, 3, 1, 2, 4)
    mixed = _softmax(q, k, block_mask, keys, visible, values.dtype)  # [B, K, R, T, G, S+T]
    b, kv, r, t, g, slots = mixed.shape
    return mixed.transpose(0, 2, 1, 4, 3, 5).reshape(b, r, kv * g, t, slots)


def _attend(q: Array, k: Array, v: Array, block_mask: Array, views: tuple) -> Array:
    b, r, t, h, d = q.shape
    kv = k.shape[3]
    g = h // kv
    q = _by_head(q, kv)
    k, v = k.transpose(0, 3, 1, 2, 4), v.transpose(0, 3, 1, 2, 4)  # [B, K, R, T, d]
    outs, first = [], 0
    for keys, values, visible in views:
        rv, s = visible.shape[1:]
        part = slice(first, first + rv)
        first += rv
        mixed = _softmax(q[:, :, part], k[:, :, part], block_mask[:, part], keys, visible, values.dtype)
        seen = jnp.einsum("bkxs,bksd->bkxd", mixed[..., :s].reshape(b, kv, rv * t * g, s), values).reshape(b, kv, rv, t, g, d)
        outs.append(seen + jnp.einsum("bkrtgu,bkrud->bkrtgd", mixed[..., s:], v[:, :, part]))
    if first < r:
        part = slice(first, r)
        mixed = jax.nn.softmax(_block_scores(q[:, :, part], k[:, :, part], block_mask[:, part]), axis=-1).astype(v.dtype)
        outs.append(jnp.einsum("bkrtgu,bkrud->bkrtgd", mixed, v[:, :, part]))
    out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=2)
    return out.transpose(0, 2, 3, 1, 4, 5).reshape(b, r, t, h * d)


def _by_head(q: Array, kv: int) -> Array:
    """Queries scaled, next to the key-value head that they share: [B, K, R, T, G, d]."""
    b, r, t, h, d = q.shape
    return (q.reshape(b, r, t, kv, h // kv, d) * jnp.asarray(d**-0.5, q.dtype)).transpose(0, 3, 1, 2, 4, 5)


def _softmax(q: Array, k: Array, block_mask: Array, keys: Array, visible: Array, dtype) -> Array:
    """Over a cache and the block at once: [B, K, R, T, G, S+T]."""
    b, kv, r, t, g, d = q.shape
    to_cache = jnp.einsum("bkxd,bksd->bkxs", q.reshape(b, kv, r * t * g, d), keys).reshape(b, kv, r, t, g, keys.shape[2])
    to_cache = jnp.where(visible[:, None, :, None, None, :], to_cache.astype(jnp.float32), _MASKED)
    return jax.nn.softmax(jnp.concatenate([to_cache, _block_scores(q, k, block_mask)], axis=-1), axis=-1).astype(dtype)


def _block_scores(q, k, mask):
    scores = jnp.einsum("bkrtgd,bkrud->bkrtgu", q, k).astype(jnp.float32)
    return jnp.where(mask[:, None, :, :, None, :], scores, _MASKED)
