"""Parameters that are still in a file, and how they get onto devices.

A leaf knows its shape and type, and gives the blocks of itself that somebody asks for. Whoever loads asks for what its own devices hold:
each block once, however many devices hold a copy of it, and never a whole array where a block is enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Index = tuple[slice, ...]
Sharding = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]

_READ = 1 << 25  # bytes of rows that are read in one go
_TILE = 256  # rows that are looked through and turned at once: what a processor's cache holds
_READERS = 4  # threads
_HIDDEN = {1: np.uint8, 2: np.uint16}  # copying ml_dtypes as what they are takes several times as long


class Leaf(Protocol):
    """A parameter in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stacked: bool  # the first axis counts layers, each of which is cheap to read by itself
    together: bool  # blocks share what is read, so that asking for all of them at once is cheaper

    def blocks(self, indices: Sequence[Index]) -> list[np.ndarray]:
        """The blocks under these indices (a slice of step 1 per axis), in the leaf's type."""


class Unsound:
    """Numbers that are not finite, counted by the tensor they were met in; asked by several threads."""

    def __init__(self):
        self._parts: dict[str, dict[int, int]] = {}
        self._lock = threading.Lock()

    def look(self, key: str, part: np.ndarray, begin: int = 0) -> None:
        """Counts in a part of a tensor that begins at row `begin`; a part that was seen before counts once."""
        count = not_finite(part)
        if count:
            with self._lock:
                self._parts.setdefault(key, {})[begin] = count

    def listed(self) -> list[str]:
        """A line per tensor."""
        return [f"{key} ({sum(counts.values())} numbers)" for key, counts in self._parts.items()]


def not_finite(part: np.ndarray) -> int:
    """How many numbers are infinite or NaN."""
    if part.dtype == jnp.bfloat16:
        exponent = np.uint16(0x7F80)  # all ones: no number
        return int(np.count_nonzero((part.view(np.uint16) & exponent) == exponent))
    if part.dtype.kind in "fV":  # V: bfloat16's relatives
        return int(part.size - np.count_nonzero(np.isfinite(part)))
    return 0


class Made:
    """A leaf that no file holds: a fixed table."""

    stacked = together = False

    def __init__(self, array: Any, dtype: Any):
        self._array = np.asarray(array).astype(dtype)
        self.shape, self.dtype = self._array.shape, self._array.dtype

    def blocks(self, indices: Sequence[Index]) -> list[np.ndarray]:
        return [np.ascontiguousarray(self._array[index]) for index in indices]


