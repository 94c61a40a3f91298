"""Pictures of the tabletop world: scene -> uint8 [H, W, 3]. Numpy only, anti-aliased, any size, no state but caches.

A picture of H x W pixels is cut into scene.grid cells; unit = the shorter side of a cell (21.3 px at 64 x 64). An item's copies are drawn
around their places, reach at most 0.44 unit from the middle of the cell, and so stay 2.5 px apart at 64 x 64. How a copy looks depends on
the copy and on the size alone: what no edit touches is pixel-identical before and after (on an unchanged background).

Palette (RGB): COLOUR_RGB, BACKGROUND_RGB below. r = RADIUS * scale * unit (7.6 px at 64 x 64, scale 1), x right, y down from the centre.
    ball   disc of radius r                          box    square of half side 0.88 r, slightly rounded
    cone   triangle, apex (0, -r), base y = 0.82 r   star   five tips at r, inner corners at 0.56 r, one tip up
    ring   annulus from 0.38 r to r                  cross  plus sign, arms of length r and half width 0.42 r
    sign   white plate of 16.8 x 18.4 px (at 64 x 64), a 1.4 px frame and the glyph (10 x 14 px) in the ink colour
    text   the same plate with round corners, a thin grey rim instead of the frame, the glyph in the ink colour
Objects have a rim, about 1 px wide at 64 x 64, in SHADE times their colour. Materials are stripes of the colour and of SHADE times it,
period PERIOD unit (5.5 px at 64 x 64), centred on the object, so that an edge between dark and bright runs through its middle:
    plastic solid     wooden stripes that run across (tone changes with y)     metal stripes that run down (with x)     stone checker
Ink is INK_RGB unless a colour rule gave it one of COLOURS.
"""

from __future__ import annotations

import functools
import math
import zlib

import numpy as np
from jaxtyping import Float, UInt8

from editr2_jax.tabletop.scene import INK, SIGN, TEXT, Item, Scene

COLOUR_RGB = {
    "red": (222, 38, 38),
    "orange": (245, 130, 20),
    "yellow": (246, 212, 30),
    "green": (40, 165, 50),
    "teal": (10, 178, 172),
    "blue": (40, 80, 225),
    "purple": (135, 50, 190),
    "pink": (245, 95, 180),
}
INK_RGB = (28, 28, 34)
PLATE_RGB = (252, 252, 250)
PLATE_RIM_RGB = (140, 140, 140)
BACKGROUND_RGB = {
    "sand": (212, 190, 148),
    "grass": (136, 158, 118),
    "sky": (164, 192, 216),
    "snow": (222, 227, 234),
    "night": (62, 65, 96),
    "brick": (152, 120, 110),
}
RADIUS = 0.356  # of a unit
PERIOD = 0.26  # of a unit: material stripes, dark and bright together
SHADE = 0.38  # dark stripe and rim against the colour
RIM = 0.045  # of a unit
PLATE = (0.431, 0.394)  # of a unit: half height, half width
FRAME = 0.066  # of a unit
GLYPH = (0.656, 0.469)  # of a unit: height, width of a glyph
FONT = {  # 7 rows of 5
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "J": "00011 00001 00001 00001 00001 10001 01110",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "N": "10001 11001 11001 10101 10011 10011 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "7": "11111 00001 00010 00100 00100 01000 01000",
}
GLYPH_SAMPLES = 3  # per pixel and axis, for anti-aliased glyphs


