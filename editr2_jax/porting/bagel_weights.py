"""Names of BAGEL's weights (ema.safetensors and ae.safetensors), and a whole checkpoint folder in and out of the model.

A folder is in the official layout, or one that `port convert --to=orbax` made of it; both load onto any mesh. Local, or at an address such
as gs://bucket/folder.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.porting import byte_ranges, converted, leaves, rules, safetensors_io, vae_weights, vit_weights
from editr2_jax.porting.leaves import Leaf
from editr2_jax.porting.meter import Meter
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


CONFIGS = ("llm_config.json", "vit_config.json", "bagel_config.json", "config.json")


def open_folder(folder: str | Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The tensors of the model and of the autoencoder in a checkpoint folder, each in one file or in shards."""
    return safetensors_io.open_tensors(folder, ("ema", "model")), safetensors_io.open_tensors(folder, ("ae",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A checkpoint folder in either layout, of which names, shapes and types are read, and no numbers yet."""

    config: BagelConfig
    leaves: Mapping[str, Leaf]  # by dotted path, the autoencoder's under "vae."
    unsound: Mapping[str, leaves.Unsound]  # by file: what reading has met so far

    @property
    def nbytes(self) -> int:
        """Bytes of all leaves."""
        return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in self.leaves.values())

    def check(self) -> None:
        """Raises rules.WeightsError that lists every tensor in which reading has met numbers that are not finite."""
        problems = {where: {"not finite": unsound.listed()} for where, unsound in self.unsound.items() if unsound.listed()}
        if problems:
            raise rules.WeightsError(problems)


def opened(folder: str | Path, *, dtype: Any = None) -> Opened:
    """A checkpoint folder, its keys accounted for both ways.

    Args:
        dtype: of the model's parameters, the autoencoder stays float32; None keeps the files' own types.

    Raises FileNotFoundError or ValueError for a folder that is no checkpoint, rules.WeightsError listing what does not fit the model.
    """
    config = read_config(folder)
    model = bagel.abstract(config, dtype or jnp.float32)
    if converted.is_here(folder):
        own = lambda path, kind: kind if dtype is None else jnp.float32 if path.startswith("vae.") else dtype  # noqa: E731
        return Opened(config=config, leaves=_of_ours(folder, model, own), unsound={})
    found, unsound, problems = {}, {}, {}
    parts = (("", rules.leaves(model, without=("vae",)), RULES), ("vae.", rules.leaves(bagel.abstract(config), under="vae"), VAE_RULES))
    for (prefix, ours, table), tensors in zip(parts, open_folder(folder), strict=True):
        where = str(tensors)
        unsound[where] = leaves.Unsound()
        try:
            part = rules.opened(rules.plan(ours, table), tensors, where=where, unsound=unsound[where], own_types=dtype is None)
            found |= {prefix + path: leaf for path, leaf in part.items()}
        except rules.WeightsError as error:
            problems |= error.problems
    if problems:
        raise rules.WeightsError(problems)
    return Opened(config=config, leaves=found, unsound=unsound)


def load(
    model: bagel.Bagel,
    tensors: Mapping[str, Any],
    vae_tensors: Mapping[str, Any] | None = None,
    *,
    sharding: rules.Sharding | None = None,
    done: Callable[[str, int], None] = lambda path, size: None,
) -> bagel.Bagel:
    """A copy of the model, abstract or real, filled from PyTorch tensors by name; without `vae_tensors` the autoencoder stays as it is.

    Args:
        sharding: (dotted path, shape) -> where the parameter lives; None leaves it on the default device.
        done: is told the path and the bytes of every parameter that is there.

    Raises rules.WeightsError that lists every tensor of both files that is unused, unfilled, misshapen or not finite.
    """
    arrays, problems = {}, {}
    files = [("", rules.leaves(model, without=("vae",)), tensors, RULES, "model weights")]
    if vae_tensors is not None:
        files.append(("vae.", rules.leaves(model, under="vae"), vae_tensors, VAE_RULES, "autoencoder weights"))
    for prefix, ours, source, table, name in files:
        within = None if sharding is None else lambda path, shape, prefix=prefix: sharding(prefix + path, shape)
        where = name if isinstance(source, dict) else str(source)
        try:
            found = rules.read(rules.plan(ours, table), source, where=where, sharding=within, done=done)
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
    say: Callable[[str], None] = lambda text: None,
) -> bagel.Bagel:
    """The model of a checkpoint folder in either layout: configuration (unless given), weights and autoencoder, parameters in `dtype`.

    Args:
        sharding: (dotted path, shape) -> where the parameter lives; each process reads what its own devices hold.
        say: takes a line about the progress now and then.
    """
    model = bagel.abstract(config or read_config(folder), dtype)
    ours = rules.leaves(model)
    done = Meter(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in ours.values()), say)
    if not converted.is_here(folder):
        return load(model, *open_folder(folder), sharding=sharding, done=done)
    arrays = {}
    for path, leaf in _of_ours(folder, model, lambda path, own: ours[path].dtype).items():
        arrays[path] = leaves.place(leaf, sharding and sharding(path, leaf.shape))
        done(path, arrays[path].nbytes)
    return rules.fill(model, arrays)


def read_config(folder: str | Path) -> BagelConfig:
    """The configuration of a checkpoint folder, local or not."""
    with byte_ranges.at_hand(folder, CONFIGS) as here:
        return BagelConfig.from_folder(here)


def write_config(config: BagelConfig, folder: str | Path) -> None:
    """Writes the configuration into a folder, local or not."""
    folder = byte_ranges.place(folder)
    with tempfile.TemporaryDirectory() as here:
        config.write_folder(here)
        for path in sorted(Path(here).iterdir()):
            with (folder / path.name).open("wb") as file, path.open("rb") as told:
                shutil.copyfileobj(told, file)


def _of_ours(folder: str | Path, model: bagel.Bagel, types: Callable[[str, Any], Any]) -> dict[str, Leaf]:
    """The leaves of a converted folder, which must be those of the model; types: as in converted.opened."""
    wanted = rules.leaves(model)
    found = converted.opened(folder, lambda path, own: types(path, own) if path in wanted else own)
    problems = {
        "unused": [path for path in found if path not in wanted],
        "unfilled": [path for path in wanted if path not in found],
        "misshapen": [
            f"{path} (file {found[path].shape}, model {tuple(leaf.shape)})"
            for path, leaf in wanted.items()
            if path in found and found[path].shape != tuple(leaf.shape)
        ],
    }
    if any(problems.values()):
        raise rules.WeightsError({str(folder): problems})
    return found


def export(ours: nnx.Module | nnx.State | Mapping) -> dict[str, np.ndarray]:
    """PyTorch names -> arrays for the model's parameters, or for gradients of them; without autoencoder and adapters."""
    return rules.export(rules.leaves(ours, without=("vae",)), RULES)


def entries(ours: Mapping[str, Any]) -> tuple[safetensors_io.Entries, safetensors_io.Entries]:
    """What the two official files hold, for a writer: from leaves or arrays by dotted path, the autoencoder's under "vae."."""
    model = {path: leaf for path, leaf in ours.items() if not path.startswith("vae.")}
    vae = {path.removeprefix("vae."): leaf for path, leaf in ours.items() if path.startswith("vae.")}
    return rules.export_lazily(model, RULES), rules.export_lazily(vae, VAE_RULES)


def export_vae(ours: nnx.Module | nnx.State | Mapping) -> dict[str, np.ndarray]:
    """PyTorch names -> arrays for the autoencoder of a whole model."""
    return rules.export(rules.leaves(ours, under="vae"), VAE_RULES)
