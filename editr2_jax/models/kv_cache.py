"""The key-value cache of a batch of dialogues. Letters: N layers, B rows, S slots, K key-value heads, d head width, T new tokens.

All rows share one cursor: a segment takes the same slots in every row, and what a row does not fill is a hole that `valid` masks. So a
write is one contiguous update whatever the rows' own lengths are, and every shape is static. Rotary positions count real tokens only and
are kept per row.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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
    cache: KVCache, k: Float[Array, "N B K T d"], v: Float[Array, "N B K T d"], *, valid: Bool[Array, "B T"], rope: Int[Array, "B"]
) -> KVCache:
    """Appends a segment of T slots; `rope` is the rows' next rotary position afterwards.

    The caller guarantees room (length + T <= capacity): the cursor is traced, so it cannot be checked here, and XLA would clamp the
    write onto earlier slots. `policies/context.py` plans the capacity from the static lengths of all segments.
    """
    start = cache.length
    return KVCache(
        k=jax.lax.dynamic_update_slice_in_dim(cache.k, k.astype(cache.k.dtype), start, axis=3),
        v=jax.lax.dynamic_update_slice_in_dim(cache.v, v.astype(cache.v.dtype), start, axis=3),
        valid=jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, start, axis=1),
        rope=rope,
        length=start + k.shape[3],
    )


def repeat(cache: KVCache, times: int) -> KVCache:
    """Every row `times` times in a row: one encoded source picture for all members of a group."""
    rows = lambda x, axis: jnp.repeat(x, times, axis=axis)  # noqa: E731
    return dataclasses.replace(cache, k=rows(cache.k, 1), v=rows(cache.v, 1), valid=rows(cache.valid, 0), rope=rows(cache.rope, 0))
