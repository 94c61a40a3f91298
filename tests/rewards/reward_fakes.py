"""Scripted services: pictures are told apart by their first pixel, answers are looked up, never computed."""

import math

import numpy as np

from editr2_jax import records
from editr2_jax.records import Episode, Session, Status, Turn, Verdict
from editr2_jax.rewards.base import Detection, Features


def picture(number, size=8):
    """A picture whose first pixel carries its number."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[0, 0] = number
    return pixels


def number_of(pixels):
    return int(pixels[0, 0, 0])


class Detector:
    """script[picture number][phrase] -> list of (box, score)."""

    def __init__(self, script):
        self.script = script

    def detect(self, pixels, phrases):
        found = self.script.get(number_of(pixels), {})
        return [Detection(box=box, score=score, phrase=phrase) for phrase in phrases for box, score in found.get(phrase, [])]


class BrokenDetector:
    def detect(self, pixels, phrases):
        raise ConnectionError("detector is down")


class Answerer:
    """script[kind] -> an answer, a list of answers by vote, or a function of (picture numbers, fields)."""

    def __init__(self, script=None):
        self.script, self.asked = script or {}, []

    def ask(self, pictures, question):
        self.asked.append(question)
        answer = self.script[question.kind]
        if callable(answer):
            return answer([number_of(pixels) for pixels in pictures], question.fields)
        return answer[question.vote] if isinstance(answer, list) else answer


class BrokenAnswerer:
    def ask(self, pictures, question):
        raise TimeoutError("no answer")


class ColourFeatures:
    """Mean colour, minus grey, of every patch of a 2 x 2 grid."""

    def embed(self, pictures):
        patches = np.stack([_grid(pixels) for pixels in pictures])
        return Features(cls=patches.mean(axis=(1, 2)), patches=patches)


def _grid(pixels):
    rows = np.array_split(pixels.astype(np.float32) / 255 - 0.5, 2, axis=0)
    return np.stack([[part.mean(axis=(0, 1)) for part in np.array_split(row, 2, axis=1)] for row in rows])


class FixedReward:
    """verdicts[(session id, turn)] or a default value; an exception is raised."""

    def __init__(self, name, verdicts=None, default=1.0):
        self.name, self.verdicts, self.default = name, verdicts or {}, default

    def score(self, episode):
        found = self.verdicts.get((episode.session.id, episode.turn), self.default)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Status):
            return Verdict(value=math.nan, status=found)
        return Verdict(value=float(found))


def turn(task_type="color_alter", formatted="Change the color of [red ball] to [blue]", **more):
    fields = {
        "instruction": formatted.replace("[", "").replace("]", ""),
        "bg_consistency": True,
        "unchanged_objects": (),
        "available_objects": (),
        "all_objects": (),
        **more,
    }
    assert task_type in records.TASK_TYPES
    return Turn(task_type=task_type, formatted_instruction=formatted, **fields)


def episode(turns, pictures, subset="plain", id="test/0"):
    """An episode of numbered or given pictures."""
    pixels = tuple(picture(p) if isinstance(p, int) else p for p in pictures)
    return Episode(session=Session(id=id, image="0.png", turns=tuple(turns), subset=subset), pictures=pixels)
