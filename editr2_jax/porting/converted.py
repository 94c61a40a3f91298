"""Weights in our own layout, as an orbax checkpoint that restores onto any mesh, written and read block by block.

The tree is nested by the dotted paths of the parameters; layers are stacked. Any orbax reader restores it (PyTreeRestore). The arrays lie
in chunks of one layer and at most 64 MB, uncompressed, so that a device's share is a few ranges of bytes. Reading here goes to the chunks
through tensorstore, which is what orbax writes with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from editr2_jax.porting import byte_ranges
from editr2_jax.porting.leaves import Index, Leaf

WEIGHTS, MARK = "weights", "converted.json"
FORMAT = 1  # of the mark
_CHUNK = 1 << 26  # bytes
_WRITTEN = 1 << 27  # bytes of small layers that are written at once


def write(folder: Any, parameters: Mapping[str, Leaf], *, done: Callable[[str, int], None] = lambda path, size: None) -> None:
    """Writes every parameter, in its own type. The folder is no converted checkpoint before `finish`.

    Args:
        parameters: dotted path -> leaf.
        done: is told the path and the bytes of every parameter that is written.
    """
    folder = byte_ranges.place(folder)
    arrays = (jax.Array, ocp.type_handlers.ArrayHandler())  # without it orbax warns that it writes no metadata of these
    registry = ocp.type_handlers.create_type_handler_registry(arrays, (_Waiting, _Handler(done)))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False, type_handler_registry=registry)
    tree = _nested({path: _Waiting(path, leaf) for path, leaf in parameters.items()})
    chunks = _nested({path: _chunks(leaf) for path, leaf in parameters.items()})
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(_address(folder / WEIGHTS), args=ocp.args.PyTreeSave(tree, save_args=chunks))


def finish(folder: Any, parameters: Mapping[str, Leaf], **told: Any) -> None:
    """Writes the mark that says that everything is there; `told`: JSON values that go into it."""
    types = {path: np.dtype(leaf.dtype).name for path, leaf in parameters.items()}
    mark = {"format": FORMAT, **told, "parameters": types}
    (byte_ranges.place(folder) / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")


def is_here(folder: Any) -> bool:
    """Whether a folder holds converted weights, complete ones."""
    return (byte_ranges.place(folder) / MARK).exists()


def opened(folder: Any, types: Callable[[str, Any], Any] = lambda path, own: own) -> dict[str, Leaf]:
    """Dotted path -> leaf, still in the checkpoint.

    Args:
        types: (path, type in the checkpoint) -> the type to be read in.

    Raises ValueError for a folder that is no converted checkpoint, or a damaged one, naming the parameter.
    """
    folder = byte_ranges.place(folder)
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        names = list(mark["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MARK}: not a converted checkpoint ({error!r}); convert it again with port convert.") from error
    if mark.get("format") != FORMAT:
        raise ValueError(f"{folder / MARK}: format {mark.get('format')!r}, this version reads {FORMAT}; convert the checkpoint again.")
    context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
    waiting = {name: ts.open(_spec(folder, name), open=True, read=True, context=context) for name in names}
    found = {}
    for name, future in waiting.items():
        try:
            store = future.result()
        except Exception as error:  # whatever the storage raises over a damaged file
            raise ValueError(f"{folder / WEIGHTS}: parameter {name} cannot be read ({_first_line(error)}); convert it again.") from error
        found[name] = _Stored(store, f"{folder / WEIGHTS}: parameter {name}", types(name, store.dtype.numpy_dtype))
    return found


class _Stored:
    """A parameter in a converted checkpoint."""

    stacked = together = False

    def __init__(self, store: ts.TensorStore, where: str, dtype: Any):
        self._store, self._where = store, where
        self.shape, self.dtype = tuple(store.shape), np.dtype(dtype)

    def blocks(self, indices: Sequence[Index]) -> list[np.ndarray]:
        """The pieces of the parameter at these indices, one array for each, in its own type. Raises ValueError where one cannot be read."""
        found = []
        for index in indices:
            try:
                block = self._store[index].read().result()
            except Exception as error:  # whatever the storage raises over a damaged file
                raise ValueError(f"{self._where} cannot be read ({_first_line(error)}); convert the checkpoint again.") from error
            found.append(block if block.dtype == self.dtype else block.astype(self.dtype))
        return found


class _Waiting:
    """A leaf that orbax takes for an array, and that is read when its turn to be written comes."""

    def __init__(self, path: str, leaf: Leaf):
        self.path, self.leaf = path, leaf
        self.shape, self.dtype, self.ndim = leaf.shape, leaf.dtype, len(leaf.shape)
        self.size = int(np.prod(leaf.shape))
        self.nbytes = self.size * leaf.dtype.itemsize

    def indices(self) -> Iterator[Index]:
        """What is written at once: the whole, or of a stack as many layers as are not too much."""
        rest = tuple(slice(0, length) for length in self.shape[1:])
        step = max(1, _WRITTEN * self.shape[0] // max(1, self.nbytes)) if self.leaf.stacked else self.shape[0]
        for begin in range(0, self.shape[0], step):
            yield (slice(begin, min(begin + step, self.shape[0])), *rest)


class _Handler(ocp.type_handlers.NumpyHandler):
    """Writes leaves one after the other, so that one of them at most is in memory."""

    def __init__(self, done: Callable[[str, int], None]):
        super().__init__(deepcopy_host_arrays=False)
        self._done, self._one_at_a_time = done, asyncio.Lock()

    async def _open_and_write(self, value: _Waiting, tspec: dict[str, Any], ts_context: ts.Context) -> None:
        async with self._one_at_a_time:
            store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
            pending = None
            for index in value.indices():
                (block,) = value.leaf.blocks([index])
                if pending is not None:
                    await pending  # written while the next block was read
                pending = store[index].write(block, can_reference_source_data_indefinitely=True)
            await pending
            self._done(value.path, value.nbytes)


def _chunks(leaf: Leaf) -> ocp.SaveArgs:
    """Chunks of a stack are of one layer."""
    return ocp.SaveArgs(chunk_byte_size=_CHUNK, shard_axes=(0,) if leaf.stacked else ())


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, last = path.split(".")
        owner = tree
        for group in groups:
            owner = owner.setdefault(group, {})
        owner[last] = value
    return tree


def _spec(folder: Any, name: str) -> dict[str, Any]:
    base = str(_address(folder / WEIGHTS))
    base = base if "://" in base else f"file://{base}"
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"{base}/", "path": f"{name}/"}}


def _address(path: Any) -> Any:
    return path.absolute() if byte_ranges.is_local(path) else path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
