"""Answers of judges, kept in one sqlite file and found by their content: the same pictures, words and settings are asked about once.

A run can be recorded and replayed: in the mode `replay` nothing is ever asked, and what is not there is an error. What a judge said is kept
whether it can be read or not, so that a second scoring gives the same verdicts, the missing ones included. Several threads and processes
of one machine may share a file; it must lie on a local disk (sqlite's write-ahead log does not work over a network).
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


class AnswerCache:
    """The answers in one file. Safe to use from many threads and processes. Close it, or use it as a context manager."""

    def __init__(self, path: str | os.PathLike, *, mode: str = "use"):
        """mode: `use` asks for what is not there and keeps it, `replay` only reads.

        Raises ValueError for a file that is no such cache or cannot be written, and in replay for one that is missing.
        """
        if mode not in MODES:
            raise ValueError(f"the answer cache's mode is {mode!r}; choose from {', '.join(MODES)}, or give no path to keep nothing.")
        self.replays = mode == "replay"
        self._path = Path(path).expanduser().absolute()
        if self.replays and not self._path.is_file():
            raise ValueError(f"{self._path}: there is nothing to replay; record it first, with the mode 'use'.")
        workdir.writable(os.path.dirname(path) or ".", flag="folder for the answer cache")
        self._lock = threading.Lock()  # sqlite's own serialises processes, this one the threads that share the connection
        try:
            self._base = self._open()
        except sqlite3.Error as error:
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
        return sum(path.stat().st_size for path in (self._path, self._path.with_name(self._path.name + "-wal")) if path.exists())

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

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._lock:
            try:
                return self._base.execute(statement, values).fetchall()
            except sqlite3.Error as error:
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
