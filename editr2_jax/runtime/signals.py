"""Stopping politely: a signal raises a flag, the work that looks at it comes to a place where it can stop, the run saves and leaves."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Interrupted(RuntimeError):
    """Work was asked to stop and did, at a place that it can go on from: what is done of it is on disk."""


@contextlib.contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and the first SIGINT (Ctrl-C) only raise a flag; the value of `with` asks for it.

        with signals.stop_flag() as stop_requested:
            for step in ...:
                ...
                if stop_requested():
                    break

    A second Ctrl-C raises KeyboardInterrupt, for a person who does not want to wait. The handlers of before return afterwards.
    Python lets only the main thread set handlers: in any other thread the flag exists and nothing raises it.
    """
    raised = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if number == signal.SIGINT and raised.is_set():
            raise KeyboardInterrupt
        raised.set()

    if threading.current_thread() is not threading.main_thread():
        yield raised.is_set
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield raised.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
