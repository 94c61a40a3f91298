"""The tabletop world's perception: a detector and a feature extractor that read pixels and nothing else.

They stand where Grounding DINO and DINOv3 stand for photographs, behind the same protocols (rewards/base.py). No scene, no seed, no
annotation reaches them; a phrase is read like any detector's prompt: what it leaves open may be anything, and where nothing fits all its
words, an object of the right kind answers with less confidence. A rule can turn the "red box" teal; sentences still call it that.
`python -m editr2_jax perception` measures how often they are wrong.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from editr2_jax.rewards.base import Detection, Features
from editr2_jax.tabletop import perception_analysis
from editr2_jax.tabletop.perception_analysis import Analysis, Seen
from editr2_jax.tabletop.scene import COLOURS, GLYPHS, INK, KINDS, MATERIALS, PLAIN_MATERIAL, SIGN, TEXT

DIM = 110.0  # brightness below which noise looks like colour: saturation is measured against at least this
SURE = 0.3  # confidence from which an object is there
STALE = 0.6  # confidence of "red box" in a teal one when no red one is there
UNNAMED_MATERIAL = 0.85  # confidence of "red ball" in a wooden red ball: below a plain one, still a red ball


class Eyes:
    """Analyses of pictures, each made once: keyed by the pixels, shared by all who look, the oldest forgotten. Thread-safe."""

    def __init__(self, *, capacity: int = 4096):
        self._capacity, self._lock = capacity, threading.Lock()
        self._known: collections.OrderedDict[tuple, concurrent.futures.Future[Analysis]] = collections.OrderedDict()

    def look(self, picture: np.ndarray) -> Analysis:
        """The analysis of a uint8 [H, W, 3] picture."""
        key = (picture.shape, hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16).digest())
        with self._lock:
            future = self._known.get(key)
            mine = future is None
            if mine:
                future = self._known[key] = concurrent.futures.Future()
                while len(self._known) > self._capacity:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(key)
        if mine:  # computed in the caller's thread: whoever else wants it waits for a thread that is at work, never for a queue
            try:
                future.set_result(perception_analysis.analyse(picture))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


@dataclasses.dataclass(frozen=True)
class Name:
    """What a phrase asks for; None is left open."""

    kind: str | None
    colour: str | None = None
    material: str | None = None
    glyph: str | None = None


def read_name(phrase: str) -> Name | None:
    """'wooden blue ball' -> Name(ball, blue, wooden); a glyph alone is the text itself. None: nothing of this world has that name."""
    words = phrase.strip().split()
    if len(words) == 1 and words[0] in GLYPHS:
        return Name(None, glyph=words[0])
    kinds, colours, materials = ([word for word in words if word in group] for group in (KINDS, (*COLOURS, INK), MATERIALS))
    if len(kinds) != 1 or len(colours) > 1 or len(materials) > 1 or len(kinds) + len(colours) + len(materials) != len(words):
        return None
    return Name(kinds[0], colours[0] if colours else None, materials[0] if materials else None)


def fits(name: Name, seen: Seen) -> float:
    """How well an object answers a name, in [0, 1]: 0 when a named word is wrong."""
    if name.glyph is not None:
        return float(seen.kind in (SIGN, TEXT) and seen.glyph == name.glyph)
    wrong = seen.kind != name.kind or name.colour not in (None, seen.colour) or name.material not in (None, seen.material)
    if wrong:
        return 0.0
    return UNNAMED_MATERIAL if name.material is None and seen.material != PLAIN_MATERIAL else 1.0


def answering(view: Analysis, phrase: str, *, strict: bool = False) -> list[tuple[float, Seen]]:
    """(confidence, object) of every object that answers a phrase, the surest first; strict: all named words must fit."""
    name = read_name(phrase)
    if name is None:
        return []
    found = [(seen.score * fits(name, seen), seen) for seen in view.objects]
    if not strict and name.kind and not any(score >= SURE for score, _ in found):
        found += [(STALE * seen.score, seen) for seen in view.objects if seen.kind == name.kind]
    return sorted(((score, seen) for score, seen in found if score > 0), key=lambda pair: (-pair[0], pair[1].box))


class TabletopDetector:
    """Answers names with boxes. Several objects may answer one phrase, and one object several phrases."""

    def __init__(self, eyes: Eyes | None = None):
        self._eyes = eyes or Eyes()

    def detect(self, picture: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        """All instances of all phrases; a phrase that names nothing of this world finds nothing."""
        view = self._eyes.look(picture)
        return [Detection(box=seen.box, score=score, phrase=phrase) for phrase in phrases for score, seen in answering(view, phrase)]


class TabletopFeatures:
    """Embeds pictures so that the cosine of two embeddings is nearly a Gaussian kernel of how they look.

    A patch's embedding holds random Fourier features (Rahimi and Recht, 2007) of its mean colour and contrast, the picture's (`cls`) those
    of a coarse layout of colours: cos = exp(-distance^2 / 2), 1 for equal pictures and about 0 for pictures that have nothing in common.
    Nothing needs centring. Each is taken twice: of all colours, and of the vivid ones with everything pale or dark as one grey, so that
    an object on another background stays nearly itself.
    """

    SIDE = 64  # pixels at which pictures are embedded
    GRID = 16  # patches a side
    LAYOUT = 8  # cells a side of the coarse layout
    WIDTH = 256  # D
    COLOUR_WIDTH = 45.0  # of the kernel, RGB units
    CONTRAST_WIDTH = 40.0
    ALL_COLOURS = 0.4  # share of the embedding's energy that sees all colours; the rest sees vivid ones
    VIVID = 0.48  # saturation (HSV) between that of backgrounds, at most 0.35, and that of objects, at least 0.6

    def __init__(self):
        rng = np.random.default_rng(20240229)  # fixed: embeddings of different processes are comparable
        cells = self.LAYOUT**2
        self._patch_waves = rng.standard_normal((4, self.WIDTH // 4)).astype(np.float32)
        # The layout's distance is a mean over its cells, so that the kernel's width keeps its meaning.
        self._layout_waves = rng.standard_normal((3 * cells, self.WIDTH // 4)).astype(np.float32) / np.float32(np.sqrt(cells))

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """cls [N, D] and patches [N, 16, 16, D] of uint8 pictures of any size."""
        pixels = np.stack([_resized(picture, self.SIDE) for picture in pictures]).astype(np.float32)  # [N, S, S, 3]
        seen = [(pixels, self.ALL_COLOURS), (_vivid(pixels, self.VIVID), 1.0 - self.ALL_COLOURS)]
        cls, patches = zip(*(self._embedded(layer, energy) for layer, energy in seen), strict=True)
        return Features(cls=np.concatenate(cls, -1), patches=np.concatenate(patches, -1))

    def _embedded(self, pixels: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
        """cls [N, D / 2] and patches [N, g, g, D / 2] of squared length `energy`."""
        count, patch, block = len(pixels), self.SIDE // self.GRID, self.GRID // self.LAYOUT
        cut = pixels.reshape(count, self.GRID, patch, self.GRID, patch, 3)
        mean = cut.mean((2, 4))  # [N, g, g, 3]
        contrast = np.sqrt(np.maximum((cut.mean(-1) ** 2).mean((2, 4)) - mean.mean(-1) ** 2, 0.0))[..., None]
        described = np.concatenate([mean / self.COLOUR_WIDTH, contrast / self.CONTRAST_WIDTH], -1)
        layout = mean.reshape(count, self.LAYOUT, block, self.LAYOUT, block, 3).mean((2, 4)).reshape(count, -1) / self.COLOUR_WIDTH
        scale = np.float32(np.sqrt(energy))
        return scale * _waves(layout, self._layout_waves), scale * _waves(described, self._patch_waves)


def _vivid(pixels: Float[np.ndarray, "N S S 3"], threshold: float) -> Float[np.ndarray, "N S S 3"]:
    """Pixels of low saturation become one grey, softly."""
    high, low = pixels.max(-1, keepdims=True), pixels.min(-1, keepdims=True)
    weight = np.clip(((high - low) / np.maximum(high, DIM) - threshold) / 0.2 + 0.5, 0.0, 1.0)
    return weight * pixels + (1.0 - weight) * np.float32(128.0)


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    if picture.shape[:2] == (side, side):
        return picture
    smaller = min(picture.shape[:2]) > side
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR))


def _waves(values: Float[np.ndarray, "... k"], waves: Float[np.ndarray, "k half"]) -> Float[np.ndarray, "... D"]:
    phase = values @ waves
    return np.concatenate([np.cos(phase), np.sin(phase)], -1) / np.float32(np.sqrt(waves.shape[1]))
