"""A detector in this process that remembers: what is asked once, what is asked again, and who waits for whom."""

import concurrent.futures
import threading
import time

import numpy as np
import pytest

from editr2_jax.rewards.base import Detection, Detector
from editr2_jax.services.detector_memory import DetectorMemory


def picture(number):
    return np.full((4, 6, 3), number, np.uint8)


class Listening:
    """One box for every phrase; what it was asked, and `then` before it answers."""

    def __init__(self, then=lambda: None):
        self.asked, self._then = [], then

    def detect(self, pixels, phrases):
        self.asked.append((int(pixels[0, 0, 0]), *phrases))
        self._then()
        return [Detection(box=(0.0, 0.0, 0.5, 0.5), score=pixels[0, 0, 0] / 255, phrase=phrase) for phrase in phrases]


def test_the_same_question_is_asked_once_and_another_one_is_another():
    eyes = Listening()
    memory = DetectorMemory(eyes)
    assert isinstance(memory, Detector) and memory.counters() == {}
    first = memory.detect(picture(1), ["cat", "hat"])
    first.clear()  # whoever asks owns what it is told
    assert memory.detect(picture(1), ("cat", "hat")) == Listening().detect(picture(1), ("cat", "hat"))
    assert eyes.asked == [(1, "cat", "hat")]
    assert memory.counters() == {"cache_hits": 1.0, "cache_misses": 1.0}
    others = [
        (picture(2), ["cat", "hat"]),
        (picture(1), ["hat", "cat"]),
        (picture(1), ["cat"]),
        (picture(1), ["cat hat"]),
        (picture(1), []),
    ]
    for pixels, phrases in others:
        assert memory.detect(pixels, phrases) == Listening().detect(pixels, phrases)
    memory.detect(picture(1).reshape(6, 4, 3), ["cat", "hat"])  # the same bytes
    assert len(eyes.asked) == 1 + len(others) + 1 and memory.counters()["cache_hits"] == 1


def test_the_answers_that_nobody_wanted_for_longest_are_forgotten():
    eyes = Listening()
    memory = DetectorMemory(eyes, boxes=5)
    ask = lambda *numbers: [memory.detect(picture(number), ["cat"]) for number in numbers]  # noqa: E731
    ask(1, 2, 1, 3)  # each counts two: its box and itself
    assert [number for number, _ in eyes.asked] == [1, 2, 3]
    ask(1, 3)
    assert [number for number, _ in eyes.asked] == [1, 2, 3]
    ask(2, 3, 1)
    assert [number for number, _ in eyes.asked] == [1, 2, 3, 2, 1]
    large = ["cat", "hat", "dog", "cup", "sign"]
    assert len(memory.detect(picture(4), large)) == len(memory.detect(picture(4), large)) == 5  # more than is ever kept, and answered
    assert [number for number, *_ in eyes.asked[5:]] == [4, 4]


def test_what_is_closed_is_forgotten():
    eyes = Listening()
    memory = DetectorMemory(eyes, boxes=2)
    for _ in range(2):
        memory.detect(picture(1), ["cat"])
        memory.detect(picture(1), ["cat"])
        memory.close()
    assert len(eyes.asked) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_who_asks_the_same_at_once_waits_for_one_call(fails):
    """Nobody is answered before all six have asked."""
    arrived = lambda: len(eyes.asked) + memory.counters().get("cache_hits", 0)  # noqa: E731

    def until_all_are_there():
        while arrived() < 6:
            time.sleep(0.001)
        if fails:
            raise RuntimeError("out of memory")

    def ask(_):
        try:
            return memory.detect(picture(1), ["cat"])
        except RuntimeError as error:
            return str(error)

    eyes = Listening(until_all_are_there)
    memory = DetectorMemory(eyes)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        told = list(pool.map(ask, range(6)))
    assert len(eyes.asked) == 1 and memory.counters() == {"cache_hits": 5.0, "cache_misses": 1.0}
    assert told == ["out of memory"] * 6 if fails else told == [Listening().detect(picture(1), ["cat"])] * 6
    assert len({id(one) for one in told}) == 6 or fails


def test_different_questions_are_asked_side_by_side():
    both = threading.Barrier(2)
    memory = DetectorMemory(Listening(lambda: both.wait(timeout=60)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda number: memory.detect(picture(number), ["cat"]), (1, 2)))
    assert [found[0].score for found in told] == [1 / 255, 2 / 255]


def test_an_error_is_not_remembered():
    errors = [RuntimeError("out of memory"), ValueError("no words")]

    def fail():
        if errors:
            raise errors.pop(0)

    eyes = Listening(fail)
    memory = DetectorMemory(eyes)
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind):
            memory.detect(picture(1), ["cat"])
    assert memory.detect(picture(1), ["cat"]) == memory.detect(picture(1), ["cat"]) != []
    assert len(eyes.asked) == 3 and memory.counters() == {"cache_hits": 1.0, "cache_misses": 3.0}
