"""Grouped-query attention over a cache and a block of new tokens; rotary positions; root-mean-square norm.

Letters: B rows, R variants of the new block per row (guidance branches, or turns), T tokens of the block, S cache slots,
H query heads, K key-value heads, G = H / K query heads per key-value head, d head width.

A variant differs from its neighbours in what it may see of the cache, never in the cache itself: the branch without the instruction is a
mask, not a copy. Scores against the cache and against the block are computed apart and share one softmax, so keys are never concatenated.

There are three ways to the same numbers: `plain` holds all scores; `kernel` (splash.py, on TPUs) and `chunks` (anywhere) hold some at a
time (flash.py). `way` chooses, from shapes alone.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models import block_mask, flash
from editr2_jax.models.block_mask import BlockMask
from editr2_jax.models.chunks import Chunks
from editr2_jax.models.execution import ATTENDED, HERE, Execution
from editr2_jax.models.pieces import in_pieces

_CACHE_BYTES = 1 << 20  # scores that a CPU core keeps close: going through the rows in pieces of this size halves the time on a laptop
_MASKED = -1e30  # finite: a row whose keys are all masked gives a mean, not NaN; such rows are padding
_KERNEL_TOKENS = 64  # of a block: shorter ones leave the kernel's tiles empty, and their scores are small
_SCORES_BYTES = 1 << 28  # of float32 scores on one device: more are not held at once where memory is an accelerator's


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


def way(run: Execution, mask: BlockMask, *, shape: tuple[int, int, int, int], slots: tuple[int, ...]) -> str:
    """How a block of this shape (B, R, T, H) attends to itself and to caches of these sizes: plain, chunks, kernel or interpreted.

    Raises ValueError where the kernel is asked for and the mask is a dense array.
    """
    *_, t, h = shape
    asked, device = run.attention, run.on
    if not (mask is None or isinstance(mask, block_mask.InOrder)):
        if asked in ("kernel", "interpreted"):
            raise ValueError(f"attention={asked!r} takes no dense mask; say who sees whom by models/block_mask.InOrder, or choose 'plain'.")
        return "plain"
    if asked == "interpreted":
        return asked
    held = 4 * math.prod(shape) * (t + max(slots, default=0))
    if run.layout is not None:
        held //= math.gcd(shape[0], run.layout.parts("batch")) * math.gcd(h, run.layout.parts("heads"))
    large = held > _SCORES_BYTES
    if (asked == "kernel" or (asked == "auto" and device == "tpu")) and (t >= _KERNEL_TOKENS or large):
        return "kernel"
    cut = run.layout is not None and run.layout.parts("sequence") > 1 and bool(slots)
    return "chunks" if cut or (asked == "auto" and device != "cpu" and large) else "plain"


def attend(
    q: Float[Array, "B R T H d"],
    k: Float[Array, "B R T K d"],
    v: Float[Array, "B R T K d"],
    mask: BlockMask,
    views: tuple[tuple[Float[Array, "B K S d"], Float[Array, "B K S d"], Bool[Array, "B Rv S"]], ...],
    run: Execution = HERE,
) -> Float[Array, "B R T H*d"]:
    """Attention of every new token to its block and, through a view, to a cache. Softmax in float32.

    views: (keys, values, visible) per cache, in the order of the variants they serve; the Rv add up to R. Without views, or for variants
    beyond them, the block attends to itself alone. What a token without anything to see gives is a number, and means nothing.
    """
    slots = tuple(keys.shape[2] for keys, *_ in views)
    chosen = way(run, mask, shape=q.shape[:4], slots=slots)
    if chosen != "plain":
        engine = _chunks(q, k, slots, run) if chosen == "chunks" else _kernel(run, interpret=chosen == "interpreted")
        return flash.attend(q, k, v, mask, views, engine=engine, layout=run.layout, name=ATTENDED)
    mask = block_mask.dense(mask, *q.shape[:3])
    row_bytes = 4 * q.shape[1] * q.shape[2] * q.shape[3] * (k.shape[2] + max(slots, default=0))
    out = in_pieces(lambda xs: _attend(*xs), (q, k, v, mask, views), at_once=max(1, _CACHE_BYTES // row_bytes), run=run)
    return checkpoint_name(out, ATTENDED)


def _kernel(run: Execution, *, interpret: bool) -> flash.Engine:
    from editr2_jax.models.splash import Splash  # loads Pallas, which only those who use it pay for

    return Splash(queries=run.tiles[0], keys=run.tiles[1], interpret=interpret)


def _chunks(q: Array, k: Array, slots: tuple[int, ...], run: Execution) -> Chunks:
    """As many queries at a time as keep the scores in bounds; of a folded head, see flash.py."""
    b, r, t, h, _ = q.shape
    rows = b * r * k.shape[3] // (1 if run.layout is None else math.gcd(b, run.layout.parts("batch")))
    at_once = _SCORES_BYTES // (4 * rows * max((t, *slots)))
    return Chunks(queries=max(8, min(t * h // k.shape[3], at_once // 8 * 8)))


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
