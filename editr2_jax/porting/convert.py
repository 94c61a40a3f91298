"""Checkpoint folders, whole or not at all: one in the official layout or our own, written again in either, and a model written out.

A folder appears under its name only when everything in it is written; what stood there before is never touched. Where folders cannot be
renamed (gs://), the file without which a folder does not open is written last.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import adapter as adapters
from editr2_jax.porting import bagel_weights, byte_ranges, converted, export, model_card, rules
from editr2_jax.porting.meter import Meter
from editr2_jax.runtime.places import whole_folder

DTYPES = ("bfloat16", "float32")
LAYOUTS = ("official", "orbax")
# What a tokenizer may consist of; a folder has some of these, and a checkpoint without text has none.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """What a checkpoint holds, of which nothing was left over and nothing was missing."""

    keys: int  # tensors in the official files
    parameters: int
    size: int  # bytes written
    tokenizer: tuple[str, ...]  # files that were copied


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    to: str = "official",
    dtype: str | None = None,
    shards: int = 1,
    adapter: str | Path | None = None,
    card: model_card.Card | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Account:
    """Reads a checkpoint in either layout, accounting for every key both ways, and writes it again in either, a tensor at a time.

    The autoencoder keeps float32, as the official inference does. Tokenizer files are copied.

    Args:
        to: official (safetensors under PyTorch names), or orbax: our arrays, which restore onto any mesh.
        dtype: bfloat16 or float32; None keeps the types of the files, autoencoder included, and with them every bit.
        shards: files in which the official layout holds the model.
        adapter: a folder of an adapter in PEFT's layout, which is folded into the weights.
        card: what README.md of the folder tells; None writes none.
        say: takes a line about the progress now and then.

    Raises rules.WeightsError that lists every tensor that is unused, unfilled, misshapen or not finite, and ValueError for a folder that
    exists or cannot be written; then nothing is left behind.
    """
    for flag, value, known in (("dtype", dtype or DTYPES[0], DTYPES), ("to", to, LAYOUTS)):
        if value not in known:
            raise ValueError(f"--{flag} is {value!r}; choose one of {', '.join(known)}.")
    if shards < 1 or shards > 1 and to != "official":
        raise ValueError(f"--shards is {shards}; it is for --to=official, at least 1.")
    source = byte_ranges.place(checkpoint)
    opened = bagel_weights.opened(source, dtype=dtype and jnp.dtype(dtype))
    if adapter is not None:
        opened = dataclasses.replace(opened, leaves=adapters.folded(opened.leaves, adapter))
    say(f"reading {source}: {len(opened.leaves)} parameters of ours, stacked over layers")
    say(f"writing {out}: the {to} layout, in {dtype or 'the types of the files'}")
    done = Meter(opened.nbytes, say)
    with whole_folder(out) as folder:
        if to == "orbax":
            converted.write(folder, opened.leaves, done=done)
        else:
            export.write_leaves(opened.leaves, folder, shards=shards, done=done)
        opened.check()
        names = copy_tokenizer(source, folder)
        bagel_weights.write_config(opened.config, folder)
        if to == "orbax":
            converted.finish(folder, opened.leaves, source=source.name)
        if card is not None:
            model_card.write(folder, model_card.whole(card, opened.config))
        return _account(opened.leaves, folder, names)


def export_model(
    model: Bagel,
    out: str | Path,
    *,
    adapter: bool = False,
    tokenizer: str | Path | None = None,
    shards: int = 1,
    card: model_card.Card | None = None,
) -> Account:
    """Writes a model in memory: the whole in the official layout, adapters folded in, or with `adapter` the adapter alone as PEFT reads it.

    Args:
        tokenizer: the folder whose tokenizer files go along with the whole.
        shards: files of the whole.
        card: what README.md of the folder tells, besides what the model itself tells.

    Raises ValueError for a folder that exists, and for an adapter that the model does not have.
    """
    card = card or model_card.Card()
    with whole_folder(out) as folder:
        if adapter:
            export.write_adapter(model, folder, base=card.base)
            model_card.write(folder, model_card.adapter(card, model))
            tensors = export.adapter(model)
            return Account(keys=len(tensors), parameters=sum(tensor.size for tensor in tensors.values()), size=_size(folder), tokenizer=())
        export.write_folder(model, folder, shards=shards)
        names = () if tokenizer is None else copy_tokenizer(byte_ranges.place(tokenizer), folder)
        model_card.write(folder, model_card.whole(card, model.config))
        return _account(rules.leaves(model), folder, names)


def copy_tokenizer(source: Any, folder: Any) -> tuple[str, ...]:
    """Copies the tokenizer files that there are; their names."""
    names = tuple(name for name in TOKENIZER_FILES if (source / name).exists())
    for name in names:
        with (source / name).open("rb") as told, (folder / name).open("wb") as file:
            shutil.copyfileobj(told, file)
    return names


def _account(ours: Any, folder: Any, tokenizer: tuple[str, ...]) -> Account:
    keys = sum(len(entries) for entries in bagel_weights.entries(ours))
    parameters = sum(math.prod(leaf.shape) for leaf in ours.values())
    return Account(keys=keys, parameters=parameters, size=_size(folder), tokenizer=tokenizer)


def _size(folder: Any) -> int:
    """Bytes of all files below a folder."""
    sizes = 0
    for path in folder.iterdir():
        told = path.stat()
        sizes += _size(path) if path.is_dir() else told.st_size if hasattr(told, "st_size") else told.length
    return sizes