def render(scene: Scene, size: tuple[int, int] = (64, 64)) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a scene at (height, width) pixels. The same scene and size always give the same bytes."""
    height, width = size
    rows, columns = scene.grid
    cell_height, cell_width = height / rows, width / columns
    unit = min(cell_height, cell_width)
    picture = background(scene.background, size, phase=scene.phase, unit=unit).copy()
    for item in scene.items:
        for place in item.places:
            look = (item.kind, item.colour, item.material, item.glyph, item.scale)
            top, left, keep, paint = copy_patch(look, place.y * cell_height, place.x * cell_width, unit)
            bottom, right = min(top + keep.shape[0], height), min(left + keep.shape[1], width)
            first_row, first_column = max(top, 0), max(left, 0)
            inside = (slice(first_row - top, bottom - top), slice(first_column - left, right - left))
            region = picture[first_row:bottom, first_column:right]
            region *= keep[inside]
            region += paint[inside]
    return (picture + 0.5).astype(np.uint8)


def boxes(item: Item, grid: tuple[int, int], size: tuple[int, int] = (64, 64)) -> list[tuple[float, float, float, float]]:
    """Ground-truth (x1, y1, x2, y2) of every copy as fractions of the picture; for tests and overlays, never for rewards."""
    rows, columns = grid
    unit = min(size[0] / rows, size[1] / columns)
    half_height, half_width = (PLATE[0], PLATE[1]) if item.is_plate else (RADIUS * item.scale, RADIUS * item.scale)
    down, across = half_height * unit / size[0], half_width * unit / size[1]
    centres = [(place.x / columns, place.y / rows) for place in item.places]
    return [(x - across, y - down, x + across, y + down) for x, y in centres]


@functools.lru_cache(maxsize=2048)
def copy_patch(look: tuple, centre_y: float, centre_x: float, unit: float):
    """One copy as (top, left, keep [h, w, 1], paint [h, w, 3]): the picture becomes picture * keep + paint. Cached across turns."""
    kind, colour, material, glyph, scale = look
    reach = 0.44 * unit * max(scale, 1.0) + 1.0
    top, left = math.floor(centre_y - reach), math.floor(centre_x - reach)
    y = np.arange(top, math.ceil(centre_y + reach), dtype=np.float32)[:, None] + np.float32(0.5 - centre_y)
    x = np.arange(left, math.ceil(centre_x + reach), dtype=np.float32)[None, :] + np.float32(0.5 - centre_x)
    if glyph:
        cover, rgb = _plate(kind, glyph, _ink(colour), y, x, unit)
    else:
        distance = _DISTANCES[kind](y, x, np.float32(RADIUS * scale * unit))
        cover = _soft(-distance)
        rim = _soft(distance + np.float32(RIM * unit))  # 1 in the rim, 0 inside
        dark = 1.0 - (1.0 - rim) * (1.0 - _tone(material, y, x, unit))
        rgb = np.asarray(COLOUR_RGB[colour], np.float32) * (1.0 - np.float32(1.0 - SHADE) * dark)[..., None]
    return top, left, (1.0 - cover)[..., None], rgb * cover[..., None]


def _soft(inside: np.ndarray) -> np.ndarray:
    """Coverage of a pixel whose centre lies that many pixels inside an edge."""
    return np.clip(inside + np.float32(0.5), 0.0, 1.0)


def _ink(colour: str) -> tuple[int, int, int]:
    return INK_RGB if colour == INK else COLOUR_RGB[colour]


def _tone(material: str, y: np.ndarray, x: np.ndarray, unit: float):
    """1 on dark stripes, 0 on bright ones; broadcast over the patch."""
    if material == "plastic":
        return np.float32(0.0)
    turn = np.float32(2 * math.pi / (PERIOD * unit))
    across = _soft(np.sin(y * turn) / turn) if material in ("wooden", "stone") else None
    down = _soft(np.sin(x * turn) / turn) if material in ("metal", "stone") else None
    if material == "wooden":
        return across
    if material == "metal":
        return down
    return across + down - 2.0 * across * down  # exclusive or: the checker


def _ball(y, x, radius):
    return np.sqrt(x * x + y * y) - radius


def _box(y, x, radius):
    corner = 0.15 * radius
    right, below = np.abs(x) - (0.88 * radius - corner), np.abs(y) - (0.88 * radius - corner)
    outside = np.sqrt(np.maximum(right, 0.0) ** 2 + np.maximum(below, 0.0) ** 2)
    return outside + np.minimum(np.maximum(right, below), 0.0) - corner


def _cone(y, x, radius):
    height, half_base = 1.82 * radius, 0.96 * radius
    slant = math.hypot(height, half_base)
    side = (np.abs(x) * height - (y + radius) * half_base) / slant
    return np.maximum(side, y - 0.82 * radius)


def _star(y, x, radius):
    fifth = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, -y) + fifth / 2, fifth) - fifth / 2)  # folded onto half a tip; 0 is the tip
    distance = np.sqrt(x * x + y * y)
    along, aside = distance * np.cos(angle), distance * np.sin(angle)
    inner_along, inner_aside = 0.56 * radius * math.cos(fifth / 2), 0.56 * radius * math.sin(fifth / 2)
    edge_along, edge_aside = inner_along - radius, inner_aside
    return ((along - radius) * edge_aside - aside * edge_along) / np.hypot(edge_along, edge_aside)


def _ring(y, x, radius):
    return np.abs(np.sqrt(x * x + y * y) - 0.69 * radius) - 0.31 * radius


def _cross(y, x, radius):
    far_x, far_y, arm = np.abs(x), np.abs(y), 0.42 * radius
    return np.minimum(np.maximum(far_x - radius, far_y - arm), np.maximum(far_y - radius, far_x - arm))


_DISTANCES = {"ball": _ball, "box": _box, "cone": _cone, "star": _star, "ring": _ring, "cross": _cross}  # signed, in pixels, inside < 0


def _plate(kind: str, glyph: str, ink: tuple[int, int, int], y, x, unit: float):
    """Coverage [h, w] and colours [h, w, 3] of a sign or a text."""
    round_by = (0.03 if kind == SIGN else 0.16) * unit
    right, below = np.abs(x) - (PLATE[1] * unit - round_by), np.abs(y) - (PLATE[0] * unit - round_by)
    outside = np.sqrt(np.maximum(right, 0.0) ** 2 + np.maximum(below, 0.0) ** 2)
    distance = outside + np.minimum(np.maximum(right, below), 0.0) - round_by
    frame = _soft(distance + (FRAME if kind == SIGN else 0.6 * RIM) * unit)[..., None]
    frame_rgb = np.asarray(PLATE_RIM_RGB if kind == TEXT else ink, np.float32)
    mark = _glyph_cover(glyph, y, x, unit)[..., None]
    rgb = np.asarray(PLATE_RGB, np.float32) * (1.0 - mark) + np.asarray(ink, np.float32) * mark
    return _soft(-distance), rgb * (1.0 - frame) + frame_rgb * frame


@functools.cache
def glyph_bitmap(glyph: str) -> Float[np.ndarray, "7 5"]:
    """The glyph as drawn by the font, 1 on ink."""
    return np.array([[float(bit) for bit in row] for row in FONT[glyph].split()], np.float32)


def _glyph_cover(glyph: str, y, x, unit: float) -> np.ndarray:
    """Share of each pixel under ink, from GLYPH_SAMPLES squared points; separable, so two small matrix products."""
    bitmap = glyph_bitmap(glyph)
    down = _bins(y[:, 0], GLYPH[0] * unit, bitmap.shape[0])  # [h, 7]
    across = _bins(x[0], GLYPH[1] * unit, bitmap.shape[1])  # [w, 5]
    return down @ bitmap @ across.T


def _bins(centres: np.ndarray, extent: float, amount: int) -> np.ndarray:
    """[pixels, amount]: the share of every pixel that lies in each of `amount` equal bins over [-extent/2, extent/2]."""
    edges = (np.arange(amount + 1, dtype=np.float32) / amount - 0.5) * np.float32(extent)
    low = np.clip(centres[:, None] - 0.5, edges[:-1], edges[1:])
    high = np.clip(centres[:, None] + 0.5, edges[:-1], edges[1:])
    return high - low


@functools.lru_cache(maxsize=256)
def background(name: str, size: tuple[int, int], *, phase: int, unit: float) -> Float[np.ndarray, "H W 3"]:
    """The bare table: a base colour and a texture of low contrast. Cached; callers copy before they draw."""
    height, width = size
    rng = np.random.default_rng([zlib.crc32(name.encode()), phase])
    y = (np.arange(height, dtype=np.float32) + 0.5)[:, None] / unit + rng.random()  # in units, shifted by the phase
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / unit + rng.random()
    light = _TEXTURES[name](y, x, rng)
    picture = np.asarray(BACKGROUND_RGB[name], np.float32) + np.broadcast_to(light, size)[..., None]
    picture = np.clip(picture, 0.0, 255.0).astype(np.float32)
    picture.setflags(write=False)
    return picture


def _sand(y, x, rng):
    ripples = 4.0 * np.sin(2 * math.pi * (1.6 * y + 0.25 * np.sin(3.0 * x)))
    return ripples + 8.0 * (rng.random(np.broadcast_shapes(y.shape, x.shape)) - 0.5)


def _grass(y, x, rng):
    blades = np.sin(2 * math.pi * (4.1 * x + 0.3 * np.sin(5.0 * y))) * np.sin(2 * math.pi * (1.3 * y + 2.2 * x))
    return 9.0 * blades


def _sky(y, x, rng):
    clouds = np.sin(2.1 * x + 1.3 * np.sin(1.7 * y)) * np.sin(2.6 * y + 0.8 * np.sin(1.1 * x))
    return 10.0 * np.clip(clouds, 0.0, 1.0) + 2.0 * y


def _snow(y, x, rng):
    return -4.0 * (np.sin(1.9 * x + 2.3 * y) > 0.4) - 10.0 * (rng.random(np.broadcast_shapes(y.shape, x.shape)) < 0.03)


def _night(y, x, rng):
    return 44.0 * (rng.random(np.broadcast_shapes(y.shape, x.shape)) < 0.015) + 0.0 * y


def _brick(y, x, rng):
    course = y * 3.0
    joint = np.minimum(np.mod(course, 1.0), np.mod(x * 1.5 + 0.5 * np.mod(np.floor(course), 2.0), 1.0) * 2.0)
    return 18.0 * (joint < 0.2) - 3.0


_TEXTURES = {"sand": _sand, "grass": _grass, "sky": _sky, "snow": _snow, "night": _night, "brick": _brick}
