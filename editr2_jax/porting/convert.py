"""Checkpoint folders, whole or not at all: a checked copy of one in the official layout, and a model written out as one.

A folder appears under its name only when everything in it is written; what stood there before is never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.porting import bagel_weights, export, rules

DTYPES = ("bfloat16", "float32")
# What a tokenizer may consist of; a folder has some of these, and a checkpoint without text has none.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """What a checkpoint holds, of which nothing was left over and nothing was missing."""

    keys: int  # tensors in the official files
    parameters: int
    size: int  # bytes written
    tokenizer: tuple[str, ...]  # files that were copied


def convert(checkpoint: str | Path, out: str | Path, *, dtype: str = "float32", say: Callable[[str], None] = lambda text: None) -> Account:
    """Reads a checkpoint in the official layout, accounting for every key both ways, and writes it again in one type.

    The autoencoder stays float32, as the official inference keeps it. Tokenizer files are copied.

    Raises rules.WeightsError that lists every tensor that is unused, unfilled, misshapen or not finite, and ValueError for a folder that
    exists or cannot be written; then nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    source, config = Path(checkpoint).expanduser(), BagelConfig.from_folder(Path(checkpoint).expanduser())
    with whole_folder(out) as folder:
        model = bagel.abstract(config, jnp.dtype(dtype))
        model.vae = bagel.abstract(config, jnp.float32).vae
        wanted = rules.leaves(model)
        say(f"reading {source}: {len(wanted)} parameters of ours, stacked over layers")
        read = _Counted(len(wanted), say)
        model = bagel_weights.load(model, *bagel_weights.open_folder(source), sharding=read)
        say(f"writing {out} in {dtype}, the autoencoder in float32")
        export.write_folder(model, folder)
        copied = tuple(name for name in TOKENIZER_FILES if (source / name).is_file())
        for name in copied:
            shutil.copyfile(source / name, folder / name)
        return _account(model, folder, copied)


def export_model(model: Bagel, out: str | Path, *, adapter: bool = False, tokenizer: str | Path | None = None) -> Account:
    """Writes a model in memory: the whole in the official layout, adapters folded in, or with `adapter` the adapter alone as PEFT reads it.

    tokenizer: the folder whose tokenizer files go along with the whole. Raises ValueError for a folder that exists, and for an adapter
    that the model does not have.
    """
    with whole_folder(out) as folder:
        if adapter:
            export.write_adapter(model, folder)
            tensors = export.adapter(model)
            size = sum(path.stat().st_size for path in folder.iterdir())
            return Account(keys=len(tensors), parameters=sum(tensor.size for tensor in tensors.values()), size=size, tokenizer=())
        export.write_folder(model, folder)
        names = () if tokenizer is None else tuple(name for name in TOKENIZER_FILES if (Path(tokenizer) / name).is_file())
        for name in names:
            shutil.copyfile(Path(tokenizer) / name, folder / name)
        return _account(model, folder, names)


@contextlib.contextmanager
def whole_folder(out: str | Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name when the block ends well, and is removed when it does not."""
    out = Path(out).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out, nothing is overwritten.")
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of an earlier try that was killed
        unfinished.mkdir(parents=True)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{out}: cannot write here ({why}); choose another --out, or change its permissions.") from error
    try:
        yield unfinished
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


class _Counted:
    """Is asked where each parameter shall live, just before it is read: the place to say how far reading is."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say, self._seen = total, say, 0

    def __call__(self, path: str, shape: tuple[int, ...]) -> None:
        self._seen += 1
        if self._seen % max(1, self._total // 10) == 0:
            self._say(f"  {self._seen}/{self._total}  {path} {list(shape)}")


def _account(model: nnx.Module, folder: Path, tokenizer: tuple[str, ...]) -> Account:
    ours = rules.leaves(model)
    keys = sum(len(bagel_weights.open_folder(folder)[file]) for file in (0, 1))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Account(keys=keys, parameters=sum(leaf.size for leaf in ours.values()), size=size, tokenizer=tokenizer)
