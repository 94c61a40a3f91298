"""One writer for the numbers of a run.

metrics.jsonl is the truth: one line per step, {"step": 12, "reward/mean": 0.61, ...}, each step once however often the run was killed and
resumed; null stands for a number that is not finite. TensorBoard files beside it and the progress line are for looking. Names are
area/quantity, such as image/clip_fraction or reward/if/turn_1. Only process 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import jax
import numpy as np

from editr2_jax.runtime import workdir
from editr2_jax.runtime.progress import Progress
from editr2_jax.runtime.tensorboard import EventFile

FILE = "metrics.jsonl"
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")


class MetricsWriter:
    """Writes the metrics of one run, in increasing steps. Usable as a context manager."""

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        start: int,
        total: int,
        watch: Mapping[str, str] | None = None,
        stream: TextIO | None = None,
    ):
        """Open the record of a run at `start`, the first step to come: what it says about that step and later ones is dropped.

        start: 0, or where a resumed run goes on. total: where the run ends. watch: word on the progress line -> metric name.
        stream: where that line goes, by default to standard output. Raises ValueError for a directory that is not writable, and for a
        record that breaks anywhere but in its last line.
        """
        self._speaks = jax.process_index() == 0
        self._last = start - 1
        if not self._speaks:
            return
        folder = workdir.writable(directory)
        truncate(folder, start)
        self._file = open(folder / FILE, "ab")
        self._events = EventFile(folder / "tensorboard", start=start)
        self._progress = Progress(start=start, total=total, watch=watch or {}, stream=stream)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, float | np.ndarray | jax.Array]) -> None:
        """Record a finished step. On return its line survives the death of the process and of the machine.

        metrics: name -> one number (Python, numpy or jax). Raises ValueError for a step not after the last one, a name that is not
        area/quantity, or a value that is no single number.
        """
        if step <= self._last:
            raise ValueError(f"metrics.write: step {step} comes after step {self._last}; each step is written once, in order.")
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        self._last = step
        if not self._speaks:
            return
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        line = json.dumps({"step": step} | {name: finite.get(name) for name in numbers})
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.write(step, finite)
        self._progress.step(step, numbers)

    def say(self, text: str) -> None:
        """A line for the person who watches, which does not tear the progress line."""
        if self._speaks:
            self._progress.say(text)

    def close(self) -> None:
        if self._speaks:
            self._file.close()
            self._events.close()
            self._progress.close()


def read(directory: str | os.PathLike) -> list[dict[str, float | None]]:
    """The lines of a run's metrics.jsonl, oldest first; [] where there are none yet. A run may be writing: a torn last line is left out.

    Raises ValueError naming the line for one that breaks elsewhere.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [
        _parse(path, number, line) for number, line in enumerate(lines[:-1], start=1)
    ]  # what follows the last newline is torn, or empty


def truncate(directory: Path, start: int) -> None:
    """Drop the record of `start` and later steps, and a torn last line; the file is replaced as a whole, or left alone if nothing goes."""
    path = directory / FILE
    if not path.exists():
        return
    kept = "".join(json.dumps(line) + "\n" for line in read(directory) if line["step"] < start)
    if kept.encode() != path.read_bytes():
        workdir.replace_text(path, kept)


def _parse(path: Path, number: int, line: bytes) -> dict[str, float | None]:
    try:
        parsed = json.loads(line)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("step"), int):
        raise ValueError(f"{path}:{number}: not a line of metrics ({line[:60]!r}); restore the file, or choose another --workdir.")
    return parsed


def _number(name: str, value: float | np.ndarray | jax.Array) -> float:
    if not _NAME.fullmatch(name):
        raise ValueError(f"metrics.write: {name!r} is not of the form area/quantity in lower case, such as image/clip_fraction.")
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" and str(array.dtype) != "bfloat16":
        raise ValueError(f"metrics.write: {name} wants one number, got {array.dtype}{list(array.shape)}; reduce it first.")
    return float(array.reshape(()))
