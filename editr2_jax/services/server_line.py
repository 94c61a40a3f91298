"""Requests in line for one model: it is called in a thread of its own, once at a time, with one request or several that wait together.

Several in one call save time where a model is faster on more pictures; but matrix products of other sizes may be rounded otherwise, so
that an answer then depends, in its last bits, on who else was waiting.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    asked: Any
    size: int  # pictures
    future: concurrent.futures.Future


class Line:
    """The line before one model. Close it when the last request has been answered."""

    def __init__(self, call: Callable[[Sequence[Any]], Sequence[Any]], *, most: int = 1):
        """call: requests in, their answers out, in order. most: pictures of the requests of one call; one request may have more."""
        self._call, self._most = call, most
        self._waiting: collections.deque[_Place] = collections.deque()
        self._lock = threading.Lock()
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.calls, self.seconds = 0, 0.0  # of the model

    async def ask(self, asked: Any, *, size: int = 1) -> Any:
        """The answer, or the exception that the model raised. Who is cancelled while waiting is left out."""
        place = _Place(asked, size, concurrent.futures.Future())
        with self._lock:
            self._waiting.append(place)
        self._thread.submit(self._serve)
        try:
            return await asyncio.wrap_future(place.future)
        finally:
            with self._lock, contextlib.suppress(ValueError):  # who gives up takes along what was asked: pictures are large
                self._waiting.remove(place)

    def close(self) -> None:
        """Lets go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        """Answers the first in line, and those behind it who fit into the same call. Called once by each who asks: nobody is left."""
        places = self._next()
        if not places:
            return
        started = time.perf_counter()
        try:
            pairs = list(zip(places, self._call([place.asked for place in places]), strict=True))
        except BaseException as error:
            for place in places:
                place.future.set_exception(error)
        else:
            for place, answer in pairs:
                place.future.set_result(answer)
        finally:
            self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - started

    def _next(self) -> list[_Place]:
        places, size = [], 0
        with self._lock:
            while self._waiting and (not places or size + self._waiting[0].size <= self._most):
                place = self._waiting.popleft()
                if place.future.set_running_or_notify_cancel():
                    places.append(place)
                    size += place.size
        return places
