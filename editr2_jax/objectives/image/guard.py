"""GRPO-Guard: a ratio without the drift and the step dependence of Flow-GRPO's, and gradients of one size on every step.

    r = exp( [log_prob - log_prob_old + mean_d (mean - mean_old)^2 / (2 s^2)] s ) = exp(mean_d eps (mean - mean_old)),   s the step's std
    loss = max(-A r, -A clip(r, 1 - low, 1 + high)) / (t - t')

Flow-Factory leaves the division out (per_time=False). s and t - t' are each row's own. Clip widths: Flow-Factory's.
Source: GRPO-Guard; Flow-GRPO's and verl-omni's trainers (group grpo_guard). Only for steps whose log_prob is Gaussian.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from editr2_jax.objectives.points import Loss, Velocities, Window
from editr2_jax.rl import clipped_surrogate, divergence

POINTS = Window
NEEDS = ("old",)
KERNELS = ("sde", "dance", "ddim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the normalised surrogate."""

    clip_low: float = 1e-4
    clip_high: float = 1e-4
    advantage_clip: float = 5.0  # 0 leaves the advantage as it is
    per_time: bool = True  # divide by t - t'

    def __post_init__(self):
        clipped_surrogate.refuse_settings(clip_low=self.clip_low, clip_high=self.clip_high, advantage_clip=self.advantage_clip)


def loss(at: Window, v: Velocities, config: Config) -> Loss:
    """The normalised surrogate of every row."""
    new, old = at.density(v.policy), jax.lax.stop_gradient(at.density(v.old))
    log_ratio = (new.log_prob - old.log_prob + divergence.exact(new.mean, old.mean, new.std)) * new.std
    out = clipped_surrogate.surrogate(
        log_ratio,
        jnp.zeros_like(log_ratio),
        at.advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        advantage_clip=config.advantage_clip or None,
    )
    value = out.loss / (at.t - at.t_next) if config.per_time else out.loss
    return Loss(value, clipped_surrogate.statistics(out))
