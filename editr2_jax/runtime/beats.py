"""Signs of life: what every host says about itself once a second, where it is written, and who has gone silent.

The board is the key-value store that jax.distributed keeps in process 0. It needs no port and no protocol of ours, and native threads
answer it, so a process 0 whose Python hangs is seen to be silent like any other host. When process 0 itself is gone, the board is gone
with it: then nobody can be heard, and host 0 alone is to blame for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from jax._src import distributed  # the store has no public name; orbax reads it in the same place

BEAT_S = 1.0  # between two signs of life
NO_PHASE = "no phase yet"
_LONGEST_SENTENCE = 600  # characters; an exception can carry pages


class Board(Protocol):
    """Where hosts leave notes for each other. Every call may raise or hang when host 0 is gone."""

    def write(self, key: str, text: str) -> None: ...

    def read(self, folder: str) -> dict[str, str]:
        """All notes below `folder`, by their name in it."""

    def erase(self, folder: str) -> None: ...


class JaxBoard:
    """The key-value store of jax.distributed, which must be initialized."""

    def __init__(self):
        self._client = distributed.global_state.client

    def write(self, key: str, text: str) -> None:
        self._client.key_value_set(key, text, allow_overwrite=True)

    def read(self, folder: str) -> dict[str, str]:
        return {key.rsplit("/", 1)[1]: text for key, text in self._client.key_value_dir_get(folder + "/")}

    def erase(self, folder: str) -> None:
        self._client.key_value_delete(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beat:
    """One sign of life."""

    name: str  # of the machine
    pid: int
    place: str  # where the host is in the run: "step 12, rollout, turn 1"
    count: int  # grows with every beat
    stopped: str = ""  # why this host stops, as a whole sentence; empty while it runs

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Beat:
        """Raises ValueError for anything that is no beat."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a beat of this version of editr2_jax ({error}); start all hosts from one commit.") from None


def one_line(text: str) -> str:
    """The text without line breaks, cut where it grows too long for a log."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SENTENCE else line[: _LONGEST_SENTENCE - 3] + "..."


class Place:
    """Where this host is in the run; written by its main thread, read by the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, changed: Callable[[], object] = lambda: None):
        self._clock, self._changed = clock, changed
        self._frames: list[tuple[str, Mapping[str, object]]] = []  # the phases that are open, outermost first
        self._lock = threading.Lock()
        self._words = NO_PHASE  # between two phases the last one's words stand
        self._show()

    @contextlib.contextmanager
    def phase(self, name: str, **details: object) -> Iterator[None]:
        """After an error the place stays where the error came from, until work goes on."""
        self._frames.append((name, details))
        self._show()
        try:
            yield
        except BaseException:
            self._frames.pop()
            with self._lock:
                self._since, self._watched = self._clock(), bool(self._frames)
            raise
        self._frames.pop()
        self._show()

    def look(self) -> tuple[str, float]:
        """The place in words, and the seconds since it last changed; 0 outside any phase, where nobody looks for progress."""
        with self._lock:
            return self._words, self._clock() - self._since if self._watched else 0.0

    def _show(self) -> None:
        steps = [details["step"] for _, details in self._frames if "step" in details]
        words = [f"step {steps[-1]}"] if steps else []
        for name, details in self._frames:
            words += [name, *(f"{key} {value}" for key, value in details.items() if key != "step")]
        with self._lock:
            self._words = ", ".join(words) or self._words
            self._since, self._watched = self._clock(), bool(self._frames)
        self._changed()


class Roll:
    """What this host has heard from all, itself included, and how long each has been silent."""

    def __init__(self, *, index: int, count: int, clock: Callable[[], float] = time.monotonic):
        self._clock, self._index = clock, index
        self._own = Beat(name=socket.gethostname(), pid=os.getpid(), place=NO_PHASE, count=0)
        self._lock = threading.Lock()  # one thread beats, another watches, and any may have the last word
        self._beats: dict[int, Beat] = {}  # of the others
        self._answered = clock()
        self._heard = {host: self._answered for host in range(count) if host != index}
        self._heard_before = dict(self._heard)  # the time of the beat before the last

    def own(self, place: str) -> Beat:
        """This host's next beat."""
        with self._lock:
            self._own = dataclasses.replace(self._own, place=place, count=self._own.count + 1)
        return self._own

    def own_end(self, sentence: str) -> None:
        """From now on every beat of this host says why it stops."""
        with self._lock:
            self._own = dataclasses.replace(self._own, stopped=one_line(sentence))

    def hear(self, beats: Mapping[int, Beat]) -> None:
        """Take what the board said."""
        with self._lock:
            self._answered = self._clock()
            for host, beat in beats.items():
                if host in self._heard and (host not in self._beats or beat.count != self._beats[host].count):
                    self._beats[host] = beat
                    self._heard_before[host], self._heard[host] = self._heard[host], self._answered

    def silence(self, host: int) -> float:
        """Seconds for which the board had nothing new from `host`. Only host 0 grows silent while the board does not answer."""
        return (self._clock() if host == 0 else self._answered) - self._heard[host]

    def silent(self, longer_than: float) -> list[int]:
        return [host for host in sorted(self._heard) if self.silence(host) > longer_than]

    def all_lived_after(self, moment: float) -> bool:
        """Two beats of each were read since: the first may have been written earlier, the second was not."""
        return all(heard > moment for heard in self._heard_before.values())

    def forgive(self, seconds: float) -> None:
        """This process itself was stopped for so long: that was nobody's silence."""
        with self._lock:
            now = self._clock()
            self._answered = min(now, self._answered + seconds)
            self._heard = {host: min(now, heard + seconds) for host, heard in self._heard.items()}

    def stopped(self) -> str:
        """The sentence of a host that has stopped; empty while none has."""
        return next((beat.stopped for _, beat in sorted(self._beats.items()) if beat.stopped), "")

    def who(self, host: int) -> str:
        beat = self._own if host == self._index else self._beats.get(host)
        return f"host {host} ({beat.name}, process {beat.pid})" if beat else f"host {host} (never heard)"

    def place(self, host: int) -> str:
        return self._beats[host].place if host in self._beats else "a place unknown"
