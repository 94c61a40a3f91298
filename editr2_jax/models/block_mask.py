"""Who sees whom inside a block of new tokens.

Three kinds: None (all see all: pictures), `InOrder` (text, and whole dialogues read in one pass) and a dense array [B, R, T, T]. The first
two are small and say all that the memory-saving ways of attention need; a dense mask is for the plain products alone.

Letters: B rows, R variants, T tokens of the block.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class InOrder:
    """A token sees every valid token that comes no later than itself; tokens at one place see each other."""

    valid: Bool[Array, "B R T"]  # False: nobody sees it
    place: Int[Array, "T"] | None = None  # None: in the order of the block, which is causal text


BlockMask = InOrder | Bool[Array, "B R T T"] | None


def dense(mask: BlockMask, b: int, r: int, t: int) -> Bool[Array, "B R T T"]:
    """The mask as an array: [.., i, j] says whether token i sees token j."""
    if mask is None:
        return jnp.ones((b, r, t, t), bool)
    if not isinstance(mask, InOrder):
        return mask
    if mask.place is None:
        return jnp.tril(jnp.ones((t, t), bool)) & mask.valid[:, :, None, :]
    return (mask.place <= mask.place[:, None]) & mask.valid[:, :, None, :]


def sorted_keys(place: Int[Array, "T"]) -> tuple[Int[Array, "T"], Int[Array, "T"]]:
    """(order, last): tokens by their place, and for every token the last one it sees in that order."""
    order = jnp.argsort(place, stable=True)
    return order.astype(jnp.int32), jnp.searchsorted(place[order], place, side="right").astype(jnp.int32) - 1
