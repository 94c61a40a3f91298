"""What all clients of a service share: a pool of endpoints, a cache of answers by their content, and counts of both."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from editr2_jax.rewards.base import ServiceError
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.endpoints import Endpoints
from editr2_jax.services.single_flight import SingleFlight

T = TypeVar("T")


class Client:
    """A pool, perhaps with a cache. Thread-safe. Owns both: closing it closes them."""

    def __init__(self, endpoints: Endpoints, cache: AnswerCache | None):
        self._endpoints, self._cache = endpoints, cache
        self._counts: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        self._flight: SingleFlight[Any] = SingleFlight()  # by the cache's key

    def close(self) -> None:
        """Ends requests on their way, and lets go of the cache."""
        self._endpoints.close()
        if self._cache is not None:
            self._cache.close()

    def counters(self) -> dict[str, float]:
        """The pool's counts since the start, and what the cache answered."""
        counts = self._counts.copy() + collections.Counter(cache_hits=self._flight.waited)  # 0 is left out
        return self._endpoints.counters() | {name: float(count) for name, count in counts.items()}

    def _shared(self, keys: Sequence[str], answer: Callable[[Sequence[str]], Mapping[str, T]]) -> dict[str, T]:
        """What is said about the keys: by `answer`, which looks into the cache, asks and stores, or to whoever asks the same just now.

        Without a cache answers are nobody else's, and everybody asks.
        """
        if self._cache is None:
            return dict(answer(keys))
        return self._flight.ask(keys, answer)

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
