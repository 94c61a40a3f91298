"""The recorded DINOv3 checkpoints and what PyTorch made of pictures with them (tests/golden/dinov3)."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden/dinov3"
NAMES = ("plain", "gated")


@dataclasses.dataclass(frozen=True)
class Case:
    """A checkpoint folder, uint8 pictures, their pixels [N, h, w, 3] and tokens [N, T, D]."""

    folder: Path
    pictures: list[np.ndarray]
    pixels: np.ndarray
    tokens: np.ndarray


@functools.cache
def case(name: str) -> Case:
    """A recorded case, read by our own reader."""
    from editr2_jax.porting import safetensors_io

    arrays = {key: np.asarray(value) for key, value in safetensors_io.open_tensors(FOLDER / f"{name}.safetensors").items()}
    pictures = [arrays[key] for key in sorted(arrays) if key.startswith("picture_")]
    return Case(FOLDER / name, pictures, arrays["pixels"], arrays["tokens"])


@functools.cache
def model(name: str):
    """The JAX model of a recorded checkpoint."""
    from editr2_jax.porting import dinov3_weights

    return dinov3_weights.load_folder(FOLDER / name)
