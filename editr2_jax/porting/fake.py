"""A checkpoint of random numbers with the keys, shapes and types of a real one: for rehearsals, where the real one is not at hand.

The model's numbers are bfloat16 of magnitudes from 2^-7 to 2^-3, the autoencoder's are the same numbers in float32, as in the release.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.porting import bagel_weights, byte_ranges, convert, rules, safetensors_io
from editr2_jax.porting.meter import Meter

_POOL = (1 << 23) + 1  # random numbers that are drawn; the others are windows of these, scrambled
_TYPES = (ml_dtypes.bfloat16, np.float32)  # of ema and of ae
_KEPT, _SET = np.uint16(0x81FF), np.uint16(0x3C00)  # sign, two bits of the exponent and the fraction are random: always finite


def write(
    out: str | Path,
    config: BagelConfig,
    *,
    shards: int = 1,
    seed: int = 0,
    tokenizer: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Writes a checkpoint folder in the official layout, tensor by tensor; the same seed gives the same bytes.

    Args:
        shards: files that hold the model.
        tokenizer: a folder whose tokenizer files are copied along.

    Returns the digest of every tensor by name (see safetensors_io.digest). Raises ValueError for a folder that exists.
    """
    draw, digests = _Draw(seed), {}
    done = Meter(size(config), say)
    with convert.whole_folder(out) as folder:
        for name, file, kind, count in zip(("ema", "ae"), _files(config), _TYPES, (shards, 1), strict=True):
            entries = {key: (shape, kind, _drawing(draw, key, shape, kind, done)) for key, (shape, _, _) in file.items()}
            safetensors_io.write_sharded(folder, name, entries, count, digests=digests)
        if tokenizer is not None:
            convert.copy_tokenizer(byte_ranges.place(tokenizer), folder)
        bagel_weights.write_config(config, folder)
    return digests


def size(config: BagelConfig) -> int:
    """Bytes of the tensors of the checkpoint that `write` writes."""
    kinds = [np.dtype(kind).itemsize for kind in _TYPES]
    return sum(math.prod(shape) * bits for file, bits in zip(_files(config), kinds, strict=True) for shape, _, _ in file.values())


def _files(config: BagelConfig) -> tuple[safetensors_io.Entries, safetensors_io.Entries]:
    return bagel_weights.entries(rules.leaves(bagel.abstract(config)))


def of_manifest(path: str | Path) -> BagelConfig:
    """The configuration that a manifest (keys, shapes and configuration of a checkpoint, as JSON) tells.

    Raises ValueError when the model of this configuration has other keys or shapes than the manifest lists.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            for part, name in (("llm", "llm_config.json"), ("vit", "vit_config.json"), ("bagel", "config.json")):
                (Path(folder) / name).write_text(json.dumps(told["config"][part]), encoding="utf-8")
            config = BagelConfig.from_folder(folder)
        listed = {file: {key: tuple(shape) for key, shape in told[file]["tensors"].items()} for file in ("ema", "ae")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a manifest of a checkpoint ({type(error).__name__}: {error}).") from error
    for file, entries in zip(("ema", "ae"), _files(config), strict=True):
        ours = {key: shape for key, (shape, _, _) in entries.items()}
        if different := {key for key in ours | listed[file] if ours.get(key) != listed[file].get(key)}:
            raise ValueError(f"{path}: {file} differs from the model of its configuration in {', '.join(sorted(different)[:8])}.")
    return config


def shrunk(config: BagelConfig, layers: int) -> BagelConfig:
    """The configuration with so many layers in the decoder and, at most, in the vision transformer."""
    vit = dataclasses.replace(config.vit, layers=min(layers, config.vit.layers))
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, layers=layers), vit=vit)


def compare(checkpoint: str | Path, digests: Mapping[str, str], say: Callable[[str], None] = lambda text: None) -> list[str]:
    """Names of the tensors in which a checkpoint in the official layout differs from digests; it is read by rows.

    A tensor that only one of the two has counts as different.
    """
    files = bagel_weights.open_folder(checkpoint)
    done = Meter(sum(tensor.nbytes for file in files for tensor in file.values()), say)
    different = set(digests)
    for file in files:
        for key in file:
            if digests.get(key) == safetensors_io.digest(file[key]):
                different.discard(key)
            else:
                different.add(key)
            done(key, file[key].nbytes)
    return sorted(different)


def digests_of(checkpoint: str | Path) -> dict[str, str]:
    """The digest of every tensor of a checkpoint in the official layout, by name."""
    return {key: safetensors_io.digest(file[key]) for file in bagel_weights.open_folder(checkpoint) for key in file}


class _Draw:
    """Random bfloat16 numbers by name, at the speed of memory."""

    def __init__(self, seed: int):
        self._seed = seed
        self._pool = np.random.default_rng(seed).integers(0, 1 << 16, _POOL, dtype=np.uint16)

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        numbers = np.empty(math.prod(shape), np.uint16)
        rng = np.random.default_rng((self._seed, zlib.crc32(name.encode())))
        begin = 0
        while begin < numbers.size:
            start, scramble = int(rng.integers(_POOL // 2)), np.uint16(rng.integers(1 << 16))
            piece = self._pool[start : start + min(_POOL // 2, numbers.size - begin)]
            to = numbers[begin : begin + piece.size]
            np.bitwise_xor(piece, scramble, out=to)
            to &= _KEPT
            to |= _SET
            begin += piece.size
        return numbers.view(ml_dtypes.bfloat16).reshape(shape)


def _drawing(draw: _Draw, name: str, shape: tuple[int, ...], kind: Any, done: Meter) -> Callable[[], np.ndarray]:
    def give() -> np.ndarray:
        array = draw(name, shape).astype(kind, copy=False)
        done(name, array.nbytes)
        return array

    return give
