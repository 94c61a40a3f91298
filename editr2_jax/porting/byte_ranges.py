"""Ranges of a file's bytes, on a local disk or behind an address such as gs://bucket/file, read straight into arrays.

Files are read, not mapped: pages of a mapped file count as the process's memory, and 29 GB of weights pass through here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.runtime.places import is_local, place


@contextlib.contextmanager
def at_hand(folder: Any, names: Iterable[str]) -> Iterator[Path]:
    """A local folder itself; of another one a copy of those of its small files that are there. Errors within the block name the folder."""
    folder = place(folder)
    if is_local(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as here:
        for name in names:
            if (folder / name).exists():
                (Path(here) / name).write_bytes((folder / name).read_bytes())
        try:
            yield Path(here)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(str(error).replace(here, str(folder))) from error


class ByteRanges:
    """One file, asked for ranges of its bytes by several threads at once."""

    def __init__(self, path: Any):
        self.path = path
        self._descriptor = None
        if is_local(path):
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        self._of_thread = threading.local()  # elsewhere a handle has one position, so every thread has its own

    def read_into(self, begin: int, out: np.ndarray, what: str) -> None:
        """Fills a contiguous array with the bytes from `begin` on; raises ValueError naming the file and `what` where it ends early."""
        wanted = memoryview(out.reshape(-1).view(np.uint8))
        done = 0
        while done < len(wanted):
            got = self._some(begin + done, wanted[done:])
            if not got:
                raise ValueError(
                    f"{self.path}: {what} ends early ({done} of {len(wanted)} bytes from {begin} on); the file has changed, copy it again."
                )
            done += got

    def _some(self, begin: int, wanted: memoryview) -> int:
        if self._descriptor is not None:
            return os.preadv(self._descriptor, [wanted], begin)
        handle = getattr(self._of_thread, "handle", None)
        if handle is None:
            handle = self._of_thread.handle = self.path.open("rb")
        handle.seek(begin)
        piece = handle.read(len(wanted))
        wanted[: len(piece)] = piece
        return len(piece)
