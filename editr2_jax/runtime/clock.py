"""Where the seconds of a step go, though the host runs ahead of the devices.

Two kinds of phases. A `phase` is a block at whose end the host waits for its results anyway (rollout, update, save), or works without
devices (data, reward_wait). A `follow`ed program was only sent off: nobody waits for it here. A thread of the clock's own waits for its
outputs instead, in the order of sending, which is the order in which devices work:

    seconds of a program = ready - max(sent, ready of the one before it)
    seconds of a phase   = end - max(start, ready of the last program sent before it)

So no phase contains another one's work, a phase that waits for judges counts from the moment the devices have nothing left to do, and the
host makes no round trip for the clock's sake. Blocks: `metrics` alone, until everything followed is ready; call it at the end of a step,
when the host has waited for the step's last result.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

Annotate = Callable[[str], contextlib.AbstractContextManager[None]]
MemoryStats = Callable[[], Sequence[Mapping[str, int]]]
_GB = 1e9


def device_memory() -> list[Mapping[str, int]]:
    """The local devices' own account of their memory; [] where the backend keeps none, as on CPUs."""
    return [stats for device in jax.local_devices() if (stats := device.memory_stats())]


@dataclasses.dataclass
class _Sent:
    """A program under way."""

    name: str
    started: float
    outputs: Any  # given up when ready, so that the clock keeps nothing alive
    before: float = 0.0  # when the one before it was ready
    ready: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.ready - max(self.started, self.before), 0.0)


class Clock:
    """Seconds, share of the peak, and memory of the phases of a step. One for a run; used by one thread."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[Any], Any] = jax.block_until_ready,
        memory: MemoryStats = device_memory,
        annotate: Annotate = jax.profiler.TraceAnnotation,
    ):
        """annotate: what a phase is entered with, besides: `Profiler.phase` names it in a trace."""
        self._now, self._wait, self._memory, self._annotate = now, wait, memory, annotate
        self._queue: queue.SimpleQueue[_Sent | threading.Event] = queue.SimpleQueue()
        self._sent: list[_Sent] = []
        self._blocks: list[tuple[str, float, float, int]] = []  # name, start, end, how many programs had been sent at the start
        self._peaks: dict[str, int] = {}
        self._peak = self._ready = 0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A block of the step, such as "update"; its end must have waited for what it started. Nothing is counted where it raises."""
        start, sent = self._now(), len(self._sent)
        with self._annotate(name):
            yield
        self._blocks.append((name, start, self._now(), sent))
        self._look_at_memory(name)

    def follow(self, name: str, started: float, outputs: Any) -> None:
        """A program was sent at `started` (`clock.now()`), and `outputs` are arrays of its that no other program is given for good."""
        sent = _Sent(name, started, outputs)
        self._sent.append(sent)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="clock", daemon=True)
            self._thread.start()
        self._queue.put(sent)

    def now(self) -> float:
        return self._now()

    def metrics(self, *, flops: Mapping[str, float] | None = None, peak: float | None = None) -> dict[str, float]:
        """The step so far as metrics, which begin anew: time/NAME_s, mfu/NAME, memory/NAME_peak_gb. Waits for what was followed.

        flops: useful FLOPs of a phase on all devices of the run. peak: FLOP/s of these devices; None leaves mfu out. Memory: the devices'
        highest mark over the life of the process, told for the phase that last raised it (a lower phase has no number), and memory/peak_gb.
        """
        self._settle()
        seconds: collections.Counter[str] = collections.Counter()
        for sent in self._sent:
            seconds[sent.name] += sent.seconds
        for name, start, end, sent in self._blocks:
            ready = self._sent[sent - 1].ready if sent else start
            seconds[name] += max(end - max(start, ready), 0.0)
        self._sent, self._blocks = [], []
        told = {f"time/{name}_s": value for name, value in seconds.items()}
        if peak:
            used = {name: (flops or {}).get(name, 0.0) / peak for name in seconds}
            told |= {f"mfu/{name}": used[name] / value for name, value in seconds.items() if used[name] and value > 0}
        return told | self._memory_metrics()

    def _settle(self) -> None:
        """Returns when everything followed is ready."""
        if self._thread is not None:
            done = threading.Event()
            self._queue.put(done)
            done.wait()

    def _watch(self) -> None:
        before = 0.0
        while True:
            sent = self._queue.get()
            if isinstance(sent, threading.Event):
                sent.set()
                continue
            with contextlib.suppress(Exception):  # a program that failed raises where its results are used
                self._wait(sent.outputs)
            sent.outputs, sent.before, sent.ready = None, before, self._now()
            before = sent.ready
            self._look_at_memory(sent.name)

    def _look_at_memory(self, name: str) -> None:
        peak = max((stats.get("peak_bytes_in_use", 0) for stats in self._memory()), default=0)
        if peak > self._peak:
            self._peak = self._peaks[name] = peak

    def _memory_metrics(self) -> dict[str, float]:
        stats = self._memory()
        if not self._peak:
            return {}
        told = {f"memory/{name}_peak_gb": peak / _GB for name, peak in self._peaks.items()}
        return told | {"memory/peak_gb": self._peak / _GB, "memory/in_use_gb": max(one.get("bytes_in_use", 0) for one in stats) / _GB}
