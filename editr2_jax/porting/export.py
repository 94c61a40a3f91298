"""Our model as a PyTorch checkpoint: the whole folder in the release's layout, or the adapter alone in PEFT's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel import bagel
from editr2_jax.porting import adapter as adapters
from editr2_jax.porting import bagel_weights, byte_ranges, rules, safetensors_io


def write_folder(model: bagel.Bagel, folder: str | Path, *, shards: int = 1) -> None:
    """Writes configuration, ema.safetensors (or shards and their index) and ae.safetensors, tensor by tensor, in the parameters' types.

    Adapters are folded into the weights they adapt, so what is written draws what the model draws.
    """
    byte_ranges.place(folder).mkdir(parents=True, exist_ok=True)
    write_leaves(rules.leaves(merged(model)), folder, shards=shards)
    bagel_weights.write_config(model.config, folder)


def write_leaves(
    ours: Mapping[str, Any],
    folder: str | Path,
    *,
    shards: int = 1,
    done: Callable[[str, int], None] = lambda name, size: None,
) -> None:
    """Writes the two official files from arrays, or leaves that are still in a file, by dotted path; one tensor at a time is in memory.

    Args:
        done: is told the name and the bytes of every tensor that is about to be written.
    """
    folder = byte_ranges.place(folder)
    for name, count, entries in zip(("ema", "ae"), (shards, 1), bagel_weights.entries(ours), strict=True):
        told = {key: (shape, kind, _telling(key, give, done)) for key, (shape, kind, give) in entries.items()}
        safetensors_io.write_sharded(folder, name, told, count)


def _telling(key: str, give: Callable[[], np.ndarray], done: Callable[[str, int], None]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        tensor = give()
        done(key, tensor.nbytes)
        return tensor

    return read


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


def write_adapter(model: nnx.Module, folder: str | Path, *, base: str | None = None) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, as PEFT reads them. base: the checkpoint the adapter belongs to."""
    folder = byte_ranges.place(folder)
    tensors = adapter(model)
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {name: (array.shape, array.dtype, lambda array=array: array) for name, array in tensors.items()}
    safetensors_io.write(folder / adapters.TENSORS, entries)
    sizes = {path: _size_of(linear) for path, linear in lora.linears(model) if linear.lora_a is not None}
    fields = adapters.fields(sizes) | {"base_model_name_or_path": base}
    (folder / adapters.CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _size_of(linear: lora.Linear) -> adapters.Size:
    rank = linear.lora_a.shape[-1]
    return adapters.Size(rank=rank, alpha=linear.lora_scale * rank)
