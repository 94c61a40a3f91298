"""DiffusionNFT: reinforcement on the forward process, without densities; any sampler may draw the pictures.

    r = clip(1/2 + clip(A, +-a) / (2a), 0, 1)                                   how optimal the picture is
    v+ = b v + (1-b) v_old,   v- = (1+b) v_old - b v                            towards the policy, and away from it
    e = x_t - t v+- - clean,  w = max(mean_d |e|, 1e-5) without gradient,       l+- = mean_d e^2 / w
    loss = a [ r l+ + (1-r) l- ] / b

Where v = v_old the gradient is proportional to 2r - 1, whatever b is; b sets the curvature.
Source: DiffusionNFT's loss block (group nft); modes as published: positive_only maps A < 0 to r = 1/2, which is not weight 0.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow
from editr2_jax.objectives.points import Loss, Path, Velocities

POINTS = Path
NEEDS = ("old",)
MODES = {
    "all": lambda a: a,
    "positive_only": lambda a: jnp.maximum(a, 0),
    "negative_only": lambda a: jnp.minimum(a, 0),
    "one_only": lambda a: jnp.where(a > 0, 1.0, 0.0),
    "binary": jnp.sign,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the contrast."""

    beta: float = 1.0  # b; 0.1 for several rewards at once, as published
    advantage_clip: float = 5.0  # a
    mode: str = "all"  # a key of MODES

    def __post_init__(self):
        if self.mode not in MODES or not self.beta > 0 or not self.advantage_clip > 0:
            raise ValueError(
                f"nft: mode {self.mode!r}, beta {self.beta}, advantage_clip {self.advantage_clip}; mode is one of {', '.join(MODES)}, "
                "beta and advantage_clip are positive."
            )


def optimality(advantage: Float[Array, "B"], config: Config) -> Float[Array, "B"]:
    """r: 0 for the worst, 1/2 where nothing is known, 1 for the best."""
    limit = config.advantage_clip
    return jnp.clip(0.5 + 0.5 * MODES[config.mode](jnp.clip(advantage, -limit, limit)) / limit, 0, 1)


def loss(at: Path, v: Velocities, config: Config) -> Loss:
    """The contrast of every row."""
    r, b = optimality(at.advantage, config), config.beta
    old = jax.lax.stop_gradient(v.old)
    towards, away = _error(at, b * v.policy + (1 - b) * old), _error(at, (1 + b) * old - b * v.policy)
    value = config.advantage_clip * (r * towards + (1 - r) * away) / b
    gap = jnp.abs(jax.lax.stop_gradient(v.policy - old)).reshape(len(r), -1).mean(axis=1)
    return Loss(value, {"optimality": r, "towards": towards, "away": away, "old_gap": gap})


def _error(at: Path, v: Float[Array, "B L C"]) -> Float[Array, "B"]:
    """Squared error of the picture that v promises, over its own size."""
    gap = (rectified_flow.clean_from(at.x, v, at.t) - at.clean).reshape(len(at.t), -1)
    size = jnp.maximum(jnp.abs(gap).mean(axis=1), 1e-5)
    return jnp.square(gap).mean(axis=1) / jax.lax.stop_gradient(size)
