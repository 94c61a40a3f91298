"""Names of DINOv3's weights as Hugging Face publishes them, and a whole checkpoint folder into the model; no PyTorch is needed.

The folder holds config.json and model.safetensors, or shards with their index; local, or at an address such as gs://bucket/folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from editr2_jax.models.dinov3 import config as sizes
from editr2_jax.models.dinov3 import vit
from editr2_jax.models.dinov3.config import DinoV3Config
from editr2_jax.porting import byte_ranges, rules, safetensors_io
from editr2_jax.porting.rules import Rule

_LAYER = "layer.{layer}"
_UNUSED = "embeddings.mask_token"  # for training alone


def _linear(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.w", f"{key}.weight", "linear"), Rule(f"{path}.b", f"{key}.bias")]


def _norm(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.scale", f"{key}.weight"), Rule(f"{path}.bias", f"{key}.bias")]


RULES = (
    Rule("enter.w", "embeddings.patch_embeddings.weight", "conv"),
    Rule("enter.b", "embeddings.patch_embeddings.bias"),
    Rule("cls", "embeddings.cls_token"),
    Rule("registers", "embeddings.register_tokens"),
    *_norm("layers.norm_1", f"{_LAYER}.norm1"),
    *(rule for part in "qkvo" for rule in _linear(f"layers.{part}", f"{_LAYER}.attention.{part}_proj")),
    Rule("layers.scale_1", f"{_LAYER}.layer_scale1.lambda1"),
    *_norm("layers.norm_2", f"{_LAYER}.norm2"),
    *(rule for part in ("gate", "up", "down") for rule in _linear(f"layers.{part}", f"{_LAYER}.mlp.{part}_proj")),
    Rule("layers.scale_2", f"{_LAYER}.layer_scale2.lambda1"),
    *_norm("norm", "norm"),
)


def load_folder(folder: str | Path, *, dtype: Any = jnp.float32) -> vit.DinoV3:
    """The model of a checkpoint folder, its parameters in `dtype`.

    Raises FileNotFoundError naming the file that is missing, ValueError for another model, rules.WeightsError that lists every tensor that
    is unused, unfilled, misshapen or not finite, with its file.
    """
    model = vit.abstract(read_config(folder), dtype)
    tensors = safetensors_io.open_tensors(folder)
    used = {name: tensors[name] for name in tensors if name != _UNUSED}
    return rules.load(model, used, RULES, where=str(tensors))


def read_config(folder: str | Path) -> DinoV3Config:
    """The configuration of a checkpoint folder. Raises FileNotFoundError or ValueError that names the file."""
    path = byte_ranges.place(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a DINOv3 checkpoint as Hugging Face publishes it.")
    try:
        return sizes.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
