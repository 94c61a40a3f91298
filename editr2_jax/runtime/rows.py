"""Rows of global arrays, seen from one process: which are its own, and their numbers on the host.

On one process every row is its own. On several, an array cut along its first axis lies in pieces on the devices of all of them; each row
belongs to one process (the first that holds it), which looks at its pictures and asks the judges about them.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool


def owned(array: jax.Array | np.ndarray) -> Bool[np.ndarray, "B"]:
    """Which rows belong to this process: every row to exactly one. Needs no communication."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.ones(array.shape[0], bool)
    owner = np.full(array.shape[0], jax.process_count())
    for device, index in array.sharding.devices_indices_map(array.shape).items():
        owner[index[0]] = np.minimum(owner[index[0]], device.process_index)
    return owner == jax.process_index()


def held(array: jax.Array | np.ndarray) -> np.ndarray:
    """The rows that this process holds, in their order: of an array cut along its first axis its own share, of any other all of it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    pieces = {shard.index[0].indices(array.shape[0])[0]: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(pieces[start]) for start in sorted(pieces)])


def placed(rows: np.ndarray, sharding: jax.sharding.Sharding, count: int) -> jax.Array:
    """The inverse of `held` for an array cut along its first axis, of `count` rows in all."""
    return jax.make_array_from_process_local_data(sharding, rows, (count, *rows.shape[1:]))


def local(array: jax.Array | np.ndarray) -> np.ndarray:
    """The array on the host, with zeros in the rows that no device of this process holds. Needs no communication."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    here = np.zeros(array.shape, array.dtype)
    for shard in array.addressable_shards:
        here[shard.index] = np.asarray(shard.data)
    return here
