"""A detector in this process that remembers: content consistency asks about one source picture for every rollout and turn.

The detector behind HTTP has a file for that (answer_cache.py), the embedded world's eyes their own sharing (tabletop/perception.py).
Feature extractors are not remembered: the last bits of an embedding depend on how many pictures are in the call, so that a verdict would
depend on who asked before. Measured on a CPU, against each picture alone: JaxDinoV3 to 2e-6, VitFeatures to 4e-6; TorchDinoV3 gave the
same bits, which is not promised on a GPU, where it is used.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence

import numpy as np

from editr2_jax.rewards.base import Detection, Detector
from editr2_jax.services import answer_cache
from editr2_jax.services.single_flight import SingleFlight

_BOXES = 1 << 16  # that are kept; some 400 bytes each, and pictures are kept as hashes: 25 MB


class DetectorMemory:
    """Asks a detector that answers the same question alike, and asks it once. Thread-safe; what it remembers ends with the suite."""

    def __init__(self, detector: Detector, *, boxes: int = _BOXES):
        """boxes: how many are kept, an answer counting one more than it has; the answers that nobody wanted for longest go first."""
        self._detector, self._most = detector, boxes
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[str, tuple[Detection, ...]] = collections.OrderedDict()  # the latest used last
        self._boxes, self._hits, self._misses = 0, 0, 0
        self._flight: SingleFlight[tuple[Detection, ...]] = SingleFlight()

    def detect(self, picture: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        """As the detector says, or has said about these pixels and these phrases in this order, which are one prompt.

        What it raises is raised, also to who waits for the same answer, and not remembered.
        """
        key = answer_cache.key_of({"phrases": list(phrases)}, [picture])
        return list(self._flight.ask([key], lambda _: {key: self._found(key, picture, phrases)})[key])

    def close(self) -> None:
        """Forgets."""
        with self._lock:
            self._known.clear()
            self._boxes = 0

    def counters(self) -> dict[str, float]:
        """Answers that were known or being given, and those that the detector was asked for, by the names of a service behind HTTP."""
        with self._lock:
            counts = {"cache_hits": self._hits + self._flight.waited, "cache_misses": self._misses}
        return {name: float(count) for name, count in counts.items() if count}

    def _found(self, key: str, picture: np.ndarray, phrases: Sequence[str]) -> tuple[Detection, ...]:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                self._hits += 1
                return known
            self._misses += 1
        found = tuple(self._detector.detect(picture, phrases))
        with self._lock:
            self._known[key] = found
            self._boxes += 1 + len(found)
            while self._boxes > self._most:
                self._boxes -= 1 + len(self._known.popitem(last=False)[1])
        return found
