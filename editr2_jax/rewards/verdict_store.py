"""Verdicts that were given, kept on disk: a judge is paid once, however often the run is killed.

A verdict is found by what it is about: the reward, its settings, the session's words and every picture so far. Rollouts that are played
again bit for bit after a kill then cost nothing. Each process appends to a file of its own, `verdicts/PROCESS.jsonl`, and reads all of
them when it starts, so that a run may go on with another number of processes. A line is on disk before its verdict is used; what a kill
leaves of a line is cut off. A judge that failed gave no verdict: the attempt is written down, and asked again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards.base import Reward
from editr2_jax.runtime import workdir

FAILED = (Status.SERVICE_ERROR, Status.JUDGE_FORMAT_ERROR)  # not given, so asked again


@dataclasses.dataclass(frozen=True)
class _Record:
    step: int
    verdict: Verdict


class VerdictStore:
    """The verdicts of a run. Safe to use from many threads. Close it, or use it as a context manager."""

    def __init__(self, folder: str | os.PathLike, *, fingerprint: str, process: int = 0, processes: int = 1):
        """fingerprint: of whatever else a verdict depends on, such as the rewards' section of the config; another one finds nothing.

        Raises ValueError where the folder is not writable.
        """
        self._folder, self._fingerprint = workdir.writable(folder), fingerprint
        self._process, self._processes = process, processes
        self.step = 0  # the run's step, which new verdicts belong to; set it as the run goes on
        self.unreadable = 0  # lines that are no verdict, skipped: what they were about is asked again
        self._lock, self._syncing = threading.Lock(), threading.Lock()  # taken in the order syncing, lock
        self._known: dict[str, _Record] = {}
        for path in self._files():
            for record in self._read(path):
                self._remember(record)
        self._file = self._open()
        self._written = self._synced = 0  # lines, in this process

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many verdicts are known."""
        return len(self._known)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def key(self, reward: Reward, episode: Episode) -> str:
        """What a verdict is found by: a SHA-256 over all that decides it.

        A reward may say more by an attribute `fingerprint`: those that ask a model tell its prompts' wording.
        """
        session = dataclasses.asdict(episode.session)
        del session["image"]  # a path; its pixels are among the pictures
        said = [self._fingerprint, reward.name, getattr(reward, "fingerprint", ""), session]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode())
        for picture in episode.pictures:
            digest.update(f"{picture.dtype}{picture.shape}".encode())
            digest.update(np.ascontiguousarray(picture))
        return digest.hexdigest()

    def get(self, key: str) -> Verdict | None:
        """The verdict that was given, or None."""
        record = self._known.get(key)
        return None if record is None else record.verdict

    def put(self, key: str, verdict: Verdict, *, reward: str) -> Verdict:
        """Write a verdict down; returns it as it will be read, once it is safely on disk. Raises OSError where it cannot be written."""
        record = {
            "key": key,
            "step": self.step,
            "reward": reward,
            "value": None if math.isnan(verdict.value) else float(verdict.value),
            "status": verdict.status.value,
            "detail": verdict.detail,
        }
        line = (json.dumps(record, ensure_ascii=False, default=_plain) + "\n").encode(errors="replace")  # a judge may say half an emoji
        try:
            self._append(line)
        except OSError as error:
            what = f"{error.strerror}; what cannot be kept is not used: make room, and start the same command again"
            raise OSError(error.errno, what, str(self._folder / f"{self._process}.jsonl")) from error
        record = json.loads(line)
        with self._lock:
            self._remember(record)
        return _verdict(record)

    def forget(self, before_step: int) -> None:
        """Drop verdicts of earlier steps: give the oldest step that the run could still go back to, the oldest checkpoint's.

        Also of processes that the run no longer has.
        """
        with self._syncing, self._lock:
            for path in self._files():
                if int(path.stem) % self._processes == self._process:
                    kept = [record for record in self._read(path) if record["step"] >= before_step]
                    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
                    workdir.replace_text(path, "".join(lines))
            self._known = {key: record for key, record in self._known.items() if record.step >= before_step}
            self._file.close()
            self._file = self._open()

    def _append(self, line: bytes) -> None:
        """Return when the line is on disk."""
        with self._lock:
            self._file.write(line)
            self._file.flush()
            self._written += 1
            mine = self._written
        self._sync(mine)

    def _sync(self, line: int) -> None:
        """Return when the line is on disk. Lines that were written meanwhile go with it, so that many threads share one wait."""
        with self._syncing:
            if self._synced < line:
                with self._lock:
                    written = self._written
                os.fsync(self._file.fileno())
                self._synced = written

    def _remember(self, record: Mapping[str, Any]) -> None:
        verdict = _verdict(record)
        if verdict.status not in FAILED:
            self._known[record["key"]] = _Record(record["step"], verdict)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if path.stem.isdecimal())

    def _read(self, path: Path) -> list[dict[str, Any]]:
        """The records of whole lines."""
        *whole, _ = path.read_bytes().split(b"\n")
        records = []
        for line in whole:
            try:
                record = json.loads(line)
                _verdict(record), record["key"], record["step"] + 0  # as this class reads them
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
                continue
            records.append(record)
        return records

    def _open(self):
        """This process's own file, to be appended to after its last whole line."""
        file = open(self._folder / f"{self._process}.jsonl", "ab")  # for as long as the store lives
        content = (self._folder / f"{self._process}.jsonl").read_bytes()
        file.truncate(content.rfind(b"\n") + 1)
        return file


def _verdict(record: Mapping[str, Any]) -> Verdict:
    value = math.nan if record["value"] is None else float(record["value"])
    return Verdict(value=value, status=Status(record["status"]), detail=record["detail"])


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as JSON has them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a verdict's detail holds {type(value).__name__}, which is no JSON value: {value!r:.100}")
