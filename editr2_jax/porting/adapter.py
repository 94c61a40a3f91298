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
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import bagel_weights, rules, safetensors_io
from editr2_jax.porting.leaves import Index, Leaf
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
    worn = nnx.clone(model)
    if any(linear.lora_a is not None for _, linear in lora.linears(worn)):
        raise ValueError(f"{folder}: the model has an adapter already; export it folded in, and load this one onto the result.")
    linears = dict(lora.linears(worn))
    for path, one in _read({path: linear.w.shape for path, linear in linears.items()}, Path(folder)).items():
        linears[path].attach(one.size.rank, one.size.alpha, jax.random.key(0))  # makes room; what is drawn is replaced
        linears[path].lora_a[...], linears[path].lora_b[...] = one.a, one.b
    return worn


def folded(ours: Mapping[str, Leaf], folder: str | Path) -> dict[str, Leaf]:
    """The leaves of a checkpoint with the adapter of a folder folded in, when they are read. Raises what `load` raises."""
    shapes = {path.removesuffix(".w"): leaf.shape for path, leaf in ours.items() if path.endswith(".w")}
    pairs = _read(shapes, Path(folder))
    return {path: _Folded(leaf, pairs[path[:-2]]) if path.endswith(".w") and path[:-2] in pairs else leaf for path, leaf in ours.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pair:
    """A projection's adapter: a [layers, in, rank], b [layers, rank, out]."""

    size: Size
    a: jax.Array
    b: jax.Array


class _Folded:
    """A projection and what its adapter adds, in float32, then back in the projection's type."""

    def __init__(self, leaf: Leaf, pair: _Pair):
        self._leaf, self._scale = leaf, pair.size.alpha / pair.size.rank
        self._a, self._b = np.asarray(pair.a), np.asarray(pair.b)
        self.shape, self.dtype, self.stacked, self.together = leaf.shape, leaf.dtype, True, leaf.together

    def blocks(self, indices: Sequence[Index]) -> list[np.ndarray]:
        found = []
        for (layers, inside, outside), block in zip(indices, self._leaf.blocks(indices), strict=True):
            change = self._scale * (self._a[layers, inside] @ self._b[layers, :, outside])
            found.append((block.astype(np.float32) + change).astype(self.dtype))
        return found


def _read(shapes: Mapping[str, tuple[int, ...]], folder: Path) -> dict[str, _Pair]:
    """The adapters of a folder by dotted path. shapes: of the projections that a model has, [layers, in, out]."""
    told, tensors, rules_of = _told(folder / CONFIG), safetensors_io.TensorFile(folder / TENSORS), table()
    if not tensors:
        raise ValueError(f"{folder / TENSORS}: holds no tensor; copy it again.")
    sizes, wanted = {}, {}
    for path, (layers, *ends) in ((path, shape) for path, shape in shapes.items() if path in rules_of):
        if any(rule.key.format(layer=layer) in tensors for rule in rules_of[path] for layer in range(layers)):
            size = sizes[path] = _size(folder / CONFIG, told, rules_of[path][0], layers)
            wanted[f"{path}.lora_a"] = jax.ShapeDtypeStruct((layers, ends[0], size.rank), np.float32)
            wanted[f"{path}.lora_b"] = jax.ShapeDtypeStruct((layers, size.rank, ends[1]), np.float32)
    places = rules.plan(wanted, [rule for path in sizes for rule in rules_of[path]])
    found = rules.read(places, tensors, where=str(folder / TENSORS))
    return {path: _Pair(size=size, a=found[f"{path}.lora_a"], b=found[f"{path}.lora_b"]) for path, size in sizes.items()}


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


def _told(path: Path) -> dict[str, Any]:
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
