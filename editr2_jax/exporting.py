"""A run's weights out again, as a PyTorch folder: the model whole, or the adapter alone."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax import assemble, resuming
from editr2_jax.data import session_source
from editr2_jax.evaluation import report
from editr2_jax.held_out import merged
from editr2_jax.models.bagel import pixels
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import convert, model_card
from editr2_jax.porting import export as porting_export
from editr2_jax.records import Session
from editr2_jax.resuming import At, on_own_base, saved_shown, saved_state
from editr2_jax.rollouts.player import Weights
from editr2_jax.runtime.pointers import LATEST
from editr2_jax.runtime.workdir import flat


def export(config, run: Path, out: Path, *, adapter: bool = False, dtype: str | None = None, at: At = LATEST) -> str:
    """Writes a checkpoint of a run as a PyTorch folder: whole (adapters folded in, tokenizer beside it) or the adapter alone.

    On one device, whatever mesh the run had. Of a run that trained an adapter only that is restored; the rest passes through in a stream.
    """
    if dtype is not None and dtype not in convert.DTYPES:
        raise ValueError(f"--dtype is {dtype!r}; choose one of {', '.join(convert.DTYPES)}.")
    if adapter and config.train != "lora":
        raise ValueError(f"{run}: this run trained with train={config.train}, so it has no adapter; leave --adapter out.")
    resuming.refuse_absent(run, at)
    write = _export_adapted if config.train == "lora" else _export_whole
    step, account = write(config, run, out, adapter=adapter, dtype=dtype, at=at)
    return f"{resuming.told_step(run, at, step)} in {out}: {account.keys} tensors, {account.size / 1e6:.1f} MB"


def _export_adapted(config, run: Path, out: Path, *, adapter: bool, dtype: str | None, at: At) -> tuple[int, convert.Account]:
    """The step, and what was written, of a run that trained an adapter. The frozen weights are shapes here."""
    own = on_own_base(config, run)
    network, shapes, frozen = assemble.abstract(own, None)
    learned, step = saved_shown(config, shapes, run, at)
    worn, card = merged(network, Weights(trainable=learned, frozen=frozen)), _card(config, run, step)
    if adapter:
        return step, convert.export_model(worn, out, adapter=True, card=card)
    checkpoint = assemble.checkpoint_folder(own.model.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        porting_export.write_adapter(worn, folder)
        return step, convert.convert(checkpoint, out, dtype=dtype or config.model.dtype, adapter=folder, card=card)


def _export_whole(config, run: Path, out: Path, *, adapter: bool, dtype: str | None, at: At) -> tuple[int, convert.Account]:
    """The step, and what was written, of a run that trained the model itself."""
    own = assemble.on_one_device(on_own_base(config, run))
    model = assemble.model(own)
    state = saved_state(config, model, run, at)
    whole = merged(model.network, Weights(trainable=state.shown, frozen=model.frozen))
    if config.recipe == "autoencoder":
        whole = calibrated(whole, config, assemble.data_folder(config, run))
    if dtype is not None:
        wanted = lambda path: "float32" if path[0].key == "vae" else dtype  # noqa: E731
        cast = lambda path, x: x.astype(wanted(path)) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        nnx.update(whole, jax.tree_util.tree_map_with_path(cast, nnx.state(whole)))
    tokenizer, step = assemble.checkpoint_folder(own.model.checkpoint), int(state.step)
    return step, convert.export_model(whole, out, tokenizer=tokenizer, card=_card(config, run, step))


def _card(config, run: Path, step: int) -> model_card.Card:
    """What the README of an export tells of its run."""
    told = ("train", "lora.rank", "lora.alpha", "objective.image.kind", "objective.intent.kind", "optimizer.learning_rate", "seed")
    return model_card.Card(
        base=Path(config.model.checkpoint).name,
        method=f"Trained with editr2_jax, recipe `{config.recipe}`, {step} steps.",
        settings={name: value for name, value in flat(config.to_dict()).items() if name in told},
        metrics={"held out": report.result(run)},
    )


def calibrated(whole: Bagel, config, data: Path, *, sessions: int = 256) -> Bagel:
    """The model with the scale and shift that give its latents mean 0 and spread 1 over the pictures of some sessions."""
    source = assemble.First(session_source.SessionFolder(data, "train"), sessions)
    pictures = np.stack([read(path) for session, read in map(source.__getitem__, range(len(source))) for path in _paths(session)])
    graph, state = nnx.split(whole)
    mean = jax.jit(lambda state, x: nnx.merge(graph, state).vae.moments(pixels.normalise(x))[0])
    latents = np.concatenate([np.asarray(mean(state, batch)) for batch in np.array_split(pictures, max(len(pictures) // 128, 1))])
    vae = dataclasses.replace(whole.config.vae, scale=float(1 / latents.std()), shift=float(latents.mean()))
    whole.config = dataclasses.replace(whole.config, vae=vae)
    return whole


def _paths(session: Session) -> list[str]:
    return [session.image, *(turn.target for turn in session.turns if turn.target)]
