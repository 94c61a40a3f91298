"""AWM: the clipped surrogate over a pseudo log-probability, the negative error of flow matching.

    log_prob = -weight(t) mean_d (v - (noise - clean))^2,    ratio against the policy that played, at the same noise and time

Weights: uniform, t, t2, and two robust forms of the error e: huber -t (sqrt(e + 1e-10) - 1e-5), ghuber -t/p ((e + 1e-10)^p - 1e-10^p).
It has no proof of stability: give it a clip, and a KL or an average of the policy. Source: Flow-Factory's AWM (group awm).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.objectives.points import Loss, Path, Velocities
from editr2_jax.rl import clipped_surrogate

POINTS = Path
NEEDS = ("old",)
TINY = 1e-10  # Flow-Factory's
WEIGHTINGS = {  # of the error, the time, and p
    "uniform": lambda e, t, p: -e,
    "t": lambda e, t, p: -e * t,
    "t2": lambda e, t, p: -e * t**2,
    "huber": lambda e, t, p: -t * (jnp.sqrt(e + TINY) - TINY**0.5),
    "ghuber": lambda e, t, p: -t / p * ((e + TINY) ** p - TINY**p),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the surrogate."""

    weighting: str = "uniform"  # a key of WEIGHTINGS
    clip_low: float = 1e-4
    clip_high: float = 1e-4
    advantage_clip: float = 5.0  # 0 leaves the advantage as it is
    power: float = 0.25  # p of ghuber

    def __post_init__(self):
        if self.weighting not in WEIGHTINGS or not self.power > 0:
            raise ValueError(
                f"awm: weighting {self.weighting!r}, power {self.power}; weighting is one of {', '.join(WEIGHTINGS)}, power is positive."
            )
        clipped_surrogate.refuse_settings(clip_low=self.clip_low, clip_high=self.clip_high, advantage_clip=self.advantage_clip)


def pseudo_log_prob(v: Float[Array, "B ..."], target: Float[Array, "B ..."], t: Float[Array, "B"], config: Config) -> Float[Array, "B"]:
    """How well v fits the velocity of the path, as a log-probability."""
    error = jnp.square(v - target).reshape(len(t), -1).mean(axis=1)
    return WEIGHTINGS[config.weighting](error, t, config.power)


def loss(at: Path, v: Velocities, config: Config) -> Loss:
    """The surrogate of every row."""
    new, old = (pseudo_log_prob(one, at.target, at.t, config) for one in (v.policy, v.old))
    out = clipped_surrogate.surrogate(
        new, jax.lax.stop_gradient(old), at.advantage,
        clip_low=config.clip_low, clip_high=config.clip_high, advantage_clip=config.advantage_clip or None,
    )  # fmt: skip
    return Loss(out.loss, clipped_surrogate.statistics(out))
