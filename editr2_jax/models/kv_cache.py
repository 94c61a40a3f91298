"""The key-value cache of a batch of dialogues. Letters: N layers, B rows, S slots, K key-value heads, d head width, T new tokens.

All rows share one cursor: a segment takes the same slots in every row, and what a row does not fill is a hole that `valid` masks. So a
write is one contiguous update whatever the rows' own lengths are, and every shape is static. Rotary positions count real tokens only and
are kept per row.

On a mesh the slots may be cut over the sequence axis (`SLOTS`), for contexts that one device cannot hold; every device then writes what
falls among its own slots.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.runtime.mesh import Layout, constrain

SLOTS = ("layers", "batch", "heads", "sequence", None)  # logical axes of a cache's keys and values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KVCache:
    """Keys (after query-key norm and rotary embedding) and values of everything the model has read so far."""

    k: Float[Array, "N B K S d"]
    v: Float[Array, "N B K S d"]
    valid: Bool[Array, "B S"]
    rope: Int[Array, "B"]  # next rotary position of each row
    length: Int[Array, ""]  # slots in use; the rest is free

    @property
    def capacity(self) -> int:
        return self.valid.shape[1]


def empty(*, layers: int, rows: int, capacity: int, kv_heads: int, head_dim: int, dtype=jnp.float32) -> KVCache:
    """A cache with no token in it."""
    zeros = jnp.zeros((layers, rows, kv_heads, capacity, head_dim), dtype)
    return KVCache(
        k=zeros, v=zeros, valid=jnp.zeros((rows, capacity), bool), rope=jnp.zeros((rows,), jnp.int32), length=jnp.zeros((), jnp.int32)
    )


def write(
    cache: KVCache,
    k: Float[Array, "N B K T d"],
    v: Float[Array, "N B K T d"],
    *,
    valid: Bool[Array, "B T"],
    rope: Int[Array, "B"],
    layout: Layout | None = None,
) -> KVCache:
    """Appends a segment of T slots; `rope` is the rows' next rotary position afterwards.

    The caller guarantees room (length + T <= capacity): the cursor is traced, so it cannot be checked here, and XLA would clamp the
    write onto earlier slots. `policies/context.py` plans the capacity from the static lengths of all segments.
    """
    start = cache.length
    put = _putter(layout, cache.capacity)
    return KVCache(
        k=placed(put(cache.k, k.astype(cache.k.dtype), start), layout),
        v=placed(put(cache.v, v.astype(cache.v.dtype), start), layout),
        valid=jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, start, axis=1),
        rope=rope,
        length=start + k.shape[3],
    )


def placed(slots: Float[Array, "N B K S d"], layout: Layout | None) -> Float[Array, "N B K S d"]:
    """A cache's keys or values, told inside a compiled function where they lie; see `Layout.constrain`."""
    return constrain(layout, slots, *SLOTS)


def _putter(layout: Layout | None, slots: int):
    """(cache, new, start) -> the cache with the new tokens in its slots from `start` on."""
    if layout is None or layout.parts("sequence") == 1:
        return lambda cache, new, start: jax.lax.dynamic_update_slice_in_dim(cache, new, start, axis=3)
    layout.check_divides("the capacity of a cache", "sequence", slots)
    axes = layout.axes("sequence")
    cut = PartitionSpec(None, None, None, axes)

    def put(cache, new, start):
        """Among this device's slots: a window that holds all of the new tokens that fall there, and else what it held before."""
        here, tokens = cache.shape[3], new.shape[3]
        width = min(here, tokens)
        first = start - jax.lax.axis_index(axes) * here  # where the new tokens begin, in this device's own count
        begin = jnp.clip(first, 0, here - width)
        token = begin + jnp.arange(width) - first
        old = jax.lax.dynamic_slice_in_dim(cache, begin, width, axis=3)
        ours = ((token >= 0) & (token < tokens))[:, None]
        window = jnp.where(ours, jnp.take(new, jnp.clip(token, 0, tokens - 1), axis=3), old)
        return jax.lax.dynamic_update_slice_in_dim(cache, window, begin, axis=3)

    whole = PartitionSpec()
    return jax.shard_map(put, mesh=layout.mesh, in_specs=(cut, whole, whole), out_specs=cut, axis_names=set(axes), check_vma=False)


def repeat(cache: KVCache, times: int) -> KVCache:
    """Every row `times` times in a row: one encoded source picture for all members of a group."""
    rows = lambda x, axis: jnp.repeat(x, times, axis=axis)  # noqa: E731
    return dataclasses.replace(cache, k=rows(cache.k, 1), v=rows(cache.v, 1), valid=rows(cache.valid, 0), rope=rows(cache.rope, 0))
