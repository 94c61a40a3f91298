"""Answers of judges, kept in one sqlite file and found by their content: the same pictures, words and settings are asked about once.

A run can be recorded and replayed: in the mode `replay` nothing is ever asked, and what is not there is an error. What a judge said is kept
whether it can be read or not, so that a second scoring gives the same verdicts, the missing ones included. Several threads and processes
of one machine may share a file; it must lie on a local disk (sqlite's write-ahead log does not work over a network).

A replay writes nothing: file and folder may be read-only, and nothing appears beside the file. Only while a write-ahead log lies there (the
file is being written to, or whoever wrote it was killed) sqlite must be able to write into the folder, as every reader of a log does.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.rewards.base import ServiceError
from editr2_jax.runtime import workdir

MODES = ("use", "replay")
_LAYOUT = 1  # of the file; sqlite keeps it as user_version
_WAIT_S = 60.0  # for another process that is writing
_LOG = (
    "a write-ahead log lies beside it, and sqlite reads that only where it can write into the folder: open the file once with the mode "
    "'use' where it was recorded, which takes the log into it, or copy both together to a folder that can be written"
)


class AnswerCache:
    """The answers in one file. Safe to use from many threads and processes. Close it, or use it as a context manager."""

    def __init__(self, path: str | os.PathLike, *, mode: str = "use"):
        """mode: `use` asks for what is not there and keeps it, `replay` only reads.

        Raises ValueError for a file that is no such cache or cannot be written, and in replay for one that is missing or cannot be read.
        """
        if mode not in MODES:
            raise ValueError(f"the answer cache's mode is {mode!r}; choose from {', '.join(MODES)}, or give no path to keep nothing.")
        self.replays = mode == "replay"
        self._path = Path(path).expanduser().absolute()
        if self.replays and not self._path.is_file():
            raise ValueError(f"{self._path}: there is nothing to replay; record it first, with the mode 'use'.")
        if not self.replays:
            workdir.writable(os.path.dirname(path) or ".", flag="folder for the answer cache")
        self._lock = threading.Lock()  # sqlite's own serialises processes, this one the threads that share the connection
        try:
            self._base = self._open_to_read() if self.replays else self._open()
        except sqlite3.Error as error:
            if self.replays and self._log_bytes() and isinstance(error, sqlite3.OperationalError):
                raise ValueError(f"{self._path} cannot be replayed ({error}): {_LOG}.") from error
            raise ValueError(f"{self._path}: no answer cache ({error}); give another path, or move the file away.") from error

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many answers are there."""
        return self._run("SELECT count(*) FROM answers")[0][0]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()

    def size(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        return self._path.stat().st_size + self._log_bytes()

    def get(self, key: str) -> str | bytes | None:
        """The answer that was given, or None."""
        rows = self._run("SELECT answer FROM answers WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def put(self, key: str, answer: str | bytes, *, about: Mapping[str, Any]) -> str | bytes:
        """Keeps an answer, once it is safely on disk, and returns the one that is kept: the first, should two have asked at once.

        about: what was asked, without pictures, for whoever reads the file.
        """
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, answer, json.dumps(about, ensure_ascii=False, sort_keys=True)))
        kept = self.get(key)
        return answer if kept is None else kept

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)  # every statement commits
        layout = base.execute("PRAGMA user_version").fetchone()[0]
        if layout not in (0, _LAYOUT):
            base.close()
            raise sqlite3.DatabaseError(f"layout {layout}, this version reads {_LAYOUT}")
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")  # an answer survives a power cut, too
        base.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, about TEXT NOT NULL) WITHOUT ROWID")
        base.execute(f"PRAGMA user_version = {_LAYOUT}")
        return base

    def _open_to_read(self) -> sqlite3.Connection:
        """Without a log the file is all there is, and is read as if nobody could change it: sqlite then wants no files of its own."""
        self._seen = self._state()
        how = "mode=ro" if self._log_bytes() else "mode=ro&immutable=1"
        base = sqlite3.connect(f"{self._path.as_uri()}?{how}", uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            layout = base.execute("PRAGMA user_version").fetchone()[0]
            if layout != _LAYOUT:
                raise sqlite3.DatabaseError(f"layout {layout}, this version reads {_LAYOUT}")
        except sqlite3.Error:
            base.close()
            raise
        return base

    def _log_bytes(self) -> int:
        """Bytes of answers that are not yet in the file itself."""
        try:
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _state(self) -> object:
        """Another one whenever what was opened to be read may have been changed: sqlite does not look."""
        if self._log_bytes():
            return "shared"
        told = self._path.stat()
        return told.st_ino, told.st_size, told.st_mtime_ns

    def _follow(self) -> None:
        """A replay may run beside one that records: what has changed is opened anew."""
        if self._state() != self._seen:
            self._base.close()
            self._base = self._open_to_read()

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._lock:
            try:
                if self.replays:
                    self._follow()
                return self._base.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise ServiceError(f"{self._path}: the answer cache cannot be used ({error}).") from error


def key_of(said: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> str:
    """What an answer is found by: a SHA-256 over all words and settings, and over every pixel that is shown.

    said: JSON values. pictures: uint8 [H, W, 3], at the size that is shown; pixels and not files are hashed, as encoders differ.
    """
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode())
    for picture in pictures:
        digest.update(f"{picture.dtype}{picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture))
    return digest.hexdigest()
