"""Sizes and switches of DINOv3's vision transformers, by the names and defaults of transformers' config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("gelu", "silu")  # gelu: the exact one, not its tanh approximation
_NAMES = {  # in config.json
    "patch": "patch_size",
    "width": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "registers": "num_register_tokens",
    "gated": "use_gated_mlp",
    "activation": "hidden_act",
    "theta": "rope_theta",
    "eps": "layer_norm_eps",
} | {f"{part}_bias": f"{part}_bias" for part in ("query", "key", "value", "proj", "mlp")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DinoV3Config:
    """The defaults are ViT-S/16 as released, whose registers transformers' class leaves out: it has 0 of them by default."""

    patch: int = 16  # side, in pixels
    width: int = 384
    inner: int = 1536  # of the MLP
    layers: int = 12
    heads: int = 6
    registers: int = 4
    gated: bool = False  # MLP: act(gate x) * up x; S+, H+ and 7B
    activation: str = "gelu"
    theta: float = 100.0
    eps: float = 1e-5
    query_bias: bool = True  # false for 7B, as the value's
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True

    def __post_init__(self):
        if min(self.patch, self.width, self.inner, self.layers, self.heads) < 1 or self.registers < 0:
            raise ValueError(f"{self}: sizes must be at least 1, registers at least 0.")
        if self.width % (4 * self.heads):
            raise ValueError(f"DinoV3Config: width {self.width} over {self.heads} heads must give heads of a multiple of 4 channels.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"DinoV3Config: activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}.")

    @property
    def prefix(self) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 1 + self.registers


def from_json(said: Mapping[str, Any]) -> DinoV3Config:
    """The config of a config.json, what it leaves out as in transformers. class. Raises ValueError for another model or other settings."""
    if said.get("model_type") != "dinov3_vit":
        raise ValueError(f"this is a checkpoint of model_type {said.get('model_type')!r}; 'dinov3_vit' is wanted here.")
    patch = said.get("patch_size", 16)
    if isinstance(patch, list) and len(set(patch)) == 1:
        patch = patch[0]
    if not isinstance(patch, int) or said.get("num_channels", 3) != 3:
        raise ValueError(f"patch_size is {patch}, num_channels {said.get('num_channels', 3)}; wanted are square patches of 3 channels.")
    given = {ours: said[theirs] for ours, theirs in _NAMES.items() if theirs in said}
    return DinoV3Config(**{"registers": 0} | given | {"patch": patch})
