"""Pictures on disk, PNG, lossless, whole or not at all; and how much an edit changed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, picture: np.ndarray) -> None:
    """Writes a uint8 [H, W, 3] picture; makes the folder. A reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="PNG")
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data.getvalue())
    os.replace(beside, path)


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two uint8 pictures [H, W, 3], in [0, 1]."""
    return float(np.abs(after.astype(np.int16) - before.astype(np.int16)).mean() / 255)
