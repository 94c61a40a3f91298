"""Which template explains a window of pixels best: linear least squares, all cells, kinds, materials and places at once.

For a window's difference from the background D, a template (cover c, shade s, fixed part f) and the background colour b, per channel:
    residual = | D + b c - f |^2 - <s, D + b c - f>^2 / |s|^2        colour = <s, D + b c - f> / |s|^2
Objects have f = 0. Sums over templates become one matrix product. Letters: n windows, P pixels, N places, L plate looks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from editr2_jax.tabletop import perception_templates as templates
from editr2_jax.tabletop import render
from editr2_jax.tabletop.scene import COLOURS

OBJECT_RGB = np.array([render.COLOUR_RGB[colour] for colour in COLOURS], np.float32)
INK_RGB = np.concatenate([np.array([render.INK_RGB], np.float32), OBJECT_RGB])  # INK, then COLOURS
BRIGHTNESS = (0.85, 1.15)  # against the palette: what a picture may make of a colour without becoming a worse match
TOLERANCE = 14.0  # likewise, distance in RGB


@dataclasses.dataclass(frozen=True)
class Fits:
    """The best template of every window."""

    unexplained: Float[np.ndarray, " n"]  # share of the window's energy that the best template leaves
    look: Int[np.ndarray, " n"]  # kind * materials + material, or the plate's look
    place: Int[np.ndarray, " n"]  # index into the templates' places
    rgb: Float[np.ndarray, "n 3"]  # fitted colour
    margin: Float[np.ndarray, " n"]  # how much worse the best other look of another kind (of another glyph) is, relative to it; in [0, 1]


def objects(windows: Float[np.ndarray, "n 3 P"], background: Float[np.ndarray, " 3"]) -> Fits:
    """Objects of every kind and material."""
    library = templates.objects()
    kinds, materials, places, _ = library.shade.shape
    count = len(windows)
    rows = windows.reshape(count * 3, -1)
    c = (rows @ library.cover.reshape(kinds * places, -1).T).reshape(count, 3, kinds, 1, places)
    s = (rows @ library.shade.reshape(kinds * materials * places, -1).T).reshape(count, 3, kinds, materials, places)
    b = background[:, None, None, None]
    cover_square, shade_square = library.cover_square[:, None], library.shade_square
    projected = s + b * library.shade_cover  # [n, 3, kinds, materials, N]
    energy = np.einsum("ncp,ncp->n", windows, windows)
    rgb = projected / shade_square
    residual = energy[:, None, None, None] + (2 * b * c + b * b * cover_square - projected * rgb).sum(1)
    per_look = residual.reshape(count, kinds * materials, places)
    groups = np.repeat(np.arange(kinds), materials)
    return _best(per_look, groups, energy, rgb.reshape(count, 3, kinds * materials, places))


def plates(windows: Float[np.ndarray, "n 3 P"], background: Float[np.ndarray, " 3"]) -> Fits:
    """Signs and texts with every glyph."""
    library = templates.plates()
    looks, places, _ = library.cover.shape
    count = len(windows)
    rows = windows.reshape(count * 3, -1)
    c, f, s = (
        (rows @ part.reshape(looks * places, -1).T).reshape(count, 3, looks, places)
        for part in (library.cover, library.fixed, library.shade)
    )
    b, product = background[:, None, None], library.products
    energy = np.einsum("ncp,ncp->n", windows, windows)
    without_ink = 2 * b * c - 2 * f + b * b * product["cc"] - 2 * b * product["cf"] + product["ff"]
    projected = s + b * product["cs"] - product["fs"]
    rgb = projected / product["ss"]
    residual = energy[:, None, None] + (without_ink - projected * rgb).sum(1)
    groups = np.arange(looks) % (looks // len(templates.PLATE_KINDS))  # the glyph
    return _best(residual, groups, energy, rgb)


def refine_objects(windows: Float[np.ndarray, "n 3 P"], background: Float[np.ndarray, " 3"], fits: Fits) -> Fits:
    """The material again, at the kind and place found, against blurred templates too: blur makes stripes look plain."""
    kinds, materials = templates.objects().shade.shape[:2]
    kind = fits.look // materials
    tries = []
    for blur in templates.BLURS:
        library = templates.objects(blur)
        cover = library.cover[kind, fits.place][:, None, None]  # [n, 1, 1, P]
        target = windows[:, None] + background[:, None] * cover
        tries.append(_colour_fit(target, library.shade[kind, :, fits.place], OBJECT_RGB))
    return _refined(fits, tries, windows, lambda material: kind * materials + material)


def refine_plates(windows: Float[np.ndarray, "n 3 P"], background: Float[np.ndarray, " 3"], fits: Fits) -> Fits:
    """Kind, glyph and ink again, at the place found, against blurred templates too."""
    tries = []
    for blur in templates.BLURS:
        library = templates.plates(blur)
        cover, fixed = (part[:, fits.place].transpose(1, 0, 2)[:, :, None] for part in (library.cover, library.fixed))  # [n, L, 1, P]
        target = windows[:, None] + background[:, None] * cover - fixed
        tries.append(_colour_fit(target, library.shade[:, fits.place].transpose(1, 0, 2), INK_RGB))
    return _refined(fits, tries, windows, lambda look: look)


def _colour_fit(
    target: Float[np.ndarray, "n L 3 P"], shade: Float[np.ndarray, "n L P"], palette: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residual [n, L] and colour [n, L, 3] of shade times a colour that is free up to TOLERANCE around the palette, and costs beyond it."""
    projected = np.einsum("nlcp,nlp->nlc", target, shade)
    square = np.einsum("nlp,nlp->nl", shade, shade)
    rgb = projected / square[..., None]
    beyond = np.maximum(palette_distance(rgb, palette, BRIGHTNESS).min(-1) - TOLERANCE, 0.0)
    free = np.einsum("nlcp,nlcp->nl", target, target) - (projected * rgb).sum(-1)
    return free + square * beyond**2, rgb


