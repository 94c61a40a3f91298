"""A line about how a run is doing: redrawn in place on a terminal, one plain line per step in a file."""

from __future__ import annotations

import collections
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

_RECENT = 20  # lines whose median duration makes the estimate; the first, which compiles, is left out once there is another


class Progress:
    """Tells a person where a run is, how long it still takes, and the few numbers they watch."""

    def __init__(
        self, *, start: int, total: int, watch: Mapping[str, str], stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """start: the first step to come; total: where the run ends. watch: word on the line -> metric name, e.g. {"reward":
        "reward/mean"}.
        """
        self._total, self._watch, self._clock = total, dict(watch), clock
        self._stream = sys.stdout if stream is None else stream
        self._in_place = self._stream.isatty()
        self._durations: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._calls, self._last, self._step = 0, clock(), start - 1
        self._unfinished_line = False
        if 0 < start < total:
            self.say(f"resuming at step {start} of {total}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` is done."""
        now = self._clock()
        if self._calls == 1:
            self._durations.clear()
        self._durations.append((now - self._last) / max(step - self._step, 1))  # steps between two lines share their time
        self._calls, self._last, self._step = self._calls + 1, now, step
        line = self._line(step, metrics)
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{line[:width]}")
            self._unfinished_line = True
        else:
            self._write(line + "\n")

    def say(self, text: str) -> None:
        """A line of its own, above the progress line."""
        self.close()
        self._write(text + "\n")

    def close(self) -> None:
        """Leave the last progress line standing."""
        if self._unfinished_line:
            self._write("\n")
        self._unfinished_line = False

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        seconds = statistics.median(self._durations)
        done, total = step + 1, self._total
        place = f"step {done:{len(str(total))}d}/{total}  {done / max(total, 1):4.0%}  eta {clock_face(seconds * (total - done))}"
        watched = [f"{word} {_number(metrics[name])}" for word, name in self._watch.items() if name in metrics]
        return "  ".join([place, *watched, f"{seconds:.2f} s/step"])

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def clock_face(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m05s, 2h07m, 3d04h."""
    seconds = max(0, round(seconds))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def _number(value: float) -> str:
    """Four significant digits at most, of a width that hardly moves."""
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e3 or value == 0 else f"{value:.2e}"
