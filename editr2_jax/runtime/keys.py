"""Named random streams: every draw names what it is for, so that adding one draw never shifts another.

A key is cut from the run's seed by folding in the names one after the other; nothing is remembered between calls, so a resumed run
draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import jax
import numpy as np
from jaxtyping import Array, Int, Key

_WORD = 2**32  # fold_in takes one unsigned 32-bit word


def at(seed: int, *names: str | int | Array) -> Key[Array, ""]:
    """The typed key of a stream, e.g. `at(config.seed, "rollout", step)`.

    A string is folded in by a stable hash, an integer by itself; the order counts, and "3" is not 3. An integer may be traced, so a
    key can also be cut inside jit. Raises ValueError for no name, and for a seed or number outside [0, 2**32).
    """
    if not names:
        raise ValueError(
            "keys.at wants at least one name after the seed, e.g. at(seed, 'rollout', step): the bare seed belongs to no stream."
        )
    if not 0 <= seed < _WORD:
        raise ValueError(f"keys.at: the seed is {seed}; give one in [0, 2**32).")
    key = jax.random.key(seed)
    for name in names:
        key = jax.random.fold_in(key, _word(name))
    return key


def for_rows(key: Key[Array, ""], *numbers: Int[np.ndarray, " B"]) -> Key[Array, " B"]:
    """One key per row, cut from a stream by numbers of that row alone: who else is in the batch does not matter."""
    return _for_rows(key, tuple(np.asarray(column, np.uint32) for column in numbers))


@jax.jit
def _for_rows(key, numbers):
    def one(row):
        cut = key
        for number in row:
            cut = jax.random.fold_in(cut, number)
        return cut

    return jax.vmap(one)(numbers)


def text_seed(text: str, base: int) -> int:
    """A seed in [0, 2**31) that belongs to a text: the first 4 bytes of its SHA-256, big endian, plus the run's seed.

    Source: Edit-R2's seed of a dialogue's initial noise (there with the base 42 in every run).
    """
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") + base) % 2**31


def _word(name: str | int | Array) -> int | Array:
    """The 32-bit word folded in for a name. Strings go by sha256: Python's own hash changes with every process."""
    if isinstance(name, str):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    if isinstance(name, int) and not 0 <= name < _WORD:
        raise ValueError(f"keys.at: {name} does not fit into 32 bits; use a number in [0, 2**32), or a string.")
    return name
