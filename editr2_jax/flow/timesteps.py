"""The time grid of the sampler, from 1 (noise) to 0 (picture), shifted towards noise.

    t = s u / (1 + (s - 1) u),    u = 1 ... 0 in equal parts

Source: BAGEL and Edit-R2 (s = 3). The grid counts POINTS: 15 points are 14 steps.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def shifted(points: int, shift: float) -> Float[Array, " points"]:
    """The grid of `points` times: first exactly 1, last exactly 0, so `points - 1` steps.

    It is computed in float64 on the host and rounded once, so rollout and loss see the same float on every machine.

    Raises:
        ValueError: fewer than two points, or a shift that is not positive.
    """
    if points < 2:
        raise ValueError(f"a time grid of {points} points has no step; give at least 2 points (steps + 1).")
    if not shift > 0:
        raise ValueError(f"time shift is {shift}; give a positive number (1 leaves the grid even, 3 is BAGEL's).")
    u = np.linspace(1.0, 0.0, points)
    return jnp.asarray(u / (u + (1.0 - u) / shift), dtype=float)  # the formula above, in the form that is exactly 1 at u = 1
