"""Who asks what another asks just now waits for that answer: rollouts of a group come with the same source picture at once."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """What is being asked at the moment, by keys; nothing is kept beyond it. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._asking: dict[str, concurrent.futures.Future[T]] = {}
        self._waited = 0

    @property
    def waited(self) -> int:
        """How many keys somebody else was asking for already, since the start."""
        return self._waited

    def ask(self, keys: Sequence[str], answer: Callable[[Sequence[str]], Mapping[str, T]]) -> dict[str, T]:
        """What is said about the keys: by `answer`, or to whoever asks the same just now. An error goes to all who wait for it.

        An `answer` that looks up what is kept before it asks, and keeps what it is told before it returns, is told everything once.
        """
        with self._lock:
            others = {key: self._asking[key] for key in keys if key in self._asking}
            mine = {key: concurrent.futures.Future() for key in keys if key not in others}
            self._asking.update(mine)
            self._waited += len(others)
        told: dict[str, T] = {}
        try:  # own keys first, so that nobody waits in a circle
            told.update(answer(list(mine)) if mine else {})
            for key, future in mine.items():
                future.set_result(told[key])
        except BaseException as error:
            for future in mine.values():
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            with self._lock:
                for key in mine:
                    del self._asking[key]
        return told | {key: future.result() for key, future in others.items()}
