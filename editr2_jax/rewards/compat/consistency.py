"""CC in the arithmetic of the published evaluators, for comparing with their numbers. Letters: N pictures, L tokens, D width.

Both drop the class token alone, take the registers for patches, and guess the grid from the count of tokens: 13 x 20 where the patches are
16 x 16 (Edit-R2: 1 + 4 + 256 tokens), 10 x 20 where they are 14 x 14 (EdiVal: 1 + 4 + 196). So the mask of the background lies on the wrong
patches. That is reproduced here; what is to be measured is measured by content_consistency.py.

    case                        Edit-R2                                 EdiVal
    pictures                    output at the source's size             both at 512 x 512
    no unchanged object         both parts undefined                    object undefined
    no object named at all      both parts undefined                    background undefined
    no unchanged one found      object undefined                        object 0
    nothing found at all        background undefined                    the whole picture is background
    background may change       object alone                            not evaluated: NOT_APPLICABLE
    no pixel is background      background undefined                    background 0 (0 too, in both, where no patch is half background)
    nothing is defined          0.5                                     left out: UNMEASURABLE

`detail` holds the parts that are defined: EdiVal's tables average each part over the data set, and then the two means. A service that does
not answer has no score, where Edit-R2 made up 0.5. A box without a pixel is left out; L1 is not computed, it is in no reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from editr2_jax.records import Episode, Status, Turn, Verdict
from editr2_jax.rewards import base
from editr2_jax.rewards.base import Box, Detector, TokenExtractor, Tokens
from editr2_jax.rewards.compat.instruction_following import cut_out
from editr2_jax.rewards.content_consistency import at_size

THRESHOLD = 0.35  # above which a box counts
UNDEFINED = 0.5  # what Edit-R2 gives where nothing can be measured


class _Consistency:
    """What both have in common."""

    name = "cc"

    def __init__(self, extractor: TokenExtractor, detector: Detector):
        self._extractor, self._detector = extractor, detector

    def _boxes(self, picture: np.ndarray, names: Sequence[str]) -> list[Box]:
        """Boxes of all names in the network's order, each once: labels are ignored, and a box may answer two names.

        Theirs are asked about in one prompt; whether these are is the detector's choice.
        """
        phrases = [name.strip().lower().replace(".", "") for name in names]
        found = self._detector.detect(picture, phrases) if phrases else ()
        return list(dict.fromkeys(detection.box for detection in found if detection.score > THRESHOLD))

    def _object(self, source: np.ndarray, output: np.ndarray, names: Sequence[str]) -> float | None:
        """Mean similarity of what lies in the boxes of unchanged objects; None without such a box."""
        crops = [tuple(cut_out(picture, box) for picture in (source, output)) for box in self._boxes(source, names)]
        pairs = [pair for pair in crops if pair[0].size]
        if not pairs:
            return None
        tokens = self._tokens([picture for pair in pairs for picture in pair]).tokens
        return float(np.mean([similarity(*tokens[2 * i : 2 * i + 2]) for i in range(len(pairs))]))

    def _background(self, source: np.ndarray, output: np.ndarray, free: Bool[np.ndarray, "H W"]) -> float:
        tokens = self._tokens([source, output])
        grid = guessed_grid(tokens.tokens.shape[1] - 1, tokens.size)
        return masked_similarity(*tokens.tokens[:, 1:], patch_weights(free, tokens.size, grid))

    def _tokens(self, pictures: Sequence[np.ndarray]) -> Tokens:
        tokens = self._extractor.tokens(pictures)
        if len(tokens.tokens) != len(pictures):
            raise base.ServiceError(f"The feature extractor answered {len(tokens.tokens)} of {len(pictures)} pictures.")
        return tokens


class EditR2Consistency(_Consistency):
    """Edit-R2's: a score for every turn."""

    def score(self, episode: Episode) -> Verdict:
        """CC of the latest turn, in [0, 1]; 0.5 where nothing is defined."""
        turn = episode.session.turns[episode.turn]
        source, output = episode.pictures[0], at_size(episode.pictures[-1], episode.pictures[0].shape[:2])
        parts: dict[str, float | None] = {}
        if turn.unchanged_objects and turn.all_objects:
            parts["object"] = self._object(source, output, turn.unchanged_objects)
            parts["background"] = self._part(source, output, turn) if turn.bg_consistency else None
        defined = {name: value for name, value in parts.items() if value is not None}
        detail = {"arithmetic": "edit_r2", **defined, "undefined": not defined}
        return Verdict(value=_mean(defined) if defined else UNDEFINED, detail=detail)

    def _part(self, source: np.ndarray, output: np.ndarray, turn: Turn) -> float | None:
        boxes = self._boxes(source, turn.all_objects) + self._boxes(output, turn.all_objects)
        free = free_pixels(boxes, source.shape[:2])
        return self._background(source, output, free) if boxes and free.any() else None


