"""Our model as a PyTorch checkpoint: the whole folder in the release's layout, or the adapter alone in PEFT's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel import bagel
from editr2_jax.porting import adapter as adapters
from editr2_jax.porting import bagel_weights, rules, safetensors_io


def write_folder(model: bagel.Bagel, folder: str | Path) -> None:
    """Writes configuration, ema.safetensors and ae.safetensors, tensor by tensor, in the parameters' types.

    Adapters are folded into the weights they adapt, so what is written draws what the model draws.
    """
    folder = Path(folder)
    model.config.write_folder(folder)
    model = merged(model)
    for name, ours, table in (
        ("ema", rules.leaves(model, without=("vae",)), bagel_weights.RULES),
        ("ae", rules.leaves(model, under="vae"), bagel_weights.VAE_RULES),
    ):
        safetensors_io.write(folder / f"{name}.safetensors", rules.export_lazily(ours, table))


def merged(model: nnx.Module) -> nnx.Module:
    """A copy whose adapters are folded into the weights (in float32, then back to the weights' type) and gone; the original is kept."""
    copy = nnx.clone(model) if any(linear.lora_a is not None for _, linear in lora.linears(model)) else model
    for _, linear in lora.linears(copy):
        if linear.lora_a is not None:
            change = linear.lora_scale * (linear.lora_a[...] @ linear.lora_b[...])
            linear.w[...] = (linear.w[...].astype(jnp.float32) + change).astype(linear.w.dtype)
            linear.lora_a = linear.lora_b = nnx.data(None)
    return copy


def adapter(model: nnx.Module) -> dict[str, np.ndarray]:
    """The adapters by PEFT's names, `base_model.model.<PyTorch name>.lora_A.weight` [rank, in] and `lora_B.weight` [out, rank].

    Raises ValueError when the model has none.
    """
    table = adapters.table()
    tensors: dict[str, np.ndarray] = {}
    for path, linear in lora.linears(model):
        if linear.lora_a is not None:
            leaves = {f"{path}.lora_a": linear.lora_a[...], f"{path}.lora_b": linear.lora_b[...]}
            tensors |= rules.export(leaves, table[path])
    if not tensors:
        raise ValueError("this model has no adapter to export; train with one, or export the whole folder.")
    return tensors


def write_adapter(model: nnx.Module, folder: str | Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, as PEFT reads them."""
    folder = Path(folder)
    tensors = adapter(model)
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {name: (array.shape, array.dtype, lambda array=array: array) for name, array in tensors.items()}
    safetensors_io.write(folder / adapters.TENSORS, entries)
    adapted = next(linear for _, linear in lora.linears(model) if linear.lora_a is not None)
    rank = adapted.lora_a.shape[-1]
    targets = sorted({name.removeprefix(adapters.PREFIX).rsplit(".lora_", 1)[0].split(".", 4)[-1] for name in tensors})
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": adapted.lora_scale * rank,
        "target_modules": targets,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "base_model_name_or_path": None,
        "task_type": None,
    }
    (folder / adapters.CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
