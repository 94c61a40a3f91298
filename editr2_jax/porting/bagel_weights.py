"""Names of BAGEL's weights (ema.safetensors and ae.safetensors), and a whole checkpoint folder in and out of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.porting import rules, safetensors_io, vae_weights, vit_weights
from editr2_jax.porting.rules import Rule

_LAYER = "language_model.model.layers.{layer}"


def _expert(name: str, suffix: str) -> list[Rule]:
    """One of the two copies of everything in a layer."""
    ours = f"decoder.layers.{name}"
    attention, mlp = f"{_LAYER}.self_attn", f"{_LAYER}.mlp{suffix}"
    return [
        *(Rule(f"{ours}.{part}.w", f"{attention}.{part}_proj{suffix}.weight", "linear") for part in "qkvo"),
        *(Rule(f"{ours}.{part}.b", f"{attention}.{part}_proj{suffix}.bias") for part in "qkv"),
        *(Rule(f"{ours}.{part}_norm.scale", f"{attention}.{part}_norm{suffix}.weight") for part in "qk"),
        *(Rule(f"{ours}.{part}.w", f"{mlp}.{part}_proj.weight", "linear") for part in ("gate", "up", "down")),
        Rule(f"{ours}.input_norm.scale", f"{_LAYER}.input_layernorm{suffix}.weight"),
        Rule(f"{ours}.post_norm.scale", f"{_LAYER}.post_attention_layernorm{suffix}.weight"),
        Rule(f"decoder.norm_{name}.scale", f"language_model.model.norm{suffix}.weight"),
    ]


def _linear(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.w", f"{key}.weight", "linear"), Rule(f"{path}.b", f"{key}.bias")]


RULES = (
    Rule("decoder.embed", "language_model.model.embed_tokens.weight"),
    *_expert("und", ""),
    *_expert("gen", "_moe_gen"),
    Rule("decoder.lm_head.w", "language_model.lm_head.weight", "linear"),
    *_linear("latent.enter", "vae2llm"),
    *_linear("latent.leave", "llm2vae"),
    *_linear("latent.time_in", "time_embedder.mlp.0"),
    *_linear("latent.time_out", "time_embedder.mlp.2"),
    Rule("latent.pos", "latent_pos_embed.pos_embed", rebuild=vit_weights.sincos),
    *vit_weights.RULES,
)
VAE_RULES = vae_weights.RULES


def open_folder(folder: str | Path) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The tensors of the model and of the autoencoder in a checkpoint folder, each in one file or in shards."""
    return safetensors_io.open_tensors(folder, ("ema", "model")), safetensors_io.open_tensors(folder, ("ae",))


def load(
    model: bagel.Bagel,
    tensors: Mapping[str, np.ndarray],
    vae_tensors: Mapping[str, np.ndarray] | None = None,
    *,
    sharding: rules.Sharding | None = None,
) -> bagel.Bagel:
    """A copy of the model, abstract or real, filled from PyTorch tensors by name; without `vae_tensors` the autoencoder stays as it is.

    Args:
        sharding: (dotted path, shape) -> where the parameter lives; None leaves it on the default device.

    Raises rules.WeightsError that lists every tensor of both files that is unused, unfilled, misshapen or not finite.
    """
    arrays, problems = {}, {}
    files = [("", rules.leaves(model, without=("vae",)), tensors, RULES, "model weights")]
    if vae_tensors is not None:
        files.append(("vae.", rules.leaves(model, under="vae"), vae_tensors, VAE_RULES, "autoencoder weights"))
    for prefix, ours, source, table, name in files:
        within = None if sharding is None else lambda path, shape, prefix=prefix: sharding(prefix + path, shape)
        try:
            found = rules.read(rules.plan(ours, table), source, where=name if isinstance(source, dict) else str(source), sharding=within)
            arrays |= {prefix + path: array for path, array in found.items()}
        except rules.WeightsError as error:
            problems |= error.problems  # both files are looked through before anything is said
    if problems:
        raise rules.WeightsError(problems)
    return rules.fill(model, arrays)


def load_folder(
    folder: str | Path,
    *,
    config: BagelConfig | None = None,
    dtype: Any = jnp.float32,
    sharding: rules.Sharding | None = None,
) -> bagel.Bagel:
    """The model of a checkpoint folder: configuration (unless given), weights and autoencoder, parameters in `dtype`."""
    config = config or BagelConfig.from_folder(folder)
    return load(bagel.abstract(config, dtype), *open_folder(folder), sharding=sharding)


def export(ours: nnx.Module | nnx.State | Mapping) -> dict[str, np.ndarray]:
    """PyTorch names -> arrays for the model's parameters, or for gradients of them; without autoencoder and adapters."""
    return rules.export(rules.leaves(ours, without=("vae",)), RULES)


def export_vae(ours: nnx.Module | nnx.State | Mapping) -> dict[str, np.ndarray]:
    """PyTorch names -> arrays for the autoencoder of a whole model."""
    return rules.export(rules.leaves(ours, under="vae"), VAE_RULES)
