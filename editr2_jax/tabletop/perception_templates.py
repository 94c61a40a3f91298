"""What the objects of the tabletop world look like, as arrays to compare pixels with. Built once, from the world's own drawing rules.

A look is linear in the colour: picture = background * (1 - cover) + colour * shade, where cover and shade depend on kind, material and
place alone. Plates add a part of fixed colour: picture = background * (1 - cover) + fixed + ink * shade.
Letters: K window side in pixels, N places of the centre, P = K * K pixels of a window.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from editr2_jax.tabletop import render
from editr2_jax.tabletop.scene import GLYPHS, MATERIALS, OBJECT_KINDS, SIGN, TEXT

UNIT = 64 / 3  # pixels of a cell at the size at which pictures are looked at: short side 64
WINDOW = 21  # K: side of the window around an object; a neighbour starts 10.5 pixels from the centre
BLURS = (0.0, 0.8, 1.3)  # Gaussian sigmas that a picture may have been blurred by, pixels
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # centres tried around the estimated one, pixels
PLATE_KINDS = (SIGN, TEXT)


@dataclasses.dataclass(frozen=True)
class ObjectTemplates:
    """Objects. Axes: kinds of OBJECT_KINDS, materials of MATERIALS, N places."""

    places: Float[np.ndarray, "N 2"]  # (y, x) of the centre against the window's middle, pixels
    cover: Float[np.ndarray, "kinds N P"]
    shade: Float[np.ndarray, "kinds materials N P"]
    cover_square: Float[np.ndarray, "kinds N"]  # sum of cover^2
    shade_square: Float[np.ndarray, "kinds materials N"]
    shade_cover: Float[np.ndarray, "kinds materials N"]  # sum of shade * cover


@dataclasses.dataclass(frozen=True)
class PlateTemplates:
    """Plates. L looks = PLATE_KINDS x GLYPHS. The fixed part is grey: one channel stands for three."""

    places: Float[np.ndarray, "N 2"]
    looks: tuple[tuple[str, str], ...]  # (kind, glyph)
    cover: Float[np.ndarray, "L N P"]
    fixed: Float[np.ndarray, "L N P"]  # the plate and, on texts, its rim
    shade: Float[np.ndarray, "L N P"]  # the ink
    products: dict[str, Float[np.ndarray, "L N"]]  # "cc", "cf", "cs", "ff", "fs", "ss": sums of the products of the three


def smooth(picture: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
    """Three taps (1, 2, 1) / 4 along both sides (sigma 0.7 pixel): noise falls, and blurred pictures look more like sharp ones."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2.0 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) * np.float32(1 / 16)


@functools.cache
def objects(blur: float = 0.0) -> ObjectTemplates:
    """Templates of every kind and material at UNIT pixels per cell, blurred by a Gaussian of `blur` pixels."""
    places = _places()
    cover = np.empty((len(OBJECT_KINDS), len(places), WINDOW**2), np.float32)
    shade = np.empty((len(OBJECT_KINDS), len(MATERIALS), len(places), WINDOW**2), np.float32)
    red = render.COLOUR_RGB["red"][0]
    for n, place in enumerate(places):
        for k, kind in enumerate(OBJECT_KINDS):
            for m, material in enumerate(MATERIALS):
                covered, paint = _drawn(kind, "red", material, "", place, blur)
                cover[k, n], shade[k, m, n] = covered, paint[:, 0] / red
    return ObjectTemplates(
        places=places,
        cover=cover,
        shade=shade,
        cover_square=np.einsum("knp,knp->kn", cover, cover),
        shade_square=np.einsum("kmnp,kmnp->kmn", shade, shade),
        shade_cover=np.einsum("kmnp,knp->kmn", shade, cover),
    )


@functools.cache
def plates(blur: float = 0.0) -> PlateTemplates:
    """Templates of every plate and glyph at UNIT pixels per cell, blurred by a Gaussian of `blur` pixels."""
    places = _places()
    looks = tuple((kind, glyph) for kind in PLATE_KINDS for glyph in GLYPHS)
    layers = {name: np.empty((len(looks), len(places), WINDOW**2), np.float32) for name in "cfs"}
    red, blue = (np.asarray(render.COLOUR_RGB[colour], np.float32) for colour in ("red", "blue"))
    for n, place in enumerate(places):
        for look, (kind, glyph) in enumerate(looks):
            cover, in_red = _drawn(kind, "red", "plastic", glyph, place, blur)
            _, in_blue = _drawn(kind, "blue", "plastic", glyph, place, blur)
            ink = (in_red - in_blue)[:, 0] / (red - blue)[0]
            layers["c"][look, n], layers["s"][look, n] = cover, ink
            layers["f"][look, n] = (in_red - ink[:, None] * red).mean(-1)
    products = {a + b: np.einsum("lnp,lnp->ln", layers[a], layers[b]) for a, b in ("cc", "cf", "cs", "ff", "fs", "ss")}
    return PlateTemplates(places=places, looks=looks, cover=layers["c"], fixed=layers["f"], shade=layers["s"], products=products)


def _places() -> np.ndarray:
    return np.array([(y, x) for y in OFFSETS for x in OFFSETS], np.float32)


def _drawn(kind: str, colour: str, material: str, glyph: str, place, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed cover [P] and paint [P, 3] of one copy whose centre lies at `place` from the window's middle."""
    far = 4 * WINDOW  # an anchor pixel far from every border
    top, left, keep, paint = render.copy_patch((kind, colour, material, glyph, 1.0), far + 0.5 + place[0], far + 0.5 + place[1], UNIT)
    window = np.zeros((WINDOW, WINDOW, 4), np.float32)
    row, column = top - far + WINDOW // 2, left - far + WINDOW // 2
    height, width = keep.shape[:2]
    rows, columns = slice(max(row, 0), row + height), slice(max(column, 0), column + width)
    layers = np.concatenate([1.0 - keep, paint], -1)
    window[rows, columns] = layers[rows.start - row :, columns.start - column :][: WINDOW - rows.start, : WINDOW - columns.start]
    if blur:
        window = scipy.ndimage.gaussian_filter(window, (blur, blur, 0))
    flat = smooth(window).reshape(WINDOW * WINDOW, 4)
    return flat[:, 0], flat[:, 1:]
