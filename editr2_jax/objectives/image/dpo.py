"""Diffusion-DPO: the best picture of a group against its worst, both at the same noise and time.

    loss = -log sigmoid( -beta/2 [ (e_w - e_w_ref) - (e_l - e_l_ref) ] ),    e = mean_d (v - (noise - clean))^2

A group without spread has no pair and teaches nothing (the reference would pair its first two). Source: Flow-Factory's DPO (group dpo).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.objectives.points import Loss, Path, Velocities

POINTS = Path
NEEDS = ("reference",)
SHARED_DRAWS = True  # the members of a group meet the same noise and time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the preference."""

    beta: float = 2000.0  # Flow-Factory's


def pairs(advantage: Float[Array, "P G"], mask: Bool[Array, "P G"]) -> tuple[Int[Array, "P"], Int[Array, "P"], Bool[Array, "P"]]:
    """Best and worst member of each group among those that teach, and whether they differ."""
    best = jnp.argmax(jnp.where(mask, advantage, -jnp.inf), axis=1)
    worst = jnp.argmin(jnp.where(mask, advantage, jnp.inf), axis=1)
    take = lambda index: jnp.take_along_axis(advantage, index[:, None], axis=1)[:, 0]  # noqa: E731
    return best, worst, mask.any(axis=1) & (take(best) > take(worst))


def loss(at: Path, v: Velocities, config: Config) -> Loss:
    """The preference loss of each pair, spread over its group so that the mean over rows is the mean over groups."""
    by_group = lambda x: x.reshape(-1, at.group)  # noqa: E731
    error = lambda u: jnp.square(u - at.target).reshape(len(at.t), -1).mean(axis=1)  # noqa: E731
    excess = by_group(error(v.policy) - jax.lax.stop_gradient(error(v.reference)))  # [P, G]
    best, worst, paired = pairs(by_group(at.advantage), by_group(at.mask))
    margin = jnp.take_along_axis(excess, best[:, None], axis=1) - jnp.take_along_axis(excess, worst[:, None], axis=1)  # [P, 1]
    value = jnp.where(paired[:, None], jax.nn.softplus(config.beta / 2 * margin), 0.0)
    # The pair's members alone carry it: a row that is masked would take its share away.
    members = jnp.arange(at.group)
    share = ((members == best[:, None]) | (members == worst[:, None])) * (at.group / 2)
    told = jnp.broadcast_to(jax.lax.stop_gradient(margin), share.shape).reshape(-1)
    paired = jnp.broadcast_to(paired[:, None], share.shape).reshape(-1)
    return Loss((value * share).reshape(-1), {"margin": told, "paired": paired, "preferred": (told < 0) & paired})
