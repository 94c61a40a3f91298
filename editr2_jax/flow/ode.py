"""The plain step: the flow itself, without noise.

    x' = x + (t' - t) v

It has no density: its score is 0 and teaches nothing. Objectives that need none (DiffusionNFT) draw with it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow, transition

Time = Float[Array, "*B"] | float


def moments(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Time, t_next: Time, *, noise_level: Time, t_guard: Time
) -> transition.Moments:
    """The Euler step and no spread; noise_level and t_guard are not needed here."""
    x, v, t, t_next = rectified_flow.working(x, v, t, t_next)
    none = jnp.zeros(x.shape[:1], x.dtype)
    return transition.Moments(mean=rectified_flow.euler(x, v, t, t_next), std=none, sigma=none)
