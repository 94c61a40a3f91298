"""Half-done rollouts on disk: after a kill the same command goes on with the next turn instead of drawing again.

    spool/STEP-BATCH-TURN-PROCESS.safetensors      what was drawn and written in a turn, and a JSON record of what it belongs to

A turn is drawn from the policy's weights, the sessions and the random streams of its step. The record names them all; a file that belongs
to something else, or is damaged, is removed and its turn is drawn again. With several processes each keeps its own rows, a turn counts as
there when every process has it, and a run that goes on with another number of them draws its half-done rollout again.
Letters: B rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt8

from editr2_jax.flow.denoise import Denoised, Trajectory
from editr2_jax.policies.intent_policy import Intent
from editr2_jax.porting import safetensors_io
from editr2_jax.records import Sample
from editr2_jax.runtime import workdir

_RECORD = "record"  # tensor of a file: the JSON record's bytes
Words = tuple[str, str | None, bool]  # what conditioned a row's picture, what the model wrote, and whether the instruction stood in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """All that one turn of a batch produced."""

    picture: UInt8[Array, "B H W 3"]
    drawn: Denoised
    intent: Intent  # what was written before the picture was drawn
    texts: tuple[Words, ...]  # B


class Spool:
    """The turns of one batch of one step."""

    def __init__(
        self,
        folder: str | os.PathLike,
        samples: Sequence[Sample],
        *,
        step: int,
        batch: int,
        settings: Mapping[str, Any],
        take: Callable[[Array], np.ndarray] = np.asarray,
        place: Callable[[np.ndarray], Array] = jnp.asarray,
        say: Callable[[str], None] = lambda line: None,
    ):
        """Raises ValueError where the folder is not writable.

        Args:
            samples: the batch, as it is played.
            settings: JSON values that decide what is drawn beside the sessions: the config's fingerprint, the seed, `weights_digest`.
            take: this process's rows of an array [B, ...], of numpy or global; all of them where there is one process.
            place: the inverse, from this process's rows to the array that the player takes.
            say: told when a file is removed because it does not belong here.
        """
        self._folder = workdir.writable(folder)
        self._name = lambda turn: f"{step}-{batch}-{turn}-{jax.process_index()}.safetensors"
        belongs = {"step": step, "batch": batch, "settings": settings, "sessions": _digest_of(samples), "processes": jax.process_count()}
        self._belongs = json.loads(json.dumps(belongs))  # as it will be read
        self._take, self._place, self._say = take, place, say

    def load(self, turn: int) -> Turn | None:
        """A turn as it was stored, bit for bit; None where it has to be played. With several processes all of them call it, and agree."""
        found = self._read(self._folder / self._name(turn), turn)
        if jax.process_count() > 1 and not np.all(multihost_utils.process_allgather(np.bool_(found is not None))):
            return None
        if found is None:
            return None
        arrays, texts = found
        placed = {name: self._place(array) for name, array in arrays.items()}
        trajectory = Trajectory(**{name: placed[f"trajectory.{name}"] for name in Trajectory._fields})
        intent = Intent(**{name: placed[f"intent.{name}"] for name in _INTENT})
        drawn = Denoised(latent=placed["latent"], trajectory=trajectory)
        return Turn(picture=placed["picture"], drawn=drawn, intent=intent, texts=texts)

    def store(self, turn: int, made: Turn) -> None:
        """Put a finished turn on disk, whole or not at all. Raises OSError where that fails."""
        trajectory = made.drawn.trajectory
        arrays = {"picture": made.picture, "latent": made.drawn.latent}
        arrays |= {f"trajectory.{name}": getattr(trajectory, name) for name in Trajectory._fields}
        arrays |= {f"intent.{name}": getattr(made.intent, name) for name in _INTENT}
        rows = {name: np.ascontiguousarray(self._take(array)) for name, array in arrays.items()}
        record = self._belongs | {"turn": turn, "texts": made.texts, "crc": _crc(rows)}
        rows[_RECORD] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        give = lambda array: lambda: array  # noqa: E731
        safetensors_io.write(
            self._folder / self._name(turn), {name: (array.shape, array.dtype, give(array)) for name, array in rows.items()}
        )

    def _read(self, path: Path, turn: int) -> tuple[dict[str, np.ndarray], tuple[Words, ...]] | None:
        try:
            arrays = {name: np.array(array) for name, array in safetensors_io.TensorFile(path).items()}
            record = json.loads(arrays.pop(_RECORD).tobytes())
            texts, crc = tuple((text, answer, fell_back) for text, answer, fell_back in record.pop("texts")), record.pop("crc")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._refuse(path, f"damaged ({error})")
        if crc != _crc(arrays):
            return self._refuse(path, "damaged (its bytes are not those that were written)")
        wanted = self._belongs | {"turn": turn}
        if record != wanted:
            return self._refuse(path, f"from something else ({workdir.differences(record, wanted) or 'its record has other entries'})")
        return arrays, texts

    def _refuse(self, path: Path, why: str) -> None:
        path.unlink(missing_ok=True)
        self._say(f"{path}: this half-done rollout is {why}; removed, and its turn is drawn again.")


_INTENT = tuple(field.name for field in dataclasses.fields(Intent))


def clear_before(folder: str | os.PathLike, step: int) -> None:
    """Remove the turns of steps before this one, which the run will not play again, and what a kill left of a file."""
    for path in Path(folder).glob("*-*-*-*.safetensors*"):
        number = path.name.partition("-")[0]
        if number.isdecimal() and (int(number) < step or path.suffix == ".unfinished"):
            path.unlink(missing_ok=True)


def weights_digest(weights: Any) -> str:
    """Of the bits of a tree of arrays: equal for equal weights on any mesh, since whole numbers add up to the same in any order."""
    return f"{int(_summed(jax.tree.leaves(weights))):08x}"


@jax.jit
def _summed(leaves: list[Array]) -> Array:
    total = jnp.uint32(len(leaves))
    for leaf in leaves:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)
        place = jnp.ones(leaf.shape, jnp.uint32)
        for axis in range(leaf.ndim):  # not flattened: a sharded array stays where it is
            place = place * jnp.uint32(31) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        # Every operation on the bits can be undone, so a change of one number always shows; the factors are odd, with bits all over.
        mixed = (bits ^ (place * jnp.uint32(2654435761))) * jnp.uint32(2246822519)
        total = total * jnp.uint32(31) + jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)
    return total


def _digest_of(samples: Sequence[Sample]) -> str:
    """Of the sessions, who their members are, and their source pictures."""
    digest = hashlib.sha256()
    for sample in samples:
        said = [sample.session.id, sample.group, sample.member, [turn.instruction for turn in sample.session.turns]]
        digest.update(json.dumps(said).encode())
        digest.update(f"{sample.picture.shape}".encode())
        digest.update(np.ascontiguousarray(sample.picture))
    return digest.hexdigest()


def _crc(arrays: Mapping[str, np.ndarray]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8), zlib.crc32(name.encode(), crc))
    return crc
