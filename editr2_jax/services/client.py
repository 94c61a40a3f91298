"""What all clients of a service share: a pool of endpoints, a cache of answers by their content, and counts of both."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from editr2_jax.rewards.base import ServiceError
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.endpoints import Endpoints

T = TypeVar("T")


class Client:
    """A pool, perhaps with a cache. Thread-safe. Owns both: closing it closes them."""

    def __init__(self, endpoints: Endpoints, cache: AnswerCache | None):
        self._endpoints, self._cache = endpoints, cache
        self._counts: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        self._asking: dict[str, concurrent.futures.Future] = {}  # what is being asked at the moment, by the cache's key

    def close(self) -> None:
        """Ends requests on their way, and lets go of the cache."""
        self._endpoints.close()
        if self._cache is not None:
            self._cache.close()

    def counters(self) -> dict[str, float]:
        """The pool's counts since the start, and what the cache answered."""
        return self._endpoints.counters() | {name: float(count) for name, count in self._counts.copy().items()}

    def _shared(self, keys: Sequence[str], answer: Callable[[Sequence[str]], Mapping[str, T]]) -> dict[str, T]:
        """What is said about the keys: by `answer`, which looks into the cache, asks and stores, or to whoever asks the same just now.

        Rollouts of a group come with the same source picture at once. Without a cache answers are nobody else's, and everybody asks.
        """
        if self._cache is None:
            return dict(answer(keys))
        with self._counting:
            others = {key: self._asking[key] for key in keys if key in self._asking}
            mine = {key: concurrent.futures.Future() for key in keys if key not in others}
            self._asking.update(mine)
            if others:
                self._counts["cache_hits"] += len(others)
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
            with self._counting:
                for key in mine:
                    del self._asking[key]
        return told | {key: future.result() for key, future in others.items()}

    def _kept(self, key: str, about: str) -> str | bytes | None:
        """What the cache has; None where it has nothing, or there is none. Raises ServiceError in replay for what is missing.

        about: what was asked, as the error names it.
        """
        if self._cache is None:
            return None
        kept = self._cache.get(key)
        with self._counting:
            self._counts["cache_misses" if kept is None else "cache_hits"] += 1
        if kept is None and self._cache.replays:
            raise ServiceError(f"Replay has no answer to {about} ({key[:12]}); record it with the mode 'use'.")
        return kept
