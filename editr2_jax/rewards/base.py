"""What a reward is, and the three services rewards look through: a detector, a feature extractor and a question answerer.

numpy in, plain Python out: no model, no accelerator, no files. A service that cannot answer raises `ServiceError` (any exception
counts as one); it never returns a default. Boxes are (x1, y1, x2, y2) as fractions of the picture's width and height, y downwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards.questions import Question

Box = tuple[float, float, float, float]


class ServiceError(RuntimeError):
    """A detector, feature extractor or question answerer did not answer; becomes a SERVICE_ERROR verdict, never a score."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """One instance of a phrase in a picture."""

    box: Box
    score: float  # confidence in [0, 1]
    phrase: str  # the phrase it answers, as it was asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Picture embeddings, already without register tokens. Letters: N pictures, h x w patches, D width."""

    cls: Float[np.ndarray, "N D"]
    patches: Float[np.ndarray, "N h w D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """All that a vision transformer makes of pictures. Letters: N pictures, L tokens, D width."""

    tokens: Float[np.ndarray, "N L D"]  # the class token, then registers, then patches row by row: L = 1 + registers + h w
    registers: int
    grid: tuple[int, int]  # h, w
    size: tuple[int, int]  # height and width of the pictures as the model takes them, in pixels

    def __post_init__(self):
        """Raises ServiceError for numbers that are none: a cosine of them would be read as a score."""
        if not np.isfinite(self.tokens).all():
            raise ServiceError("The feature extractor gave numbers that are not finite; its weights or the device are at fault.")

    def features(self) -> Features:
        """The class token and the patches, without registers. Raises ServiceError where the count of tokens is another."""
        rows, columns = self.grid
        count, wanted = self.tokens.shape[1], 1 + self.registers + rows * columns
        if count != wanted:
            raise ServiceError(f"{count} tokens are not 1 class token, {self.registers} registers and {rows} x {columns} patches.")
        patches = self.tokens[:, 1 + self.registers :]
        return Features(cls=self.tokens[:, 0], patches=patches.reshape(len(patches), rows, columns, patches.shape[-1]))


@runtime_checkable
class Detector(Protocol):
    """Finds named objects. Sequence in, list out; thread-safe."""

    def detect(self, picture: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        """All instances of all phrases in a uint8 [H, W, 3] picture. An empty list is an answer: nothing is there."""
        ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """Embeds pictures of any size, resized to its own without cropping; the grid h x w is known, never inferred."""

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Embeddings of uint8 [H, W, 3] pictures, in order."""
        ...


@runtime_checkable
class TokenExtractor(FeatureExtractor, Protocol):
    """A feature extractor that also shows its registers, for arithmetic that takes them for patches (compat/consistency.py)."""

    def tokens(self, pictures: Sequence[np.ndarray]) -> Tokens:
        """All tokens of uint8 [H, W, 3] pictures, in order."""
        ...


@runtime_checkable
class QuestionAnswerer(Protocol):
    """Looks at pictures in order and answers a question in text; the reward parses the text strictly."""

    def ask(self, pictures: Sequence[np.ndarray], question: Question) -> str:
        """The answer's raw text. Raises when there is none."""
        ...


@runtime_checkable
class SoftAnswerer(QuestionAnswerer, Protocol):
    """A question answerer that also tells how sure it is."""

    def yes_probability(self, pictures: Sequence[np.ndarray], question: Question) -> float:
        """Of a yes-or-no question: the probability of yes in [0, 1], against no. Raises as `ask` does."""
        ...


@runtime_checkable
class Reward(Protocol):
    """One score of the latest turn of an episode."""

    name: str  # as in the metric names: reward/NAME/turn_1

    def score(self, episode: Episode) -> Verdict:
        """The verdict on turn `episode.turn`."""
        ...


def missing(status: Status, reason: str, **detail: Any) -> Verdict:
    """A verdict without a value, saying why."""
    return Verdict(value=math.nan, status=status, detail={"reason": reason, **detail})


def centre(box: Box) -> tuple[float, float]:
    """Centre (x, y) of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def intersection_over_union(a: Box, b: Box) -> float:
    """Overlap of two boxes in [0, 1]; 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def best_first(detections: Iterable[Detection], *, threshold: float) -> list[Detection]:
    """Detections at or above the threshold, best score first (ties: by box, so that the order never depends on the network's)."""
    kept = [d for d in detections if d.score >= threshold]
    return sorted(kept, key=lambda d: (-d.score, d.box))


def without_duplicates(detections: Sequence[Detection], *, overlap: float = 0.8) -> list[Detection]:
    """Drops every detection that overlaps a better one by more than `overlap` (0.8: the reference's de-duplicated count)."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda d: (-d.score, d.box)):
        if all(intersection_over_union(detection.box, other.box) <= overlap for other in kept):
            kept.append(detection)
    return kept


def without_whole_picture(detections: Sequence[Detection], *, side: float = 0.98) -> list[Detection]:
    """Drops boxes as wide and as high as the picture (0.98: the reference's large-box filter)."""
    return [d for d in detections if d.box[2] - d.box[0] <= side or d.box[3] - d.box[1] <= side]
