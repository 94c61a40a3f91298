"""How much a sample counts when the policy regresses onto its own samples.

    reward: the raw reward     best: 1 for the best of its group, 0 for the others     exp: exp(A / temperature)

Letters: B rows, P groups, G group; the rows of a group lie side by side. A group without spread teaches nothing in any form but "reward".
Source: Flow-GRPO's tracker (types rwr and sft); advantage-weighted regression.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

WEIGHTINGS = ("reward", "best", "exp")


def weights(
    reward: Float[Array, " B"],
    advantage: Float[Array, " B"],
    mask: Bool[Array, " B"],
    *,
    group: int,
    weighting: str,
    temperature: float = 1.0,
) -> Float[Array, " B"]:
    """Weights of the rows; 0 where `mask` is False.

    Raises:
        ValueError: an unknown weighting, or rows that are no whole groups.
    """
    if weighting not in WEIGHTINGS or len(reward) % group:
        raise ValueError(
            f"weighting {weighting!r} over {len(reward)} rows in groups of {group}: want one of {WEIGHTINGS}, and whole groups."
        )
    if weighting == "reward":
        return jnp.where(mask, reward, 0.0)
    grouped, teaches = advantage.reshape(-1, group), mask.reshape(-1, group)
    best = jnp.max(jnp.where(teaches, grouped, -jnp.inf), axis=1, keepdims=True)
    worst = jnp.min(jnp.where(teaches, grouped, jnp.inf), axis=1, keepdims=True)
    kept = teaches & (best > worst)
    value = jnp.where(grouped == best, 1.0, 0.0) if weighting == "best" else jnp.exp(grouped / temperature)
    return jnp.where(kept, value, 0.0).astype(reward.dtype).reshape(-1)
