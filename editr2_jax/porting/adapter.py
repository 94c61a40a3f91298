"""A LoRA adapter in PEFT's layout onto our model: the way back of `export.write_adapter`, every tensor accounted for.

A folder holds adapter_config.json (rank, alpha, and patterns of names that have another rank or alpha) and adapter_model.safetensors with
lora_A [rank, in] and lora_B [out, rank] under PyTorch names. Which projections are adapted is read off the tensors. PEFT itself adapts what
`target_modules` names; a text there is a regular expression for whole names. That is what we write: a list is one of endings, and
`self_attn.q_proj` would mean the vision transformer's, too.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import bagel_weights, rules, safetensors_io
from editr2_jax.porting.rules import Rule

PREFIX = "base_model.model."  # what PEFT puts before the names of the model it wraps
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN = {"peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False}  # what is implemented
_NO_LAYER = r"language_model\.model\.layers\.\d+\."  # before the names of what a layer holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a projection's adapter; what it adds is multiplied by alpha / rank."""

    rank: int
    alpha: float


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
    told = _read(folder / CONFIG)
    tensors = safetensors_io.TensorFile(folder / TENSORS)
    worn = nnx.clone(model)
    if any(linear.lora_a is not None for _, linear in lora.linears(worn)):
        raise ValueError(f"{folder}: the model has an adapter already; export it folded in, and load this one onto the result.")
    ours, rules_of = {}, table()
    if not tensors:
        raise ValueError(f"{folder / TENSORS}: holds no tensor; copy it again.")
    linears = {path: linear for path, linear in lora.linears(worn) if path in rules_of and _adapted(linear, rules_of[path], tensors)}
    for path, linear in linears.items():
        size = _size(folder / CONFIG, told, rules_of[path][0], linear.w.shape[0])
        linear.attach(size.rank, size.alpha, jax.random.key(0))  # makes room; what is drawn is replaced
        ours |= {f"{path}.lora_a": linear.lora_a[...], f"{path}.lora_b": linear.lora_b[...]}
    places = rules.plan(ours, [rule for path in linears for rule in rules_of[path]])
    for path, array in rules.read(places, tensors, where=str(folder / TENSORS)).items():
        owner, _, leaf = path.rpartition(".")
        getattr(linears[owner], leaf)[...] = array
    return worn


def fields(sizes: Mapping[str, Size]) -> dict[str, Any]:
    """The fields of adapter_config.json for adapters of these sizes by dotted path."""
    names = {path: name(path) for path in sizes}
    rank, _ = collections.Counter(size.rank for size in sizes.values()).most_common(1)[0]
    alpha, _ = collections.Counter(size.alpha for size in sizes.values()).most_common(1)[0]
    whole = {path: _NO_LAYER + re.escape(inner) for path, inner in names.items()}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {whole[path]: size.rank for path, size in sizes.items() if size.rank != rank},
        "alpha_pattern": {whole[path]: size.alpha for path, size in sizes.items() if size.alpha != alpha},
        "target_modules": rf"(.*\.)?{_NO_LAYER}({'|'.join(re.escape(inner) for inner in sorted(names.values()))})",
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "base_model_name_or_path": None,
        "task_type": None,
    }


def name(path: str) -> str:
    """What the official model calls a projection inside a layer, such as self_attn.q_proj_moe_gen."""
    first, _ = table()[path]
    return first.key.split("{layer}.")[1].removesuffix(".lora_A.weight")


def _adapted(linear: lora.Linear, pair: tuple[Rule, Rule], tensors: Mapping[str, Any]) -> bool:
    """Whether the file has anything for a projection, in any layer."""
    return any(rule.key.format(layer=layer) in tensors for rule in pair for layer in range(linear.w.shape[0]))


def _read(path: Path) -> dict[str, Any]:
    """The fields of adapter_config.json; raises ValueError for what is not implemented."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder that holds {CONFIG} and {TENSORS}.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        int(told["r"]), float(told["lora_alpha"])
        patterns = [told.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
        [(re.compile(name), float(value)) for pattern in patterns for name, value in pattern.items()]
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{path}: not the configuration of a LoRA adapter ({type(error).__name__}: {error}); copy it again.") from error
    other = [f"{name} is {told[name]!r}" for name, plain in _PLAIN.items() if told.get(name, plain) != plain]
    if other:
        raise ValueError(f"{path}: {', '.join(other)}; only plain LoRA is implemented.")
    return told


def _size(path: Path, told: Mapping[str, Any], rule: Rule, layers: int) -> Size:
    """The size of a projection's adapter, the same in all layers: ours are one array. Raises ValueError where it is not."""
    key = rule.key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
    modules = [key.format(layer=layer) for layer in range(layers)]
    ranks = {int(_of(told, "rank_pattern", module, "r")) for module in modules}
    alphas = {float(_of(told, "alpha_pattern", module, "lora_alpha")) for module in modules}
    if len(ranks) > 1 or len(alphas) > 1:
        raise ValueError(f"{path}: rank or alpha of {key} differs between layers; only one size for all layers is implemented.")
    return Size(rank=ranks.pop(), alpha=alphas.pop())


def _of(told: Mapping[str, Any], pattern: str, module: str, otherwise: str) -> Any:
    """By PEFT's rule: the first pattern that matches the end of the module's name, from a dot on."""
    for end, value in (told.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({end})$", module):
            return value
    return told[otherwise]
