"""What is in a picture of the tabletop world, read from its pixels alone.

    background  the median colour of the seams between cells, where objects never reach
    objects     per cell: foreground box -> window -> the kind, material and place whose template explains the window best
Every template is linear in the colour (perception_templates), so the colour is a least-squares fit, and the share of the window's energy
that stays unexplained tells how good the match is. Noise, mild blur, colour shifts and shapes that are a little off lower the confidence,
not the reading. Letters: n cells with something in them, P window pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from editr2_jax.rewards.base import intersection_over_union
from editr2_jax.tabletop import perception_fit, render
from editr2_jax.tabletop import perception_templates as templates
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.perception_fit import Fits
from editr2_jax.tabletop.scene import BACKGROUNDS, COLOURS, INK, MATERIALS, OBJECT_KINDS, PLAIN_MATERIAL

SHORT_SIDE = 64  # pixels at which every picture is looked at
FOREGROUND = 28.0  # largest channel difference from the background that texture and noise reach
MIN_PIXELS = 24  # of foreground: less is a speck
SEAM = 1.0  # half width of the seams between cells, pixels
ONE_OBJECT = 0.3  # IoU from which two readings are one object: copies never touch
GOOD_FIT = 0.12  # unexplained share above which a window may be a plate
_ROUNDS = 3  # of fitting, each from the place that the last one found
_WINDOW, _HALF = templates.WINDOW, templates.WINDOW // 2
_INKS = (INK, *COLOURS)
_BACKGROUND_RGB = np.array([render.BACKGROUND_RGB[name] for name in BACKGROUNDS], np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One copy of an object, as far as its pixels tell."""

    kind: str  # one of KINDS, or TEXT
    colour: str  # one of COLOURS; of plates the ink
    material: str  # one of MATERIALS
    glyph: str  # on plates, else ""
    box: tuple[float, float, float, float]  # fractions of the picture
    score: float  # confidence in [0, 1]

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) as fractions of the picture."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A picture read."""

    background: str  # the most similar of BACKGROUNDS
    background_score: float  # confidence in [0, 1]
    objects: tuple[Seen, ...]  # in reading order of the cells


def analyse(picture: np.ndarray) -> Analysis:
    """Reads a uint8 [H, W, 3] picture of any size."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"analyse wants a uint8 [H, W, 3] picture, got {picture.dtype} {picture.shape}.")
    rows, columns = scenes.grid_for(picture.shape[:2])
    pixels = templates.smooth(_at_short_side(picture).astype(np.float32))
    size = np.array(pixels.shape[:2], np.float32)
    pitch = size / (rows, columns)  # of the cells
    rgb, share = _background(pixels, (rows, columns))
    distance = np.linalg.norm(_BACKGROUND_RGB - rgb, axis=-1)
    name = BACKGROUNDS[int(distance.argmin())]
    confidence = share * float(np.clip(1.35 - distance.min() / 40.0, 0.0, 1.0))
    difference = pixels - rgb
    centres = _occupied((np.abs(difference).max(-1) > FOREGROUND), (rows, columns), pitch)
    padded = np.pad(difference, ((_WINDOW, _WINDOW), (_WINDOW, _WINDOW), (0, 0)))
    objects = _read(padded, centres, rgb, size) if len(centres) else ()
    return Analysis(background=name, background_score=confidence, objects=tuple(objects))


def _at_short_side(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    short = min(height, width)
    if short == SHORT_SIDE:
        return picture
    size = (round(width * SHORT_SIDE / short), round(height * SHORT_SIDE / short))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX if short > SHORT_SIDE else Image.Resampling.BICUBIC))


def _background(pixels: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Median colour of the seams, and the share of the seams that has it."""
    seams = np.zeros(pixels.shape[:2], bool)
    for axis, cells in enumerate(grid):
        length = pixels.shape[axis]
        position = (np.arange(length) + 0.5) * cells / length
        near = np.abs(position - np.round(position)) * length / cells <= SEAM
        seams |= near[:, None] if axis == 0 else near[None, :]
    colours = pixels[seams]
    rgb = np.median(colours, axis=0)
    return rgb, float((np.abs(colours - rgb).max(-1) <= FOREGROUND).mean())


def _occupied(foreground: np.ndarray, grid: tuple[int, int], pitch: np.ndarray) -> np.ndarray:
    """Middle (y, x) of the foreground of every cell that has enough of it, [n, 2] in pixel indices."""
    row_edges = np.rint(np.arange(grid[0] + 1) * pitch[0]).astype(int)
    column_edges = np.rint(np.arange(grid[1] + 1) * pitch[1]).astype(int)
    centres = []
    for top, bottom in zip(row_edges[:-1], row_edges[1:], strict=True):
        for left, right in zip(column_edges[:-1], column_edges[1:], strict=True):
            cell = foreground[top:bottom, left:right]
            in_rows, in_columns = cell.sum(1), cell.sum(0)
            down, across = np.flatnonzero(in_rows >= 2), np.flatnonzero(in_columns >= 2)
            if len(down) and len(across) and in_rows.sum() >= MIN_PIXELS:
                centres.append((top + (down[0] + down[-1]) / 2, left + (across[0] + across[-1]) / 2))
    return np.array(centres, np.float32).reshape(-1, 2)


