"""The image term: clipped surrogate over stochastic denoising steps, with a KL to the frozen reference.

For one row and one step of its window:  max(-A r, -A clip(r, 1 - low, 1 + high)) + weight * KL,  r = exp(log_prob - old_log_prob),
A clipped to +-advantage_clip. log_prob is the mean over the picture's numbers, which is why the clip widths are tiny.
Source: Edit-R2's learning step (golden cases i1 .. i6), Flow-GRPO.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from editr2_jax.flow import transition
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.policies import image_policy
from editr2_jax.policies.context import Context, Sight
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.rl import clipped_surrogate, divergence

KL_FORMS = ("latent", "exact", "velocity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageObjectiveConfig:
    """Settings of the image term."""

    weight: float = 1.0
    clip_low: float = 1e-5
    clip_high: float = 1e-5
    advantage_clip: float = 5.0
    kl_weight: float = 0.01  # 0 leaves the reference out of the computation
    kl: str = "latent"  # latent: as published, without 1/dt; exact: between the Gaussians; velocity

    def __post_init__(self):
        if self.kl not in KL_FORMS:
            raise ValueError(f"ImageObjectiveConfig.kl is {self.kl!r}; choose one of {', '.join(KL_FORMS)}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredStep:
    """One stochastic step of every row, as it was drawn."""

    x: Float[Array, "B L C"]
    x_next: Float[Array, "B L C"]
    step: Int[Array, "B"]  # index on the time grid
    old_log_prob: Float[Array, "B"]
    advantage: Float[Array, "B"]


class Terms(NamedTuple):
    """Per row; not yet weighted, masked or averaged."""

    surrogate: clipped_surrogate.Surrogate
    kl: Float[Array, "B"] | None
    density: transition.Density


def terms(
    model: Bagel,
    context: Context,
    seen: Sight,
    stored: StoredStep,
    *,
    reference_velocity: Float[Array, "B L C"] | None,
    config: ImageObjectiveConfig,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int = 0,
) -> Terms:
    """The parts of the image term of every row for one step. `reference_velocity` is a constant; None leaves the KL out."""
    density, v = image_policy.log_prob(model, context, seen, stored.x, stored.x_next, stored.step, flow=flow, size=size, scratch=scratch)
    clipped = clipped_surrogate.surrogate(
        density.log_prob,
        stored.old_log_prob,
        stored.advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        advantage_clip=config.advantage_clip,
    )
    kl = None
    if reference_velocity is not None:
        v_ref = jax.lax.stop_gradient(reference_velocity)
        reference = image_policy.transition_density(flow, v_ref, stored.x, stored.x_next, stored.step)
        kl = {
            "latent": lambda: divergence.latent(density.mean, reference.mean, density.sigma),
            "exact": lambda: divergence.exact(density.mean, reference.mean, density.std),
            "velocity": lambda: divergence.velocity(v, v_ref),
        }[config.kl]()
    return Terms(surrogate=clipped, kl=kl, density=density)
