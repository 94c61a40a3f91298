"""Flow-DPPO: no clip; a step that has already moved far, in the direction that its advantage asks for, is dropped.

    loss = -A r,   dropped where   KL(new, old) >= threshold   and   (r > 1 and A > 0   or   r < 1 and A < 0)

KL is that of the two Gaussian transitions, per number of the latent. Source: verl-omni's FlowDPPOLoss (group flow_dppo); threshold: UniRL.
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
    """Settings of the trust region."""

    threshold: float = 1e-5


def loss(at: Window, v: Velocities, config: Config) -> Loss:
    """The plain surrogate of the rows inside the trust region, 0 for the others."""
    new, old = at.density(v.policy), jax.lax.stop_gradient(at.density(v.old))
    log_ratio = new.log_prob - old.log_prob
    ratio = clipped_surrogate.ratio_of(log_ratio)
    moved = jax.lax.stop_gradient(divergence.exact(new.mean, old.mean, new.std))
    onward = ((ratio > 1) & (at.advantage > 0)) | ((ratio < 1) & (at.advantage < 0))
    dropped = (moved >= config.threshold) & onward
    value = jnp.where(dropped, 0.0, -at.advantage * ratio)
    gap = jnp.abs(jax.lax.stop_gradient(log_ratio))
    return Loss(value, {"ratio": ratio, "dropped": dropped, "moved": moved, "log_ratio_mean": gap, "log_ratio_max": gap})