class Turned:
    """A leaf that one PyTorch tensor fills, or one per layer, with the axes in another order."""

    together = True  # a row of a tensor may go to several devices

    def __init__(
        self, keys: Sequence[str], tensors: Mapping[str, Any], shape: tuple[int, ...], dtype: Any, *, axes: tuple[int, ...] | None,
        stacked: bool, unsound: Unsound,
    ):  # fmt: skip
        """axes: axis of the tensor for each of ours, layers aside; None leaves them as they are. unsound: counts what is not finite."""
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._keys, self._tensors, self.stacked, self._unsound = keys, tensors, stacked, unsound
        inner = len(self.shape) - stacked
        self._axes = tuple(range(inner)) if axes is None else axes
        self._row_axis = self._axes.index(0)  # ours along which the tensor's rows lie

    def blocks(self, indices: Sequence[Index]) -> list[np.ndarray]:
        bounds = [[part.indices(length)[:2] for part, length in zip(index, self.shape, strict=True)] for index in indices]
        outs = [np.empty([end - begin for begin, end in bound], self.dtype) for bound in bounds]
        jobs = [job for layer in range(len(self._keys)) for job in self._jobs(layer, bounds, outs)]
        in_parallel(lambda job: self._read(*job), jobs)
        return outs

    def _jobs(self, layer: int, bounds, outs) -> Iterable[tuple]:
        """(tensor's name, rows, who wants some of them) for one tensor."""
        takers = []
        for bound, out in zip(bounds, outs, strict=True):
            if not self.stacked:
                takers.append((bound, out))
            elif bound[0][0] <= layer < bound[0][1]:
                takers.append((bound[1:], out[layer - bound[0][0]]))
        if not takers:
            return
        key = self._keys[layer]
        tensor = self._tensors[key]
        row = max(1, tensor.size // max(1, tensor.shape[0]) * tensor.dtype.itemsize)
        step = max(1, _READ // row)
        low = min(bound[self._row_axis][0] for bound, _ in takers)
        high = max(bound[self._row_axis][1] for bound, _ in takers)
        for begin in range(low, high, step):
            end = min(begin + step, high)
            these = [taker for taker in takers if taker[0][self._row_axis][0] < end and begin < taker[0][self._row_axis][1]]
            if these:
                yield key, tensor, begin, end, these

    def _read(self, key: str, tensor: Any, begin: int, end: int, takers) -> None:
        """Reads rows and gives every taker its cut of them."""
        rows = np.asarray(tensor[begin:end])
        for first in range(begin, end, _TILE):
            tile = rows[first - begin : min(first + _TILE, end) - begin]
            self._unsound.look(key, tile, first)
            tile = tile.reshape(tile.shape[: len(self._axes)])  # a 1x1 convolution has two axes more
            for bound, out in takers:
                self._give(tile, first, bound, out)

    def _give(self, tile: np.ndarray, first: int, bound, out: np.ndarray) -> None:
        low, high = bound[self._row_axis]
        low, high = max(low, first), min(high, first + tile.shape[0])
        if low >= high:
            return
        cut = [slice(*bound[self._axes.index(axis)]) for axis in range(len(self._axes))]
        cut[0] = slice(low - first, high - first)
        to = [slice(None)] * len(self._axes)
        to[self._row_axis] = slice(low - bound[self._row_axis][0], high - bound[self._row_axis][0])
        part = tile[tuple(cut)].transpose(self._axes)
        copy(part, out[tuple(to)])


def copy(part: np.ndarray, out: np.ndarray) -> None:
    """Copies into `out`, casting where the types differ; bits stay as they are where they do not."""
    hidden = _HIDDEN.get(out.dtype.itemsize) if part.dtype == out.dtype and out.dtype.kind == "V" else None
    if hidden is not None:
        part, out = part.view(hidden), out.view(hidden)
    if part.ndim != 2:
        out[...] = part
        return
    for row in range(0, out.shape[0], _TILE):  # one of the two may be turned: by tiles, either is read and written near where it was
        for column in range(0, out.shape[1], _TILE):
            out[row : row + _TILE, column : column + _TILE] = part[row : row + _TILE, column : column + _TILE]


def whole(leaf: Leaf) -> np.ndarray:
    """All of a leaf."""
    return leaf.blocks([tuple(slice(0, length) for length in leaf.shape)])[0]


def place(leaf: Leaf, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """The leaf as a global array; this process reads what its own devices hold. None leaves it whole on the default device."""
    if sharding is None:
        return jnp.asarray(whole(leaf))
    holders: dict[tuple, list[jax.Device]] = {}
    index_of: dict[tuple, Index] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        name = _bounds(index, leaf.shape)
        holders.setdefault(name, []).append(device)
        index_of[name] = index
    waiting = leaf.blocks(list(index_of.values())) if leaf.together else []
    arrays = []
    for name, devices in holders.items():
        block = waiting.pop(0) if leaf.together else leaf.blocks([index_of[name]])[0]
        for device in devices:
            to = jax.sharding.SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
            arrays.append(jax.block_until_ready(jax.device_put(block, to)))  # else the host keeps all of them until they are there
        del block
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays, dtype=leaf.dtype)  # a process may hold nothing of it


def of_device(leaf: Leaf, sharding: jax.sharding.Sharding, device: jax.Device) -> jax.Array:
    """What one device of the sharding holds of a leaf, alone on that device."""
    index = sharding.devices_indices_map(leaf.shape)[device]
    return jax.device_put(leaf.blocks([index])[0], device)


def in_parallel(work: Callable[[Any], None], jobs: Sequence[Any]) -> None:
    """Does all jobs, several at once; raises what the first failing one raised."""
    if len(jobs) < 2:
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        for done in [pool.submit(work, job) for job in jobs]:
            done.result()


def _bounds(index: Index, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(length)[:2] for part, length in zip(index, shape, strict=True))