def _windows(padded: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows [n, 3, P] around the nearest pixels to the centres, and those pixels [n, 2]."""
    middles = np.rint(centres).astype(int)
    middles = np.clip(middles, 0, np.array(padded.shape[:2]) - 2 * _WINDOW - 1)
    first = middles + _WINDOW - _HALF
    views = np.lib.stride_tricks.sliding_window_view(padded, (_WINDOW, _WINDOW), axis=(0, 1))  # [rows, columns, 3, K, K]
    return views[first[:, 0], first[:, 1]].reshape(len(centres), 3, -1), middles


def _read(padded: np.ndarray, centres: np.ndarray, background: np.ndarray, size: np.ndarray) -> list[Seen]:
    """The best explanation of every window: an object, or, where no object fits well, a plate if that fits better."""
    seen: list[Seen | None] = [None] * len(centres)
    left = np.full(len(centres), np.inf, np.float32)  # unexplained so far
    for fit, refine, places_of, describe in (
        (perception_fit.objects, perception_fit.refine_objects, templates.objects, _object),
        (perception_fit.plates, perception_fit.refine_plates, templates.plates, _plate),
    ):
        todo, places = np.flatnonzero(left > GOOD_FIT), centres[left > GOOD_FIT]
        for _ in range(_ROUNDS):
            if not len(todo):
                break
            windows, middles = _windows(padded, places)
            fits = refine(windows, background, fit(windows, background))
            offsets = places_of().places[fits.place]
            for n, cell in enumerate(todo):
                if fits.unexplained[n] < left[cell]:
                    left[cell] = fits.unexplained[n]
                    seen[cell] = describe(fits, n, middles[n] + offsets[n], size)
            moving = np.abs(offsets).max(-1) >= 1.0  # the best place may lie further out
            todo, places = todo[moving], (middles + offsets)[moving]
    return _apart([found for found in seen if found is not None])


def _apart(seen: list[Seen]) -> list[Seen]:
    """Without the weaker of two readings of one object: a copy across a seam is met in both cells."""
    kept: list[Seen] = []
    for found in sorted(seen, key=lambda one: (-one.score, one.box)):
        if all(intersection_over_union(found.box, other.box) < ONE_OBJECT for other in kept):
            kept.append(found)
    return [found for found in seen if found in kept]


def _object(fits: Fits, n: int, centre: np.ndarray, size: np.ndarray) -> Seen:
    kind, material = divmod(int(fits.look[n]), len(MATERIALS))
    colour, sure = _nearest(fits.rgb[n], perception_fit.OBJECT_RGB)
    half = render.RADIUS * templates.UNIT
    return Seen(
        kind=OBJECT_KINDS[kind],
        colour=COLOURS[colour],
        material=MATERIALS[material],
        glyph="",
        box=_box(centre, (half, half), size),
        score=_confidence(fits, n) * sure,
    )


def _plate(fits: Fits, n: int, centre: np.ndarray, size: np.ndarray) -> Seen:
    kind, glyph = templates.plates().looks[int(fits.look[n])]
    ink, sure = _nearest(fits.rgb[n], perception_fit.INK_RGB)
    half = render.PLATE[0] * templates.UNIT, render.PLATE[1] * templates.UNIT
    return Seen(
        kind=kind,
        colour=_INKS[ink],
        material=PLAIN_MATERIAL,
        glyph=glyph,
        box=_box(centre, half, size),
        score=_confidence(fits, n) * sure,
    )


def _confidence(fits: Fits, n: int) -> float:
    """From the unexplained share (a clean match leaves a few hundredths) and the distance to the next best kind or glyph."""
    fit = float(np.clip((0.55 - fits.unexplained[n]) / 0.4, 0.0, 1.0))
    return fit * float(np.clip(0.4 + 4.0 * fits.margin[n], 0.0, 1.0))


def _nearest(rgb: np.ndarray, palette: np.ndarray) -> tuple[int, float]:
    """Index of the most similar colour up to brightness, and how sure that is in [0, 1]."""
    distance = perception_fit.palette_distance(rgb, palette, (0.7, 1.3))
    first, second = np.partition(distance, 1)[:2]
    return int(distance.argmin()), float(np.clip(1.35 - first / 80.0, 0.0, 1.0) * np.clip((second - first) / 20.0, 0.0, 1.0))


def _box(centre: np.ndarray, half: tuple[float, float], size: np.ndarray) -> tuple[float, float, float, float]:
    y, x = (float(value) + 0.5 for value in centre)  # from pixel index to distance from the edge
    height, width = (float(value) for value in size)
    return (
        max((x - half[1]) / width, 0.0),
        max((y - half[0]) / height, 0.0),
        min((x + half[1]) / width, 1.0),
        min((y + half[0]) / height, 1.0),
    )
