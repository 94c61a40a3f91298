"""Reading and writing safetensors files without torch and without holding them in memory.

A file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the tensors' bytes. Reading maps the file,
so a tensor costs memory only for the part that is used. A checkpoint in several files has an index, `<name>.safetensors.index.json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

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


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of one safetensors file by name: read-only views of the mapped file, so slicing reads the slice alone.

    Raises FileNotFoundError for a missing file and ValueError for one that is cut short or damaged, before any tensor is read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        header, start = _read_header(self.path)
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        size = self.path.stat().st_size - start
        end = max((_check_entry(self.path, name, entry) for name, entry in self._entries.items()), default=0)
        if end != size:
            what = "is cut short" if end > size else "has bytes that no tensor claims"
            raise ValueError(f"{self.path}: the file {what} (header: {end} bytes of tensors, file: {size}); copy it again.")
        self._bytes = np.memmap(self.path, np.uint8, "r", offset=start, shape=(size,)) if size else np.zeros(0, np.uint8)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        return self._bytes[begin:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __str__(self) -> str:
        return str(self.path)


class ShardedTensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint in several files, by way of its index. Every shard is opened and checked at once.

    Raises ValueError when the index and the shards disagree about a tensor, FileNotFoundError for a missing shard.
    """

    def __init__(self, index: str | Path):
        self.path = Path(index)
        try:
            files: dict[str, str] = json.loads(self.path.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: not an index of safetensors files ({error!r}); copy it again.") from None
        shards = {file: TensorFile(self.path.parent / file) for file in sorted(set(files.values()))}
        lost = [f"{name} ({file})" for name, file in files.items() if name not in shards[file]]
        extra = [f"{name} ({file})" for file, shard in shards.items() for name in shard if files.get(name) != file]
        if lost or extra:
            raise ValueError(
                f"{self.path}: index and shards disagree; in the index but not in its shard: {', '.join(lost) or 'none'}; in a shard but "
                f"not in the index: {', '.join(extra) or 'none'}. Copy index and shards from one checkpoint."
            )
        self._shard = {name: shards[file] for name, file in files.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shard[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard)

    def __len__(self) -> int:
        return len(self._shard)

    def __str__(self) -> str:
        return str(self.path)


def open_tensors(path: str | Path, names: Iterable[str] = ("model",)) -> Mapping[str, np.ndarray]:
    """Opens a .safetensors file, an .index.json, or the first checkpoint called one of `names` in a folder, whole or in shards.

    Raises FileNotFoundError that says which files were looked for.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / f"{name}.safetensors{end}" for name in names for end in ("", ".index.json")]
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            raise FileNotFoundError(f"{path}: no weights here; looked for {', '.join(candidate.name for candidate in candidates)}.")
        path = found
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    return ShardedTensors(path) if path.name.endswith(".index.json") else TensorFile(path)


def write(path: str | Path, tensors: Mapping[str, tuple[tuple[int, ...], Any, Callable[[], np.ndarray]]]) -> None:
    """Writes a safetensors file one tensor at a time.

    Args:
        path: the file; it appears under this name only when complete.
        tensors: name -> (shape, dtype, function that gives the array). The function is called once, when its bytes are due.
    """
    path = Path(path)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, kind, _) in tensors.items():
        size = math.prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(kind)], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, kind, read) in tensors.items():
            array = np.ascontiguousarray(read())
            if array.shape != tuple(shape) or array.dtype != np.dtype(kind):
                raise ValueError(f"{name}: announced as {np.dtype(kind)}{tuple(shape)}, given as {array.dtype}{array.shape}.")
            file.write(array.reshape(-1).view(np.uint8).data)
    os.replace(unfinished, path)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the place where tensors begin."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    size = path.stat().st_size
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
