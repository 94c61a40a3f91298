"""The watch: two threads beside the run that notice a lost host or a stuck phase, say so in one line, and leave.

A host waits for a lost one inside a collective, in native code, where no exception reaches it. So the watch leaves by os._exit with
status 75 (EX_TEMPFAIL: start the same command again), after its line. One thread beats and may hang when the board does; the other only
looks at the clock.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from editr2_jax.runtime.beats import BEAT_S, Beat, Board, Place, Roll, one_line

STATUS = 75  # of a host that leaves because of another one, or because it is stuck
_FOLDER = "editr2/beats"
_SOONEST_BEAT_S = BEAT_S / 4  # after another: a host that enters a phase says so soon, for it may die there
_LINGER_S = 3 * BEAT_S  # host 0 keeps the board for so long after its last word, or the others could not read it
_UNWIND_S = 60.0  # for what this process still does after an error of its own
_LEAVE_WITHIN_S = 2 * _LINGER_S  # even where a log's lock is held by a thread that hangs


class Watch:
    """What this host knows about the others and about its own progress, and what it does about it."""

    def __init__(
        self,
        *,
        index: int = 0,
        count: int = 1,
        silence_s: float,
        stuck_s: float,
        board: Board | None = None,
        say: Callable[[str], None] | None = None,
        stacks: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        leave: Callable[[int], NoReturn] = os._exit,
    ):
        """board: None for a single process. stacks: a folder for what every thread was doing, as host_K_stacks.txt; None for nothing.

        clock, sleep, leave: for tests.
        """
        self._news = threading.Event()  # the next beat should not wait
        self.place, self.roll = Place(clock, self._news.set), Roll(index=index, count=count, clock=clock)
        self._index, self._board, self._silence_s, self._stuck_s = index, board, silence_s, stuck_s
        self._say, self._stacks, self._clock, self._sleep, self._exit = say, stacks, clock, sleep, leave
        self._over, self._leaving, self._ticked = threading.Event(), threading.Lock(), clock()
        self._waits = 0  # waits for others under way; they have a deadline of their own
        self._own_error = False  # this host unwinds by its own error, which is worth more than another host's

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Both threads run within the block."""
        threads = [threading.Thread(target=self._watch, name="watch", daemon=True)]
        if self._board is not None:
            self.exchange()  # so that every host has a name before anything can happen to it
            threads.append(threading.Thread(target=self._beat, name="beats", daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._news.set()
            for thread in threads:  # Python must not end while one of them is in native code that comes back; one that hangs stays there
                thread.join(2 * BEAT_S)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Within the block this host waits for others, which is not being stuck."""
        self._waits += 1
        try:
            with self.place.phase(what):
                yield
        finally:
            self._waits -= 1

    def exchange(self) -> None:
        """Write this host's beat and read all others'."""
        self._board.write(f"{_FOLDER}/{self._index}", self.roll.own(self.place.look()[0]).text())
        self.roll.hear({int(host): Beat.parse(text) for host, text in self._board.read(_FOLDER).items()})

    def look(self) -> None:
        """Leave when another host has stopped or is lost, or when this one is stuck."""
        now, before = self._clock(), self._ticked
        self._ticked = now
        if now - before > 5 * BEAT_S:  # a suspended machine, or a debugger
            self.roll.forgive(now - before)
        if self._own_error:
            return
        if self.roll.stopped():
            self.leave(self.roll.stopped())
        silent = self.roll.silent(self._silence_s)
        if silent:
            self.leave(" ".join(self._lost(host) for host in silent))
        place, since = self.place.look()
        if since > self._stuck_s and not self._waits:
            self.leave(f"{self.roll.who(self._index)} has made no progress for {since:.0f} s in {place}.")

    def falter(self) -> None:
        """Called when something fails here that another host's end may have caused: returns once all others have lived on after it.

        When one of them is gone, it does not return: the watch leaves.
        """
        moment = self._clock()
        while not self.roll.all_lived_after(moment):
            self._sleep(BEAT_S / 4)

    def stop(self, error: str) -> None:
        """Tell the others that this host stops by an error of its own, so that they need not wait for its silence."""
        self._own_error = True
        self._publish(f"{self.roll.who(self._index)} stopped in {self.place.look()[0]}: {one_line(error).rstrip('.')}.")

    def leave(self, sentence: str) -> NoReturn:
        """One line for people, one sentence for the other hosts, and out. Never returns, also to a second thread that has the same idea."""
        self._leaving.acquire()
        guard = threading.Timer(_LEAVE_WITHIN_S, self._exit, (STATUS,))
        guard.daemon = True
        guard.start()
        line = (
            f"{sentence} This host ({self._index}) was in {self.place.look()[0]}. "
            "Stopping; the same command resumes from the last checkpoint."
        )
        with contextlib.suppress(OSError):
            os.write(2, (line + "\n").encode())  # past sys.stderr, whose lock may be held by what hangs
        with contextlib.suppress(Exception):
            self._write_stacks()
        with contextlib.suppress(Exception):
            if self._say is not None:
                self._say(line)
        self._publish(sentence)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        guard.cancel()
        self._exit(STATUS)

    def aborting(self) -> None:
        """Called by abort_held: native code of this process wants to end it."""
        if self._own_error:  # host 0 has heard why this host stops and is gone; let the error be reported in peace
            self._sleep(_UNWIND_S)
            return
        self.falter()
        self.stop("aborted by native code, whose message is in its log")

    def _lost(self, host: int) -> str:
        return f"{self.roll.who(host)} has not been heard from for {self.roll.silence(host):.0f} s; it was in {self.roll.place(host)}."

    def _publish(self, sentence: str) -> None:
        if self._board is None or (self._index != 0 and self.roll.silence(0) > 3 * BEAT_S):  # the board is gone: writing may hang
            return
        self.roll.own_end(sentence)
        with contextlib.suppress(Exception):
            self._board.write(f"{_FOLDER}/{self._index}", self.roll.own(self.place.look()[0]).text())
            if self._index == 0:
                self._sleep(_LINGER_S)

    def _write_stacks(self) -> None:
        if self._stacks is not None:
            self._stacks.mkdir(parents=True, exist_ok=True)
            with open(self._stacks / f"host_{self._index}_stacks.txt", "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)

    def _watch(self) -> None:
        while not self._over.wait(BEAT_S):
            self.look()

    def _beat(self) -> None:
        while not self._over.wait(_SOONEST_BEAT_S):
            self._news.wait(BEAT_S - _SOONEST_BEAT_S)
            self._news.clear()
            with contextlib.suppress(Exception):  # silence is what the other thread looks for
                self.exchange()


@contextlib.contextmanager
def abort_held(first: Callable[[], None], *, after_errors: bool = False) -> Iterator[None]:
    """Within the block, and after an error in it until Python ends if so wished, native code that calls abort() runs `first` before that.

    jax's client aborts the process a few milliseconds after process 0 is gone, with a message that names no host. It takes no callback
    (`missed_heartbeat_callback` ends in std::bad_cast when it is Python's, jax 0.10 and 0.12), so the abort itself is kept waiting until
    the watch has said who is lost. The handler runs on the native thread that aborts; the other threads go on.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        try:
            first()
        finally:
            restore(handler)  # then abort() goes on as it would have

    def restore(_: object) -> None:
        libc.signal(signal.SIGABRT, before)

    before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    atexit.register(restore, handler)  # which keeps it: native code holds no reference to what it calls
    keep = False
    try:
        yield
    except BaseException:
        keep = after_errors
        raise
    finally:
        if not keep:
            restore(handler)
            atexit.unregister(restore)
