"""Pictures from files, and the sizes they are worked on.

A picture is uint8 [H, W, 3], RGB. It keeps its aspect ratio: a bucket is a size that the model works at, and a picture fills the bucket
nearest in shape, losing at most a strip at two opposite edges, never being stretched. Sizes are (height, width) unless named otherwise.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from editr2_jax.resize_rule import ResizeRule

MAX_PIXELS = 100_000_000  # of one file; decoding costs 3 bytes each, and a small file can claim any size
_UPRIGHT = {  # how a picture of an EXIF orientation is turned to be seen
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # decoders that files from outside may reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
    """Which sizes pictures are worked on: the listed ones, or what BAGEL's rule gives for each picture."""

    max_size: int = 1024  # pixels of the long side
    min_size: int = 512  # of the short side
    stride: int = 16  # both sides are multiples of it
    shapes: tuple[tuple[int, int], ...] = ()  # (height, width); empty: no fixed list

    def __post_init__(self):
        if not 1 <= self.min_size <= self.max_size or self.stride < 1:
            raise ValueError(f"{self}: give 1 <= min_size <= max_size and a stride of at least 1.")
        for shape in self.shapes:
            if len(shape) != 2 or any(side < 1 or side % self.stride for side in shape):
                raise ValueError(f"Buckets.shapes has {shape}; give (height, width), both multiples of the stride {self.stride}.")

    def choose(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) for a picture: the listed shape of the nearest aspect ratio, among equals the nearest in area."""
        if not self.shapes:
            rule = ResizeRule(max_size=self.max_size, min_size=self.min_size, stride=self.stride)
            return rule.shape(width, height)[::-1]

        def distance(shape: tuple[int, int]) -> tuple[float, float]:
            aspect = abs(math.log(shape[0] * width) - math.log(shape[1] * height))
            return round(aspect, 9), abs(math.log(shape[0] * shape[1] / (height * width)))

        return min(self.shapes, key=distance)


def fit(picture: UInt8[np.ndarray, "H W 3"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at a bucket's (height, width): the largest centred part of that aspect ratio, resized by Pillow's bicubic filter.

    A picture that has the size already comes back as it is, the same array.
    """
    height, width = picture.shape[:2]
    if (height, width) == tuple(shape):
        return picture
    scale = max(shape[0] / height, shape[1] / width)
    top, left = (height - shape[0] / scale) / 2, (width - shape[1] / scale) / 2
    box = (max(left, 0.0), max(top, 0.0), min(width - left, width), min(height - top, height))  # rounding may leave the picture by an ulp
    return np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS, encoded: bytes | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a PNG, JPEG, WEBP or BMP file: upright by its EXIF orientation, transparency on white, grey as three equal channels.

    encoded: the bytes of the file, where they do not lie at `path` on a local disk; the path is then
    but its name in messages. Raises ValueError naming the file if it is missing, no picture, damaged or larger than max_pixels.
    """
    with _open(path, max_pixels, encoded) as picture:
        return _upright_rgb(picture, path)


def picture_size(path: str | Path, *, max_pixels: int = MAX_PIXELS, encoded: bytes | None = None) -> tuple[int, int]:
    """(height, width) of a picture when upright, from its header alone. Raises ValueError as read_picture does."""
    with _open(path, max_pixels, encoded) as picture:
        try:
            sideways = _orientation(picture) in (5, 6, 7, 8)
        except _DAMAGE as error:
            raise ValueError(_damaged(path, error)) from error
        return picture.size if sideways else picture.size[::-1]


def verify_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS, encoded: bytes | None = None) -> None:
    """Checks a file's inner check sums and decodes it to its end. Raises ValueError as read_picture does."""
    with _open(path, max_pixels, encoded) as picture:
        try:
            picture.verify()
        except _DAMAGE as error:
            raise ValueError(_damaged(path, error)) from error
    read_picture(path, max_pixels=max_pixels, encoded=encoded)


# What Pillow's decoders raise on broken files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


def _damaged(path: str | Path, error: Exception) -> str:
    return f"{path} is damaged or incomplete ({error}); copy it again or remove its session."


def _open(path: str | Path, max_pixels: int, encoded: bytes | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            picture = Image.open(path if encoded is None else io.BytesIO(encoded), formats=_FORMATS)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; put the picture there or remove its session.") from error
    except UnidentifiedImageError as error:
        size = Path(path).stat().st_size if encoded is None else len(encoded)
        empty = "" if size else " (the file is empty)"
        raise ValueError(f"{path} is no picture{empty}; give a {', '.join(_FORMATS)} file.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is larger than the limit of {max_pixels} pixels; make it smaller.") from error
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error
    if picture.width * picture.height > max_pixels:
        size = f"{picture.width}x{picture.height}"
        picture.close()
        raise ValueError(f"{path} has {size} pixels, the limit is {max_pixels}; make it smaller.")
    return picture


def _upright_rgb(picture: Image.Image, path: str | Path) -> np.ndarray:
    try:
        picture.load()
        turn = _UPRIGHT.get(_orientation(picture))  # ImageOps.exif_transpose writes all of the EXIF anew, and fails on odd entries
        picture = picture if turn is None else picture.transpose(turn)
        if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
            return _grey(np.asarray(picture))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return np.asarray(picture.convert("RGB"))
    except _DAMAGE as error:
        raise ValueError(_damaged(path, error)) from error


def _orientation(picture: Image.Image) -> int:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


def _grey(values: np.ndarray) -> np.ndarray:
    """16-bit grey to three equal channels of 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    levels = (np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257  # 65535 = 255 * 257
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)
