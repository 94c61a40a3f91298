"""Named steps of a directory of checkpoints: `latest.json`, `healthy.json` and `best.json` beside the steps' folders.

A pointer is a small JSON record, {"step": 40, ...}, replaced as a whole. It is written after its step is complete and before anything it
named earlier is deleted, so whenever a process dies, every pointer on disk names a whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from editr2_jax.runtime import workdir

LATEST, HEALTHY, BEST = "latest", "healthy", "best"
NAMES = (LATEST, HEALTHY, BEST)


class Pointers:
    """The pointers as they should be, in memory, and as they are on disk. Every process holds them alike; `writes` in one of them."""

    def __init__(self, directory: Path, steps: Collection[int], *, writes: bool):
        """Takes up what is on disk, less what does not name one of `steps`: a folder may have been removed by hand."""
        self._directory, self._writes = directory, writes
        self._on_disk = read(directory)
        self._wanted = dict(self._on_disk)
        self.keep_to(steps)

    def get(self, name: str) -> dict[str, Any] | None:
        """The record of a pointer, or None."""
        return self._wanted.get(name)

    def set(self, name: str, record: Mapping[str, Any]) -> None:
        """Point to record["step"]; on disk after `publish`."""
        self._wanted[name] = dict(record)

    def pinned(self) -> set[int]:
        """Steps that a pointer names: they are not deleted."""
        return {record["step"] for name, record in self._wanted.items() if name != LATEST}

    def keep_to(self, steps: Collection[int]) -> None:
        """Drop what names no step of `steps`; the latest is the last of them."""
        self._wanted = {name: record for name, record in self._wanted.items() if record["step"] in steps and name != LATEST}
        if steps:
            self._wanted[LATEST] = {"step": max(steps)}

    def publish(self, *, incomplete: int | None = None) -> None:
        """Bring the files up to date, but for pointers to the step that is not complete yet."""
        for name in NAMES:
            wanted, there = self._wanted.get(name), self._on_disk.get(name)
            if wanted == there or (wanted and wanted["step"] == incomplete):
                continue
            if self._writes:
                self._write(name, wanted)
            self._on_disk = {k: v for k, v in self._on_disk.items() if k != name} | ({name: wanted} if wanted else {})

    def go_back(self) -> None:
        """Forget pointers to a step whose save failed."""
        self._wanted = dict(self._on_disk)

    def _write(self, name: str, record: Mapping[str, Any] | None) -> None:
        path = _path(self._directory, name)
        if record is None:
            path.unlink(missing_ok=True)
        else:
            workdir.write_json(path, record)


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Name -> record of the pointers on disk; raises ValueError naming a file that is no pointer."""
    found = {}
    for name in NAMES:
        path = _path(directory, name)
        try:
            record = workdir.read_json(path)
        except FileNotFoundError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f'{path}: not a pointer to a checkpoint, which looks like {{"step": 40}}; remove the file.')
        found[name] = record
    return found


def kept(steps: Sequence[int], *, keep: int, keep_every: int, pinned: Collection[int]) -> list[int]:
    """Which of the steps stay: the newest `keep`, those divisible by `keep_every`, and those that a pointer names; oldest first."""
    newest = set(sorted(steps)[-keep:])
    return sorted(step for step in set(steps) if step in newest or step in pinned or (keep_every and step % keep_every == 0))


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.json"
