"""The recorded BAGEL cases of tests/golden/bagel, and how closely a float32 port has to meet them."""

import functools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent / "bagel"


@functools.cache
def tensors() -> dict[str, np.ndarray]:
    return load_file(FOLDER / "cases.safetensors")


@functools.cache
def _notes() -> dict[str, dict]:
    cases = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]
    return {name: note for case in cases.values() for name, note in case["tensors"].items()}


def get(name: str) -> np.ndarray:
    return tensors()[name]


def check(ours, name: str) -> None:
    """Compares with a recorded output: exactly for integers, within the recorded suggested_atol for floats."""
    note, ours = _notes()[name], np.asarray(ours)
    expected = get(name)
    assert ours.shape == expected.shape, f"{name}: shape {ours.shape}, recorded {expected.shape}"
    if expected.dtype.kind in "iu":
        np.testing.assert_array_equal(ours, expected, err_msg=name)
    else:
        np.testing.assert_allclose(ours, expected, rtol=0, atol=note["suggested_atol"], err_msg=name)


def image_last(array: np.ndarray) -> np.ndarray:
    """[..., C, H, W] to [..., H, W, C]."""
    return np.moveaxis(array, -3, -1)


@functools.cache
def model():
    """The recorded checkpoint in our model, float32."""
    from editr2_jax.porting import bagel_weights

    return bagel_weights.load_folder(FOLDER)
