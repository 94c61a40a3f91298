"""Names of the vision transformer's weights, the connector's, and the table of picture positions (all in ema.safetensors)."""

from __future__ import annotations

import math

from editr2_jax.models.bagel import positions
from editr2_jax.porting.rules import Rule

_MODEL = "vit_model.vision_model"
_LAYER = f"{_MODEL}.encoder.layers.{{layer}}"


def _linear(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.w", f"{key}.weight", "linear"), Rule(f"{path}.b", f"{key}.bias")]


def _norm(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.scale", f"{key}.weight"), Rule(f"{path}.bias", f"{key}.bias")]


def sincos(shape: tuple[int, ...]):
    """A fixed 2D table [side * side, width] that a checkpoint may lack."""
    return positions.sincos_table(shape[1], math.isqrt(shape[0]))


RULES = (
    *_linear("vit.enter", f"{_MODEL}.embeddings.patch_embedding"),
    Rule("vit.position", f"{_MODEL}.embeddings.position_embedding.weight"),
    *_norm("vit.layers.norm_1", f"{_LAYER}.layer_norm1"),
    *_linear("vit.layers.q", f"{_LAYER}.self_attn.q_proj"),
    *_linear("vit.layers.k", f"{_LAYER}.self_attn.k_proj"),
    *_linear("vit.layers.v", f"{_LAYER}.self_attn.v_proj"),
    *_linear("vit.layers.o", f"{_LAYER}.self_attn.out_proj"),
    *_norm("vit.layers.norm_2", f"{_LAYER}.layer_norm2"),
    *_linear("vit.layers.up", f"{_LAYER}.mlp.fc1"),
    *_linear("vit.layers.down", f"{_LAYER}.mlp.fc2"),
    *_norm("vit.norm", f"{_MODEL}.post_layernorm"),
    *_linear("connector.enter", "connector.fc1"),
    *_linear("connector.leave", "connector.fc2"),
    Rule("vit_pos", "vit_pos_embed.pos_embed", rebuild=sincos),
)
