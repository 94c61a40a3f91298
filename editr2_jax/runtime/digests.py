"""Digests of the files of a finished folder, so that a bit that flips on the disk is found: array files carry none of their own.

`digests.json` in the folder: file below it -> [bytes, CRC-32]. A folder without one (its writer was killed at that moment) is not checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from editr2_jax.runtime import workdir

_NAME = "digests.json"
_PIECE = 1 << 22  # bytes read at once


def write(folder: Path, *, below: tuple[str, ...]) -> None:
    """Note the files of the folder's parts as they are now; parts that are not there are left out."""
    found = {str(path.relative_to(folder)): _digest(path) for part in below for path in _files(folder / part)}
    workdir.write_json(folder / _NAME, found)


def damage(folder: Path, *, below: str) -> str:
    """What is no longer as it was noted in one part of the folder, in words; empty where nothing is."""
    try:
        noted = workdir.read_json(folder / _NAME)
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return str(error)
    for name, digest in sorted(noted.items()):
        if name.partition("/")[0] != below:
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != digest[0]:
            return f"{name} has {size} bytes instead of {digest[0]}"
        if _digest(path) != digest:
            return f"{name} has other bytes than were written"
    return ""


def _files(part: Path) -> Iterator[Path]:
    return (path for path in sorted(part.rglob("*")) if path.is_file())


def _digest(path: Path) -> list[int]:
    size = checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return [size, checksum]
