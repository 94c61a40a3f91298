"""A LoRA adapter in PEFT's layout onto our model: the way back of `export.write_adapter`, every tensor accounted for.

A folder holds adapter_config.json (rank, alpha) and adapter_model.safetensors with lora_A [rank, in] and lora_B [out, rank] under PyTorch
names. Which projections are adapted is read off the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import bagel_weights, rules, safetensors_io
from editr2_jax.porting.rules import Rule

PREFIX = "base_model.model."  # what PEFT puts before the names of the model it wraps
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN = {"peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False}  # what is implemented
_BY_NAME = ("rank_pattern", "alpha_pattern")  # sizes of single projections


def table() -> dict[str, tuple[Rule, Rule]]:
    """The rules of a projection's two matrices, by its dotted path, for every projection that an expert has."""
    pairs = {}
    for rule in bagel_weights.RULES:
        path, _, leaf = rule.path.rpartition(".")
        if rule.path.startswith("decoder.layers.") and leaf == "w":
            key = PREFIX + rule.key.removesuffix("weight")
            pairs[path] = tuple(Rule(f"{path}.lora_{letter}", f"{key}lora_{letter.upper()}.weight", "linear") for letter in "ab")
    return pairs


def load(model: Bagel, folder: str | Path) -> Bagel:
    """A copy of the model that wears the adapter of a folder.

    Raises FileNotFoundError for a missing file, ValueError for a kind of adapter that is not implemented or a model that wears one already,
    and rules.WeightsError that lists every tensor that is unused, unfilled, misshapen or not finite.
    """
    folder = Path(folder)
    rank, alpha = _size(folder / CONFIG)
    tensors = safetensors_io.TensorFile(folder / TENSORS)
    worn = nnx.clone(model)
    if any(linear.lora_a is not None for _, linear in lora.linears(worn)):
        raise ValueError(f"{folder}: the model has an adapter already; export it folded in, and load this one onto the result.")
    ours, rules_of = {}, table()
    if not tensors:
        raise ValueError(f"{folder / TENSORS}: holds no tensor; copy it again.")
    linears = {path: linear for path, linear in lora.linears(worn) if path in rules_of and _adapted(linear, rules_of[path], tensors)}
    for path, linear in linears.items():
        linear.attach(rank, alpha, jax.random.key(0))  # makes room; what is drawn is replaced
        ours |= {f"{path}.lora_a": linear.lora_a[...], f"{path}.lora_b": linear.lora_b[...]}
    places = rules.plan(ours, [rule for path in linears for rule in rules_of[path]])
    for path, array in rules.read(places, tensors, where=str(folder / TENSORS)).items():
        owner, _, leaf = path.rpartition(".")
        getattr(linears[owner], leaf)[...] = array
    return worn


def _adapted(linear: lora.Linear, pair: tuple[Rule, Rule], tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the file has anything for a projection, in any layer."""
    return any(rule.key.format(layer=layer) in tensors for rule in pair for layer in range(linear.w.shape[0]))


def _size(path: Path) -> tuple[int, float]:
    """Rank and alpha."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that holds {CONFIG} and {TENSORS}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(fields["r"]), float(fields["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the configuration of a LoRA adapter ({type(error).__name__}: {error}); copy it again.") from error
    told = [f"{name} is {fields[name]!r}" for name, plain in _PLAIN.items() if fields.get(name, plain) != plain]
    told += [f"{name} is {fields[name]!r}" for name in _BY_NAME if fields.get(name)]
    if told:
        raise ValueError(f"{path}: {', '.join(told)}; only plain LoRA of one size is implemented.")
    return rank, alpha