class EdivalConsistency(_Consistency):
    """EdiVal's: no score for turns after a change of the background."""

    def score(self, episode: Episode) -> Verdict:
        """CC of the latest turn, in [0, 1]."""
        turn = episode.session.turns[episode.turn]
        if not turn.bg_consistency:
            return base.missing(Status.NOT_APPLICABLE, "EdiVal evaluates no turn after a change of the background")
        source, output = (at_size(picture, (512, 512)) for picture in (episode.pictures[0], episode.pictures[-1]))
        parts: dict[str, float] = {}
        if turn.unchanged_objects:
            parts["object"] = self._object(source, output, turn.unchanged_objects) or 0.0
        if turn.all_objects:
            boxes = self._boxes(source, turn.all_objects) + self._boxes(output, turn.all_objects)
            parts["background"] = self._background(source, output, free_pixels(boxes, source.shape[:2]))
        if not parts:
            return base.missing(Status.UNMEASURABLE, "no object is named, unchanged or other")
        return Verdict(value=_mean(parts), detail={"arithmetic": "edival", **parts})


def _mean(parts: dict[str, float]) -> float:
    """Of the parts; cosines below 0 do not occur in their tables, and a score is not below 0."""
    return float(np.clip(np.mean(list(parts.values())), 0.0, 1.0))


def guessed_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """The (rows, columns) whose product is the count of tokens and whose ratio is nearest to height / width, the first of equals."""
    sides = [side for side in range(1, math.isqrt(tokens) + 1) if tokens % side == 0]
    grids = [grid for side in sides for grid in ((tokens // side, side), (side, tokens // side))]
    return min(grids, key=lambda grid: abs(grid[0] / grid[1] - size[0] / size[1]))


def free_pixels(boxes: Sequence[Box], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """True outside all boxes, whose right and lower edges are inside them."""
    height, width = size
    free = np.ones(size, bool)
    for box in boxes:
        left, top, right, bottom = (min(max(int(x * side), 0), side) for x, side in zip(box, (width, height) * 2, strict=True))
        free[top : bottom + 1, left : right + 1] = False
    return free


def patch_weights(free: Bool[np.ndarray, "H W"], size: tuple[int, int], grid: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Free share of every patch once the mask has the size of the model's pictures (by nearest pixel); 0 where it is below a half.

    A patch's pixels run from the last whole one before it to the first whole one after it, where the grid does not divide the picture.
    """
    mask = np.asarray(Image.fromarray(free.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)) > 0
    rows, columns = ([(i * side // n, -((i + 1) * side // -n)) for i in range(n)] for side, n in zip(size, grid, strict=True))
    weights = np.array([[mask[top:bottom, left:right].mean() for left, right in columns] for top, bottom in rows])
    return np.where(weights < 0.5, 0.0, weights)


def similarity(before: Float[np.ndarray, "L D"], after: Float[np.ndarray, "L D"]) -> float:
    """Mean of two cosines: of the class tokens, and of the means of all other tokens, registers among them."""
    return (_cosine(before[0], after[0]) + _cosine(before[1:].mean(axis=0), after[1:].mean(axis=0))) / 2


def masked_similarity(before: Float[np.ndarray, "M D"], after: Float[np.ndarray, "M D"], weights: Float[np.ndarray, "h w"]) -> float:
    """Cosine of the weighted means of the tokens at length 1; M = h w, registers first. 0 where no token has weight."""
    flat = weights.reshape(-1, 1)
    means = [(_unit(tokens) * flat).sum(axis=0) / (flat.sum() + 1e-6) for tokens in (before, after)]
    return _cosine(*means)


def _unit(tokens: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
    return tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-8)


def _cosine(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> float:
    """0 where one is 0."""
    return float(a @ b / (max(np.linalg.norm(a), 1e-8) * max(np.linalg.norm(b), 1e-8)))
