"""A known dialogue read in one pass: all its segments at once, and who sees whom is a mask.

Letters: B rows, T turns, L latent tokens, C numbers in a token, P tokens of a seen picture, D width, S tokens of the dialogue,
N layers, K key-value heads, d head width.

In play a segment is read when it comes into being; a dialogue that is known to its end needs no cache to grow. Segment order, markers and
rotary positions are those of `context.py`; only the order of tokens in memory differs, which attention does not see.
Source: BAGEL is trained on such packed sequences (arXiv 2505.14683).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models.bagel import positions
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.mot_decoder import join
from editr2_jax.models.block_mask import InOrder

_LATENT, _SEEN, _TEXT, _SEGMENTS = 0, 1, 2, 3  # of every turn, in this order


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Keys and values of a whole dialogue; what a turn saw before its instruction (an intent is written there) and after it."""

    k: Float[Array, "N B K S d"]
    v: Float[Array, "N B K S d"]
    before: Bool[Array, "B T S"]
    after: Bool[Array, "B T S"]
    before_rope: Int[Array, "B T"]  # next rotary position there
    after_rope: Int[Array, "B T"]


def read(
    model: Bagel,
    latents: Float[Array, "B T L C"],
    seen: Float[Array, "B T P D"],
    instructions: tuple[Int[Array, "B _"], ...],
    counts: Int[Array, "B T"],
    *,
    grid: tuple[int, int],
    sighted: Bool[Array, "B"],
) -> Reading:
    """Reads the picture that each turn starts from, and its instruction (padded to the width of its array, `counts` real tokens).

    Rows that are not `sighted` read no pictures: for them the dialogue consists of its instructions alone.
    """
    b, turns, length, _ = latents.shape
    markers, ids = model.markers(b, 1)[:, 0], positions.flattened_ids(*grid, model.config.latent_side)
    und, layout = [], []
    for t, words in enumerate(instructions):
        und += [markers, markers[:, :1], seen[:, t].astype(markers.dtype), markers[:, 1:], model.embed(words)]
        layout += [_Stretch(t, _LATENT, 2), _Stretch(t, _SEEN, seen.shape[2] + 2), _Stretch(t, _TEXT, words.shape[1])]
    gen = model.latent.embed(latents, jnp.zeros((b, turns), jnp.float32), ids).reshape(b, 1, turns * length, -1)
    und_at, gen_at = _Places.of(layout), _Places.of([_Stretch(t, _LATENT, length) for t in range(turns)])
    at = jax.tree.map(lambda u, g: join(u[None, None], g[None, None])[0, 0], und_at, gen_at)
    advance = jnp.where(sighted, 2, 0)[:, None]  # rotary positions that a picture takes
    before_rope = jnp.cumsum(counts, axis=1) - counts + advance * jnp.arange(1, turns + 1)
    # A turn's picture stands at the two positions before its instruction: latents, then what the ViT saw.
    place = jnp.where(at.kind == _TEXT, before_rope[:, at.turn] + at.index, before_rope[:, at.turn] - 2 + at.kind)
    valid = jnp.where(at.kind == _TEXT, at.index < counts[:, at.turn], sighted[:, None])  # [B, S]
    segment = at.turn * _SEGMENTS + at.kind
    order = segment * len(segment) + at.index * (at.kind == _TEXT)  # a picture's tokens see each other, a word those before it
    mask = InOrder(valid=valid[:, None], place=order)
    _, _, (k, v) = model.decoder.block(jnp.concatenate(und, axis=1)[:, None], gen, positions=place[:, None], mask=mask)
    own = jnp.arange(turns)[:, None] * _SEGMENTS + _TEXT
    return Reading(
        k=k[:, :, 0],
        v=v[:, :, 0],
        before=valid[:, None] & (segment < own),
        after=valid[:, None] & (segment <= own),
        before_rope=before_rope,
        after_rope=before_rope + counts,
    )


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """Tokens of one kind in one turn."""

    turn: int
    kind: int
    tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Places:
    """Where each token of a dialogue belongs. Known before anything runs."""

    turn: Int[np.ndarray, "S"]
    kind: Int[np.ndarray, "S"]
    index: Int[np.ndarray, "S"]  # within its stretch

    @classmethod
    def of(cls, stretches: list[_Stretch]) -> _Places:
        tokens = [stretch.tokens for stretch in stretches]
        each = lambda name: np.repeat([getattr(stretch, name) for stretch in stretches], tokens)  # noqa: E731
        return cls(turn=each("turn"), kind=each("kind"), index=np.concatenate([np.arange(n) for n in tokens]))
