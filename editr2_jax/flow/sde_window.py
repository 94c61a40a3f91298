"""The window: which few steps of a rollout are stochastic. Steps start .. start + size - 1 draw, all others follow the ODE.

    start ~ uniform on first .. last - size, both ends included        (Edit-R2: size 2 in 0..7, so 0..5)

Source: MixGRPO, Flow-GRPO-Fast, Edit-R2. There the draw is re-seeded with the process rank, so a rank keeps one window for a whole
run; here it comes from a key, and the caller cuts one key per iteration, shared by a group.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray


def draw(key: PRNGKeyArray, first: int, last: int, size: int, *, shape: tuple[int, ...] = ()) -> Int[Array, "*shape"]:
    """The window's first step; `shape` asks for several independent ones.

    Raises:
        ValueError: the range cannot hold a window of that size.
    """
    if first < 0 or size < 1 or last - size < first:
        raise ValueError(f"no window of {size} steps fits into steps {first}..{last}: want size >= 1 and 0 <= first <= last - size.")
    return jax.random.randint(key, shape, first, last - size + 1, dtype=jnp.int32)


def contains(step: Int[Array, "*shape"] | int, start: Int[Array, "*shape"] | int, size: int) -> Bool[Array, "*shape"]:
    """True where `step` lies in the window; size 0 is never."""
    return (step >= jnp.asarray(start)) & (step < jnp.asarray(start) + size)


def mask(start: Int[Array, "*B"] | int, size: int, steps: int) -> Bool[Array, "*B steps"]:
    """Which of `steps` steps are stochastic."""
    return contains(jnp.arange(steps), jnp.asarray(start)[..., None], size)