def palette_distance(rgb: Float[np.ndarray, "... 3"], palette: Float[np.ndarray, "k 3"], brightness: tuple[float, float]) -> np.ndarray:
    """[..., k]: distance of a colour to every colour of the palette, made brighter or darker within `brightness`."""
    scale = np.clip(rgb @ palette.T / np.einsum("kc,kc->k", palette, palette), *brightness)
    return np.linalg.norm(palette * scale[..., None] - rgb[..., None, :], axis=-1)


def _refined(fits: Fits, tries: list, windows: np.ndarray, look_of: Callable[[np.ndarray], np.ndarray]) -> Fits:
    residual = np.stack([found[0] for found in tries], 1)  # [n, blurs, L]
    rgb = np.stack([found[1] for found in tries], 1)
    each, looks = np.arange(len(windows)), residual.shape[-1]
    best = residual.reshape(len(windows), -1).argmin(-1)
    energy = np.maximum(np.einsum("ncp,ncp->n", windows, windows), 1e-6)
    return dataclasses.replace(
        fits,
        unexplained=np.maximum(residual.reshape(len(windows), -1)[each, best], 0.0) / energy,
        look=look_of(best % looks),
        rgb=rgb[each, best // looks, best % looks],
    )


def _best(residual: np.ndarray, groups: np.ndarray, energy: np.ndarray, rgb: np.ndarray) -> Fits:
    """residual [n, looks, N], groups [looks], rgb [n, 3, looks, N]."""
    each = np.arange(len(residual))
    place_of = residual.argmin(-1)  # [n, looks]
    least = np.take_along_axis(residual, place_of[..., None], -1)[..., 0]
    look = least.argmin(-1)
    best = least[each, look]
    others = np.where(groups[None] == groups[look][:, None], np.inf, least).min(-1)
    place = place_of[each, look]
    energy = np.maximum(energy, 1e-6)
    return Fits(
        unexplained=np.maximum(best, 0.0) / energy,
        look=look,
        place=place,
        rgb=rgb[each, :, look, place],
        margin=np.clip((others - best) / np.maximum(others, 1e-6), 0.0, 1.0),
    )
