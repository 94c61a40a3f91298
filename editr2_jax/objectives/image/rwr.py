"""Reward-weighted regression and selection: flow matching on the rollout's own pictures, the good ones more.

    loss = weight mean_d (v - (noise - clean))^2
    weight: the raw reward ("reward"), 1 for the best of its group and 0 for the others ("best"), exp(A / temperature) ("exp")

"best" is rejection sampling (SFT); ties share, and a group without spread teaches nothing. Source: Flow-GRPO's tracker types rwr and sft.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.objectives.points import Loss, Path, Velocities
from editr2_jax.rl import selection

POINTS = Path
NEEDS = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the weights."""

    weighting: str = "best"
    temperature: float = 1.0  # of "exp"
    advantage_clip: float = 5.0  # of "exp"; 0 leaves the advantage as it is

    def __post_init__(self):
        if self.weighting not in selection.WEIGHTINGS or not self.temperature > 0 or self.advantage_clip < 0:
            raise ValueError(
                f"rwr: weighting {self.weighting!r}, temperature {self.temperature}, advantage_clip {self.advantage_clip}; "
                f"weighting is one of {', '.join(selection.WEIGHTINGS)}, temperature is positive, the clip not negative."
            )


def loss(at: Path, v: Velocities, config: Config) -> Loss:
    """The weighted flow-matching error of every row."""
    error: Float[Array, "B"] = jnp.square(v.policy - at.target).reshape(len(at.t), -1).mean(axis=1)
    limit = config.advantage_clip if config.weighting == "exp" and config.advantage_clip else jnp.inf
    advantage = jnp.clip(at.advantage, -limit, limit)
    weight = selection.weights(at.reward, advantage, at.mask, group=at.group, weighting=config.weighting, temperature=config.temperature)
    return Loss(weight * error, {"error": error, "weight": weight})
