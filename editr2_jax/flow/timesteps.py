"""The sampler's time grids, from 1 (noise) to 0 (picture). A shift above 1 spends more of the steps in noise.

    shifted    t = S(u), u = 1 ... 0 in equal parts                       S(u) = s u / (1 + (s - 1) u)
    static     t = S(u), u = 1 ... S(1/1000) in equal parts; then 0       diffusers: the range is shifted, and so is every point of it
    dynamic    t = e^m / (e^m + 1/u - 1), u = 1 ... 1/N; then 0           m rises with the number of latent tokens

Letters: N steps, hence N + 1 points; S shift s. BAGEL and Edit-R2 count POINTS (15 points are 14 steps), MixGRPO and diffusers steps.
A grid is computed in float64 on the host and rounded once, so rollout and loss see the same float on every machine; it goes to the network
as it is, never as an integer. Sources: BAGEL (s = 3), MixGRPO, diffusers for SD3.5 (static) and FLUX (dynamic).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_TRAINING_STEPS = 1000  # diffusers' discrete training times: the last is 1/1000


def shifted(points: int, shift: float) -> Float[Array, " points"]:
    """The grid of `points` times: first exactly 1, last exactly 0, so `points - 1` steps.

    Raises:
        ValueError: fewer than two points, or a shift that is not positive.
    """
    _refuse_short(points)
    return jnp.asarray(_shift(np.linspace(1.0, 0.0, points), shift), dtype=float)


def static(points: int, shift: float) -> Float[Array, " points"]:
    """diffusers' static shift. Raises ValueError as `shifted` does."""
    _refuse_short(points)
    lowest = _shift(np.float64(1 / _TRAINING_STEPS), shift)
    u = np.linspace(1.0, lowest, points - 1)
    return jnp.asarray(np.append(_shift(u, shift), 0.0), dtype=float)


def exponent(tokens: int, *, few: int = 256, many: int = 4096, low: float = 0.5, high: float = 1.15) -> float:
    """The m of `dynamic`: a straight line through (few, low) and (many, high). The defaults are FLUX's."""
    return low + (tokens - few) * (high - low) / (many - few)


def dynamic(points: int, m: float) -> Float[Array, " points"]:
    """FLUX's grid at the exponent m of a picture's tokens. Raises ValueError for fewer than two points."""
    _refuse_short(points)
    u = np.linspace(1.0, 1 / (points - 1), points - 1)
    return jnp.asarray(np.append(np.exp(m) / (np.exp(m) + 1 / u - 1), 0.0), dtype=float)


def _shift(u: Float[np.ndarray, "*n"], shift: float) -> Float[np.ndarray, "*n"]:
    if not shift > 0:
        raise ValueError(f"time shift is {shift}; give a positive number (1 leaves the grid even, 3 is BAGEL's).")
    return u / (u + (1.0 - u) / shift)  # S(u), in the form that is exactly 1 at u = 1


def _refuse_short(points: int) -> None:
    if points < 2:
        raise ValueError(f"a time grid of {points} points has no step; give at least 2 points (steps + 1).")
