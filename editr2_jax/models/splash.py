"""Attention on a TPU without scores in memory: splash attention over a cache and a block of new tokens.

Letters as in attention.py: B rows, R variants, T tokens of the block, S cache slots, H query heads, K key-value heads, d head width.

One call per row and variant, over keys [cache | block of variant 0 | block of variant 1 ...]: they are put side by side once per layer and
row, and shared by the variants, which differ in two small arrays. A segment id per key says whether the variant sees it, so a cache is
never copied for a branch; an end per query, the last key that it may see, makes text causal. No mask is ever materialised.
The kernel gives key gradients for the cache too, which nobody asks for: a ninth of an update's work. Source of the kernel:
jax.experimental.pallas.ops.tpu.splash_attention.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as mask_info
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models.execution import ATTENDED, Execution

_QUERIES = (1152, 1024, 768, 640, 512, 384, 256, 128)  # block lengths tried, the largest first; more do not fit the fast memory
_KEYS = 512


def block_of(tokens: int) -> int:
    """The length of a block of queries that pads `tokens` least; of several, the longest: keys are read once for each block."""
    return min(_QUERIES, key=lambda size: (-(-tokens // size) * size, -size))


def attend(
    q: Float[Array, "B R T H d"],
    k: Float[Array, "B R T K d"],
    v: Float[Array, "B R T K d"],
    valid: Bool[Array, "B R T"] | None,
    views: tuple[tuple[Float[Array, "B K S d"], Float[Array, "B K S d"], Bool[Array, "B Rv S"]], ...],
    run: Execution,
) -> Float[Array, "B R T H*d"]:
    """As attention.attend. `valid`: of a causal block, which tokens are real; None where all tokens of the block see all."""
    b, r, t, h, d = q.shape
    outs, first = [], 0
    for keys, values, visible in views + _blind(views, k):
        part = slice(first, first + visible.shape[1])
        first = part.stop
        real = None if valid is None else valid[:, part]
        outs.append(_one_view(q[:, part], k[:, part], v[:, part], real, keys, values, visible, run))
    return jnp.concatenate(outs, axis=1).reshape(b, r, t, h * d)


def _blind(views: tuple, k: Array) -> tuple:
    """An empty cache for the variants that look at none."""
    b, r, _, kv, d = k.shape
    rest = r - sum(visible.shape[1] for *_, visible in views)
    nothing = jnp.zeros((b, kv, 0, d), k.dtype)
    return ((nothing, nothing, jnp.zeros((b, rest, 0), bool)),) if rest else ()


def _one_view(q, k, v, valid, keys, values, visible, run: Execution) -> Float[Array, "B R T H d"]:
    """The variants that look at one cache."""
    b, r, t, _, d = q.shape
    slots, block = keys.shape[2], block_of(t)
    queries, total = -(-t // block) * block, -(-(slots + r * t) // _KEYS) * _KEYS
    own = lambda x: x.transpose(0, 3, 1, 2, 4).reshape(b, x.shape[3], r * t, d)  # noqa: E731
    fill = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, total - slots - r * t), (0, 0)))  # noqa: E731
    all_keys, all_values = (fill(jnp.concatenate([old, own(new).astype(old.dtype)], axis=2)) for old, new in ((keys, k), (values, v)))
    variant = jnp.arange(r)
    mine = jnp.broadcast_to(jnp.eye(r, dtype=bool)[None, :, :, None], (b, r, r, t)).reshape(b, r, r * t)  # a variant's own block
    if valid is not None:
        mine = mine & jnp.tile(valid, (1, 1, r))
    segments = jnp.pad(jnp.concatenate([visible, mine], axis=2), ((0, 0), (0, 0), (0, total - slots - r * t))).astype(jnp.int32)
    last = jnp.arange(queries) if valid is not None else jnp.full(queries, t - 1)
    ends = (slots + variant[:, None] * t + jnp.minimum(last, t - 1)).astype(jnp.int32)  # [R, Tq]
    scaled = jnp.pad(q * jnp.asarray(d**-0.5, q.dtype), ((0, 0), (0, 0), (0, queries - t), (0, 0), (0, 0))).transpose(0, 1, 3, 2, 4)
    out = _mapped(run, block)(scaled, all_keys, all_values, ends, segments)  # [B, R, H, Tq, d]
    return out[:, :, :, :t].transpose(0, 1, 3, 2, 4).astype(values.dtype)


def _mapped(run: Execution, block: int):
    """The kernel over rows and variants; on a mesh, on each device over its own rows and heads."""
    one = functools.partial(_kernel, block=block, interpret=run.attention == "interpreted")
    over_variants = jax.vmap(one, in_axes=(0, None, None, 0, 0))  # keys and values are the same for all variants of a view
    over_rows = jax.vmap(over_variants, in_axes=(0, 0, 0, None, 0))
    if run.layout is None:
        return over_rows

    def on_mesh(q, k, v, ends, segments):
        layout = run.layout
        rows, heads = layout.axes("batch") or None, layout.axes("heads") or None
        if q.shape[0] % layout.parts("batch"):
            rows = None  # a few rows, whole on every device
        queries, keys = PartitionSpec(rows, None, heads), PartitionSpec(rows, heads)
        places = (queries, keys, keys, PartitionSpec(), PartitionSpec(rows))
        return jax.shard_map(over_rows, mesh=layout.mesh, in_specs=places, out_specs=queries, check_vma=False)(q, k, v, ends, segments)

    return on_mesh


def _kernel(
    q: Float[Array, "H Tq d"],
    k: Float[Array, "K Sk d"],
    v: Float[Array, "K Sk d"],
    ends: Int[Array, "Tq"],
    segments: Int[Array, "Sk"],
    *,
    block: int,
    interpret: bool,
) -> Float[Array, "H Tq d"]:
    """One row and variant: query i sees the keys of segment 1 up to number ends[i]."""
    info = mask_info.MaskInfo(None, None, None, None, ends)  # no block is left out: what is seen is only known when it runs
    forward = {"block_q": block, "block_kv": _KEYS, "block_kv_compute": _KEYS}
    backward = {"block_q_dkv": block, "block_kv_dkv": _KEYS, "block_kv_dkv_compute": _KEYS, "block_q_dq": block, "block_kv_dq": _KEYS}
    attention = kernels.SplashAttentionKernel(
        info,
        info,
        info,
        block_sizes=kernels.BlockSizes(**forward, **backward),
        is_mqa=False,
        save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=ATTENDED,
        mask_function=_up_to,
        interpret=interpret,
    )
    return attention(q, k, v, segment_ids=kernels.SegmentIds(jnp.ones(q.shape[1], jnp.int32), segments))


def _up_to(end: Array, key: Array) -> Array:
    return end >= key
