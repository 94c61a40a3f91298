"""Times at which an objective looks at the straight path, for objectives that do not replay the sampler's steps.

    grid         a random few of the sampler's own start times, none twice; t = 1 among them (DiffusionNFT)
    continuous   t = s u / (1 + (s - 1) u), u uniform, one from each of `count` equal parts of [0, 1], in random order

Both favour noise as the sampler does: at shift 3 the mean is about 0.65. Source: DiffusionNFT; the stratified draw is Flow-Factory's idea,
whose last part is never drawn and whose shift points to the clean end.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, PRNGKeyArray

TIMES = ("grid", "continuous")


def draw(keys: PRNGKeyArray, grid: Float[Array, " S+1"], *, count: int, times: str, shift: float) -> Float[Array, "B count"]:
    """`count` times for each of the keys [B].

    Raises:
        ValueError: an unknown way, or more times than the grid has steps.
    """
    if times not in TIMES or count < 1 or (times == "grid" and count > len(grid) - 1):
        raise ValueError(
            f"cannot draw {count} times by {times!r} of {len(grid) - 1} steps; choose one of {', '.join(TIMES)}, at most every step."
        )
    if times == "grid":
        return jax.vmap(lambda key: jax.random.permutation(key, grid[:-1])[:count])(keys)

    def continuous(key):
        place, order = jax.random.split(key)
        u = (jax.random.permutation(order, count) + jax.random.uniform(place, (count,), grid.dtype)) / count
        return shift * u / (1 + (shift - 1) * u)

    return jax.vmap(continuous)(keys)
