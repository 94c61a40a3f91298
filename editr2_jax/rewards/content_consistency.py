"""Content consistency (CC): what no edit so far has touched must look as it did in the source picture.

    object part      mean over the boxes of unchanged objects of  (cos(cls, cls') + cos(mean patch, mean patch')) / 2
    background part  cos of the mean patch features outside every object box of either picture
    CC               mean of the parts that are defined; the background counts while no background change was asked for
Source: Edit-R2 and EdiVal; the deviations (no made-up 0.5, known patch grid, no register tokens) are their known defects repaired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards import base
from editr2_jax.rewards.base import Box, Detector, FeatureExtractor, Features


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContentConsistencyConfig:
    """Thresholds of the reference; its inset is 0."""

    threshold: float = 0.35  # confidence of a box that counts
    min_patch_weight: float = 0.5  # a patch less than half background is no background
    inset: float = 0.0  # share of a box's side cut off on each side once the background may change: corners show background


class ContentConsistency:
    """Compares the source picture with the latest output. Without a detector the whole picture is background."""

    name = "cc"
    fingerprint = "rules 2"  # raise it with every change of what a picture scores: verdicts of other rules are not found again

    def __init__(
        self,
        features: FeatureExtractor,
        detector: Detector | None = None,
        *,
        config: ContentConsistencyConfig = ContentConsistencyConfig(),
    ):
        self._features, self._detector, self._config = features, detector, config

    def score(self, episode: Episode) -> Verdict:
        """CC of the latest turn in [0, 1]; NOT_APPLICABLE by annotation, UNMEASURABLE when nothing can be compared."""
        turn = episode.session.turns[episode.turn]
        if not turn.bg_consistency and (self._detector is None or not turn.unchanged_objects):
            return base.missing(Status.NOT_APPLICABLE, "the background may change and there is no unchanged object to look at")
        source, output = episode.pictures[0], at_size(episode.pictures[-1], episode.pictures[0].shape[:2])
        unchanged = self._boxes(source, turn.unchanged_objects)
        inset = 0.0 if turn.bg_consistency else self._config.inset
        crops = [crop(picture, inside(box, inset)) for box in unchanged for picture in (source, output)]
        pictures = crops + ([source, output] if turn.bg_consistency else [])
        if not pictures:
            return base.missing(Status.UNMEASURABLE, "no unchanged object was found in the source picture")
        features = self._embed(pictures)
        parts: dict[str, float] = {}
        if unchanged:
            parts["object"] = float(np.mean([_pair_similarity(features, 2 * i, 2 * i + 1) for i in range(len(unchanged))]))
        if turn.bg_consistency:
            objects = self._boxes(source, turn.all_objects) + self._boxes(output, turn.all_objects)
            weights = background_weights(objects, features.patches.shape[1:3], floor=self._config.min_patch_weight)
            if weights.any():
                before, after = (_weighted_mean(_normalised(features.patches[i]), weights) for i in (-2, -1))
                parts["background"] = cosine(before, after)
        if not parts:
            return base.missing(Status.UNMEASURABLE, "objects cover the picture: no background and no unchanged object to compare")
        value = float(np.clip(np.mean(list(parts.values())), 0.0, 1.0))
        return Verdict(value=value, detail={**parts, "unchanged_boxes": len(unchanged)})

    def _boxes(self, picture: np.ndarray, names: Sequence[str]) -> list[Box]:
        if self._detector is None or not names:
            return []
        found = self._detector.detect(picture, tuple(names))
        return [d.box for d in base.without_duplicates(base.best_first(found, threshold=self._config.threshold))]

    def _embed(self, pictures: Sequence[np.ndarray]) -> Features:
        features = self._features.embed(pictures)
        if len(features.cls) != len(pictures) or len(features.patches) != len(pictures):
            raise base.ServiceError(f"The feature extractor answered {len(features.cls)} of {len(pictures)} pictures.")
        return features


def at_size(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at (height, width), by Lanczos when it is not."""
    if picture.shape[:2] == tuple(size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of a box: at least one pixel in each direction."""
    height, width = picture.shape[:2]
    left, top = min(int(np.floor(box[0] * width)), width - 1), min(int(np.floor(box[1] * height)), height - 1)
    right, bottom = max(int(np.ceil(box[2] * width)), left + 1), max(int(np.ceil(box[3] * height)), top + 1)
    return picture[max(top, 0) : bottom, max(left, 0) : right]


def inside(box: Box, inset: float) -> Box:
    """The box without a margin of `inset` times its side on each side."""
    across, down = inset * (box[2] - box[0]), inset * (box[3] - box[1])
    return box[0] + across, box[1] + down, box[2] - across, box[3] - down


def background_weights(boxes: Sequence[Box], grid: tuple[int, int], *, floor: float, samples: int = 8) -> Float[np.ndarray, "h w"]:
    """Share of every patch that lies outside all boxes, 0 where it is below `floor`; `samples` points a side in each patch."""
    rows, columns = grid
    y = (np.arange(rows * samples) + 0.5) / (rows * samples)
    x = (np.arange(columns * samples) + 0.5) / (columns * samples)
    free = np.ones((rows * samples, columns * samples), bool)
    for left, top, right, bottom in boxes:
        free[np.ix_((y >= top) & (y <= bottom), (x >= left) & (x <= right))] = False
    weights = free.reshape(rows, samples, columns, samples).mean(axis=(1, 3))
    return np.where(weights < floor, 0.0, weights)


def cosine(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> float:
    """Cosine of two vectors; exactly equal vectors give 1, also when both are zero."""
    if np.array_equal(a, b):
        return 1.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 0 else 0.0


def _pair_similarity(features: Features, before: int, after: int) -> float:
    mean = features.patches.mean(axis=(1, 2))  # [N, D]
    return (cosine(features.cls[before], features.cls[after]) + cosine(mean[before], mean[after])) / 2


def _normalised(patches: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w D"]:
    return patches / np.maximum(np.linalg.norm(patches, axis=-1, keepdims=True), 1e-12)


def _weighted_mean(patches: Float[np.ndarray, "h w D"], weights: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " D"]:
    return np.einsum("hwd,hw->d", patches, weights) / weights.sum()
