"""Pictures as DINOv3 wants them: x / 255, resized by the antialiased triangle filter (bilinear), then (x - mean) / std.

Resizing works on floats and nothing is rounded to uint8 in between, as in transformers' DINOv3ViTImageProcessor. numpy alone, so that the
Flax and the PyTorch model see the same numbers whichever other packages are installed.
Letters: N pictures, h w pixels as the model wants them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from editr2_jax.runtime import places

FILE = "preprocessor_config.json"
_BILINEAR = 2  # Pillow's number of the filter
_LONGEST = 1 << 14  # pixels of a side: weights and half-resized pictures grow with it, and a thin picture of any length has few bytes
_KEPT = 1 << 18  # weights of a resize that are kept for the next picture of that size: 1 MB, those of 1024 pixels to 256
_ALWAYS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "resample": _BILINEAR}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureRule:
    """How pictures become numbers; the defaults are those of the released checkpoints (ImageNet's mean and standard deviation)."""

    height: int = 224
    width: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255

    def at(self, size: int | None) -> PictureRule:
        """The rule for squares of `size` pixels; None: as it is."""
        return self if size is None else dataclasses.replace(self, height=size, width=size)

    def grid(self, patch: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ValueError when a side is no multiple of the patch (transformers would drop the rest)."""
        if min(self.height, self.width) < patch or self.height % patch or self.width % patch:
            near = [max(patch, round(side / patch) * patch) for side in (self.height, self.width)]
            raise ValueError(
                f"DINOv3 with patches of {patch} pixels cannot take pictures of {self.height}x{self.width}; "
                f"give multiples of {patch}, such as {near[0]}x{near[1]}."
            )
        return self.height // patch, self.width // patch


def read_rule(folder: str | Path) -> PictureRule:
    """The rule of a checkpoint folder. Raises ValueError for a preprocessor_config.json that asks for another treatment."""
    path = places.place(folder) / FILE
    said = read_json(path)
    for name, value in _ALWAYS.items():
        given = said.get(name)
        if (value if given is None else given) != value:
            raise ValueError(f"{path}: {name} is {given!r}; only {value!r} is known here, as in the released DINOv3 checkpoints.")
    defaults = PictureRule()
    try:
        size = said.get("size") or {"height": defaults.height, "width": defaults.width}
        mean, std = (tuple(map(float, said.get(f"image_{name}") or getattr(defaults, name))) for name in ("mean", "std"))
        rule = PictureRule(height=int(size["height"]), width=int(size["width"]), mean=mean, std=std)
        rule = dataclasses.replace(rule, scale=float(said.get("rescale_factor") or defaults.scale))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: size (height and width), image_mean, image_std or rescale_factor cannot be read ({error!r}).") from None
    if len(rule.mean) != 3 or len(rule.std) != 3 or min(rule.std) <= 0:
        raise ValueError(f"{path}: image_mean {rule.mean} and image_std {rule.std} must be three numbers each, std above 0.")
    return rule


def read_json(path: Any) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint folder. Raises FileNotFoundError or ValueError that names the file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a checkpoint as Hugging Face publishes it.")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); copy it again.") from None
    if not isinstance(said, dict):
        raise ValueError(f"{path}: not a JSON object; copy it again.")
    return said


def prepare(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], rule: PictureRule) -> Float[np.ndarray, "N h w 3"]:
    """Pictures of any sizes as one float32 array. Raises ValueError for anything but uint8 [H, W, 3], and for a side above 16384."""
    return (
        np.stack([_prepare(picture, rule) for picture in pictures]) if pictures else np.zeros((0, rule.height, rule.width, 3), np.float32)
    )


def _prepare(picture: UInt8[np.ndarray, "H W 3"], rule: PictureRule) -> Float[np.ndarray, "h w 3"]:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"DINOv3 wants uint8 pictures [height, width, 3], got {picture.dtype}{list(picture.shape)}.")
    if max(picture.shape) > _LONGEST:
        raise ValueError(
            f"DINOv3 takes pictures of up to {_LONGEST} pixels a side, got {picture.shape[0]}x{picture.shape[1]}; cut it first."
        )
    unit = picture.astype(np.float32) * np.float32(rule.scale)
    return (resize(unit, rule.height, rule.width) - np.asarray(rule.mean, np.float32)) / np.asarray(rule.std, np.float32)


def resize(picture: Float[np.ndarray, "H W 3"], height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Antialiased bilinear resize of a float picture: a sum over columns, then one over rows."""
    rows, columns, channels = picture.shape
    narrow = np.einsum("xw,hwc->hxc", _weights(columns, width), picture, optimize=True)  # [H, width, 3]
    return (_weights(rows, height) @ narrow.reshape(rows, -1)).reshape(height, width, channels)


def _weights(size_in: int, size_out: int) -> Float[np.ndarray, "size_out size_in"]:
    return (_kept if size_in * size_out <= _KEPT else _triangle)(size_in, size_out)


def _triangle(size_in: int, size_out: int) -> Float[np.ndarray, "size_out size_in"]:
    """Weights of every input pixel in every output pixel; each row adds up to 1. Shrinking widens the triangle by the same factor.

    In float32 throughout, as PyTorch's kernel computes them: float64 would move pixels by 3e-5.
    """
    scale = np.float32(size_in) / np.float32(size_out)
    centre = scale * (np.arange(size_out, dtype=np.float32) + np.float32(0.5))
    distance = np.abs(np.arange(size_in, dtype=np.float32) - centre[:, None] + np.float32(0.5)) / max(scale, np.float32(1))
    weight = np.maximum(np.float32(0), 1 - distance)
    return weight / weight.sum(axis=1, keepdims=True)


_kept = functools.lru_cache(maxsize=64)(_triangle)
