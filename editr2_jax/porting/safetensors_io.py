"""Reading and writing safetensors files without torch and without holding them in memory.

A file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the tensors' bytes. A tensor of an open file is
its place in it: rows are read when they are asked for. A checkpoint in several files has an index, `<name>.safetensors.index.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from editr2_jax.porting import byte_ranges

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_DIGESTED = 1 << 26  # bytes that are digested at once


class StoredTensor:
    """A tensor that lies in a file: shape and type at once, numbers when they are asked for.

    `tensor[a:b]` reads these rows and nothing else; any other index reads the rows that its first part names, then cuts.
    """

    def __init__(self, file: byte_ranges.ByteRanges, name: str, begin: int, shape: tuple[int, ...], dtype: np.dtype):
        self.name, self.shape, self.dtype = name, shape, dtype
        self._file, self._begin = file, begin

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._read(self._begin, self.shape)
        return array if dtype is None else array.astype(dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        parts = index if isinstance(index, tuple) else (index,)
        first = parts[0] if parts and self.shape else None
        if isinstance(first, slice) and first.step in (None, 1):
            begin, end, _ = first.indices(self.shape[0])
            rows = self._rows(begin, max(begin, end))
            return rows if len(parts) == 1 else rows[(slice(None), *parts[1:])]
        if isinstance(first, int) and -self.shape[0] <= first < self.shape[0]:
            first %= self.shape[0]
            return self._rows(first, first + 1)[(0, *parts[1:])]
        return self._read(self._begin, self.shape)[index]

    def _rows(self, begin: int, end: int) -> np.ndarray:
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self._read(self._begin + begin * row, (end - begin, *self.shape[1:]))

    def _read(self, begin: int, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape, self.dtype)
        if out.size:
            self._file.read_into(begin, out, f"tensor {self.name}")
        return out


class TensorFile(Mapping[str, StoredTensor]):
    """The tensors of one safetensors file by name, local or at an address that etils.epath opens (gs://...).

    Raises FileNotFoundError for a missing file and ValueError for one that is cut short or damaged, before any tensor is read.
    """

    def __init__(self, path: str | Path):
        self.path = byte_ranges.place(path)
        header, start = _read_header(self.path)
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        size = _length(self.path) - start
        end = max((_check_entry(self.path, name, entry) for name, entry in self._entries.items()), default=0)
        if end != size:
            what = "is cut short" if end > size else "has bytes that no tensor claims"
            raise ValueError(f"{self.path}: the file {what} (header: {end} bytes of tensors, file: {size}); copy it again.")
        self._file, self._start = byte_ranges.ByteRanges(self.path), start

    def __getitem__(self, name: str) -> StoredTensor:
        entry = self._entries[name]
        return StoredTensor(
            self._file, name, self._start + entry["data_offsets"][0], tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]])
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __str__(self) -> str:
        return str(self.path)


class ShardedTensors(Mapping[str, StoredTensor]):
    """The tensors of a checkpoint in several files, by way of its index. Every shard is opened and checked at once.

    Raises ValueError when the index and the shards disagree about a tensor, FileNotFoundError for a missing shard.
    """

    def __init__(self, index: str | Path):
        self.path = byte_ranges.place(index)
        try:
            files: dict[str, str] = json.loads(self.path.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: not an index of safetensors files ({error!r}); copy it again.") from None
        named = sorted(set(files.values()))
        if absent := [file for file in named if not (self.path.parent / file).exists()]:
            raise FileNotFoundError(
                f"{self.path}: {len(absent)} of the {len(named)} shards that it names are not there: {', '.join(absent)}; copy them here."
            )
        shards = {file: TensorFile(self.path.parent / file) for file in named}
        lost = [f"{name} ({file})" for name, file in files.items() if name not in shards[file]]
        extra = [f"{name} ({file})" for file, shard in shards.items() for name in shard if files.get(name) != file]
        if lost or extra:
            raise ValueError(
                f"{self.path}: index and shards disagree; in the index but not in its shard: {', '.join(lost) or 'none'}; in a shard but "
                f"not in the index: {', '.join(extra) or 'none'}. Copy index and shards from one checkpoint."
            )
        self._shard = {name: shards[file] for name, file in files.items()}

    def __getitem__(self, name: str) -> StoredTensor:
        return self._shard[name][name]

    def __contains__(self, name: object) -> bool:
        return name in self._shard

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard)

    def __len__(self) -> int:
        return len(self._shard)

    def __str__(self) -> str:
        return str(self.path)


def open_tensors(path: str | Path, names: Iterable[str] = ("model",)) -> Mapping[str, StoredTensor]:
    """Opens a .safetensors file, an .index.json, or the first checkpoint called one of `names` in a folder, whole or in shards.

    Raises FileNotFoundError that says which files were looked for.
    """
    path = byte_ranges.place(path)
    if path.is_dir():
        candidates = [path / f"{name}.safetensors{end}" for name in names for end in ("", ".index.json")]
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            raise FileNotFoundError(f"{path}: no weights here; looked for {', '.join(candidate.name for candidate in candidates)}.")
        path = found
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    return ShardedTensors(path) if path.name.endswith(".index.json") else TensorFile(path)


Entries = Mapping[str, tuple[tuple[int, ...], Any, Callable[[], np.ndarray]]]


def write(path: str | Path, tensors: Entries, *, digests: dict[str, str] | None = None) -> None:
    """Writes a safetensors file one tensor at a time.

    Args:
        path: the file; on a local disk it appears under this name only when complete.
        tensors: name -> (shape, dtype, function that gives the array). The function is called once, when its bytes are due.
        digests: receives the digest of every tensor by name (see `digest`).
    """
    path = byte_ranges.place(path)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, kind, _) in tensors.items():
        size = math.prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(kind)], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned
    unfinished = path.with_name(path.name + ".unfinished") if byte_ranges.is_local(path) else path
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, kind, read) in tensors.items():
            array = np.asarray(read(), order="C")
            if array.shape != tuple(shape) or array.dtype != np.dtype(kind):
                raise ValueError(f"{name}: announced as {np.dtype(kind)}{tuple(shape)}, given as {array.dtype}{array.shape}.")
            if digests is not None:
                digests[name] = digest(array)
            file.write(array.reshape(-1).view(np.uint8).data)
    if unfinished != path:
        os.replace(unfinished, path)


def write_sharded(folder: str | Path, name: str, tensors: Entries, shards: int, *, digests: dict[str, str] | None = None) -> None:
    """Writes `name`.safetensors, or in `shards` > 1 files of about equal size `name`-00001-of-0000N.safetensors with their index."""
    folder = byte_ranges.place(folder)
    if shards <= 1:
        return write(folder / f"{name}.safetensors", tensors, digests=digests)
    sizes = {key: math.prod(shape) * np.dtype(kind).itemsize for key, (shape, kind, _) in tensors.items()}
    total, passed = sum(sizes.values()), 0
    parts: list[dict[str, Any]] = [{} for _ in range(shards)]
    for key, entry in tensors.items():
        middle = passed + sizes[key] // 2
        parts[min(shards - 1, middle * shards // max(total, 1))][key] = entry
        passed += sizes[key]
    parts = [part for part in parts if part]  # one tensor may be larger than a share
    files = [f"{name}-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for file, part in zip(files, parts, strict=True):
        write(folder / file, part, digests=digests)
    where = {key: file for file, part in zip(files, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def digest(tensor: Any) -> str:
    """SHA-256 of a tensor's type, shape and bytes; a stored tensor is read by rows."""
    told = hashlib.sha256(f"{_NAMES[np.dtype(tensor.dtype)]}{list(tensor.shape)}".encode())
    step = _rows_of(tensor, _DIGESTED)
    for begin in range(0, tensor.shape[0] if tensor.shape else 1, step):
        rows = np.ascontiguousarray(tensor[begin : begin + step] if tensor.shape else np.asarray(tensor))
        told.update(rows.reshape(-1).view(np.uint8).data)
    return told.hexdigest()


def _rows_of(tensor: Any, size: int) -> int:
    """How many rows of a tensor take about `size` bytes."""
    return max(1, size // max(1, math.prod(tensor.shape[1:]) * np.dtype(tensor.dtype).itemsize))


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the place where tensors begin."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    size = _length(path)
    with path.open("rb") as file:
        first = file.read(8)
        if first == b"version ":
            raise ValueError(f"{path}: this is a Git LFS pointer, not the weights; fetch the file itself (git lfs pull).")
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > _LONGEST_HEADER or 8 + length > size:
            raise ValueError(f"{path}: not a whole safetensors file ({size} bytes, header of {length} announced); copy it again.")
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the header is damaged ({error}); copy the file again.") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is damaged (no table of names); copy the file again.")
    return header, 8 + length


def _length(path: Any) -> int:
    """Bytes of a file."""
    told = path.stat()
    return told.st_size if hasattr(told, "st_size") else told.length  # epath has a record of its own


def _check_entry(path: Path, name: str, entry: Any) -> int:
    """Last byte of a tensor. Raises ValueError when its header entry contradicts itself."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _TYPES:
            raise ValueError(f"{path}: tensor {name} has type {kind}, which is not supported; supported are {', '.join(_TYPES)}.")
        wanted = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: the header entry of {name} is damaged ({error!r}); copy the file again.") from None
    if begin < 0 or end - begin != wanted:
        raise ValueError(f"{path}: tensor {name}, {kind}{shape}, takes {wanted} bytes, the header says {end - begin}; copy it again.")
    return end
