"""Flow-GRPO: the clipped surrogate over stochastic denoising steps.

    loss = max(-A r, -A clip(r, 1 - low, 1 + high)),   r = exp(log_prob - old_log_prob),   A clipped to +- advantage_clip

log_prob is a mean over the picture's numbers, which is why the clip widths are tiny. The defaults are Edit-R2's.
Source: Flow-GRPO (arXiv 2505.05470), Edit-R2's learning step (group image_grpo).
"""

from __future__ import annotations

import dataclasses

from editr2_jax.objectives.points import Loss, Velocities, Window
from editr2_jax.rl import clipped_surrogate

POINTS = Window
NEEDS = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the clipped surrogate."""

    clip_low: float = 1e-5
    clip_high: float = 1e-5
    advantage_clip: float = 5.0  # 0 leaves the advantage as it is

    def __post_init__(self):
        clipped_surrogate.refuse_settings(**dataclasses.asdict(self))


def loss(at: Window, v: Velocities, config: Config) -> Loss:
    """The surrogate of every row."""
    out = clipped_surrogate.surrogate(
        at.density(v.policy).log_prob,
        at.old_log_prob,
        at.advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        advantage_clip=config.advantage_clip or None,
    )
    return Loss(out.loss, clipped_surrogate.statistics(out))
