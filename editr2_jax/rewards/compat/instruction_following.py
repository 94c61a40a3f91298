"""IF in the arithmetic of the published evaluators, for comparing with their numbers; the rules are in edit_r2_if and edival_if.

    IF = what the boxes say (0 or 1)  x  share of the votes whose answer contains "yes", or the wanted text

Theirs is kept: boxes above a threshold in the network's order, substrings, 0 for an instruction that they cannot parse. What is not:
a service that does not answer has no score here (SERVICE_ERROR), where they made one up: 0 for a question or a detection that failed, and
so 1 for a removal whose second detection failed, 0.5 for a whole request that failed. They also encode pictures as JPEG; here nothing is
lossy. Detectors run once, as they answer alike every time; only questions are repeated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.data import instruction_grammar
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.records import FREE_FORM, Episode, Status, Turn, Verdict
from editr2_jax.rewards import base, questions
from editr2_jax.rewards.base import Box, Detection, Detector, QuestionAnswerer
from editr2_jax.rewards.compat import prompts
from editr2_jax.rewards.content_consistency import at_size
from editr2_jax.rewards.questions import Question

UNPARSED = "the instruction cannot be parsed, which counts 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Whose rules: one per task type, and how pictures reach them."""

    name: str
    rules: Mapping[str, Callable[[Case, Edit], float]]
    side: int = 0  # pixels that both sides of every picture are brought to, whatever its shape; 0: as it is


class CompatInstructionFollowing:
    """The rule engine of a published evaluator."""

    name = "if"

    def __init__(self, detector: Detector, answerer: QuestionAnswerer, arithmetic: Arithmetic, *, votes: int = 1):
        """votes: answers per question, averaged. Edit-R2 takes 4 at temperature 0.6, EdiVal 1 at temperature 0."""
        if votes < 1:
            raise ValueError(f"CompatInstructionFollowing: votes is {votes}; ask at least once.")
        self._detector, self._answerer, self._arithmetic, self._votes = detector, answerer, arithmetic, votes
        self.fingerprint = arithmetic.name + questions.wording([kind for kind in prompts.TEXTS if kind != "r2_prefix"])

    def score(self, episode: Episode) -> Verdict:
        """IF of the latest turn, in [0, 1]. NOT_APPLICABLE to a free-form edit, which no published data has."""
        turn = episode.session.turns[episode.turn]
        if turn.task_type == FREE_FORM:
            return base.missing(Status.NOT_APPLICABLE, "a free-form edit names no slots to look for")
        edit = instruction_grammar.search(turn.formatted_instruction, turn.task_type)
        if edit is None:
            return Verdict(value=0.0, detail={"arithmetic": self._arithmetic.name, "reason": UNPARSED})
        side = self._arithmetic.side
        before, after = (at_size(picture, (side, side)) if side else picture for picture in episode.pictures[-2:])
        case = Case(turn, before, after, self._detector, self._answerer, self._votes)
        value = self._arithmetic.rules[turn.task_type](case, edit)
        return Verdict(value=float(value), detail={"arithmetic": self._arithmetic.name, **case.detail})


class Case:
    """One edit being judged: its pictures, the services, and the notes for the verdict."""

    def __init__(self, turn: Turn, before: np.ndarray, after: np.ndarray, detector: Detector, answerer: QuestionAnswerer, votes: int):
        self.turn, self.before, self.after, self.detail = turn, before, after, {}
        self._detector, self._answerer, self._votes = detector, answerer, votes

    def all(self, picture: np.ndarray, name: str, threshold: float = 0.30) -> list[Box]:
        """Boxes above the threshold, in the network's order."""
        return [detection.box for detection in self._found(picture, name, threshold)]

    def top(self, picture: np.ndarray, name: str, threshold: float = 0.30, *, small: bool = False) -> Box | None:
        """The best box above the threshold, or None; `small` leaves out those as wide and as high as the picture."""
        found = self._found(picture, name, threshold)
        kept = base.without_whole_picture(found) if small else found
        return max(kept, key=lambda detection: detection.score).box if kept else None

    def yes(self, kind: str, *pictures: np.ndarray, **fields: Any) -> float:
        """Share of answers that contain "yes"."""
        return self._share(kind, pictures, fields, "yes")

    def reads(self, picture: np.ndarray, text: str) -> float:
        """Share of answers that contain the text, whatever its case."""
        return self._share("free_text", (picture,), {}, text.lower())

    def told(self, kind: str, **fields: Any) -> str:
        """One answer about words alone."""
        return self._answerer.ask((), Question(kind, fields))

    def _found(self, picture: np.ndarray, name: str, threshold: float) -> list[Detection]:
        phrase = name.strip().lower().replace(".", "")
        return [detection for detection in self._detector.detect(picture, (phrase,)) if detection.score > threshold]

    def _share(self, kind: str, pictures: Sequence[np.ndarray], fields: Mapping[str, Any], wanted: str) -> float:
        question = Question(kind, fields)
        ask = functools.partial(self._answerer.ask, tuple(pictures))
        found = questions.votes(ask, question, count=self._votes, parse=lambda answer: wanted in answer.strip().lower())
        self.detail |= {f"votes_{kind}": found, "prompt": question.prompt_hash()}
        return float(np.mean(found))


def counted(boxes: Sequence[Box]) -> int:
    """How many boxes are left when, in the network's order, the later of two with an IoU above 0.8 is dropped."""
    kept: list[Box] = []
    for box in boxes:
        if all(base.intersection_over_union(box, other) <= 0.8 for other in kept):
            kept.append(box)
    return len(kept)


def singular(name: str) -> str:
    """The name without "es" or "s" at its end: "boxes" is box, and "glass" is glas."""
    return name[:-2] if name.endswith("es") else name.removesuffix("s")


def cut_out(picture: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of a box, both ends rounded down; empty where they meet."""
    height, width = picture.shape[:2]
    left, top, right, bottom = (min(max(int(x * side), 0), side) for x, side in zip(box, (width, height) * 2, strict=True))
    return picture[top:bottom, left:right]


def pixel_centre(box: Box, picture: np.ndarray) -> tuple[int, int]:
    """Centre (x, y) in whole pixels, rounded down."""
    x, y = base.centre(box)
    return int(x * picture.shape[1]), int(y * picture.shape[0])


def beyond(point: Sequence[float], reference: Sequence[float], place: str) -> float:
    """How far a point (x, y) lies from the reference in the named direction; y points down, and no other direction is reached."""
    across, down = point[0] - reference[0], point[1] - reference[1]
    return {"left": -across, "right": across, "above": -down, "below": down}.get(place, -np.inf)
