"""One reward per rollout from those of its turns.

    mean  sum R_t / n    sum  sum R_t    last  R of the last turn    product  prod R_t    min  min R_t    geomean  (prod R_t)^(1/n)

over the n turns at which the reward counts. Where a reward that is needed is missing (NaN), so is the aggregate: any turn's for all of
them, the last turn's for `last`. A mean over the turns that are left would compare, say, two easy turns with the group's easy and hard
ones. product, min and geomean are all or nothing and leave many groups without spread early on; mean is the safe start.
Letters: B rollouts, T turns. Rewards are not negative (geomean of a negative one is missing). Source: MT-EditFlow's turn-level aggregation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def _mean(reward: Array, counts: Array) -> Array:
    return _sum(reward, counts) / jnp.maximum(jnp.sum(counts, axis=1), 1)


def _sum(reward: Array, counts: Array) -> Array:
    return jnp.sum(jnp.where(counts, reward, 0.0), axis=1)


def _last(reward: Array, counts: Array) -> Array:
    turn = jnp.max(jnp.where(counts, jnp.arange(reward.shape[1]), 0), axis=1, keepdims=True)  # [B, 1]
    return jnp.take_along_axis(reward, turn, axis=1)[:, 0]


def _product(reward: Array, counts: Array) -> Array:
    return jnp.prod(jnp.where(counts, reward, 1.0), axis=1)


def _min(reward: Array, counts: Array) -> Array:
    return jnp.min(jnp.where(counts, reward, jnp.inf), axis=1)


def _geomean(reward: Array, counts: Array) -> Array:
    return jnp.exp(_mean(jnp.log(reward), counts))  # log 0 = -inf and exp(-inf) = 0: one zero is enough


_AGGREGATES = {"mean": _mean, "sum": _sum, "last": _last, "product": _product, "min": _min, "geomean": _geomean}
AGGREGATES = tuple(_AGGREGATES)


def aggregate(reward: Float[Array, "B T"], how: str, *, counts: Bool[Array, "B T"] | None = None) -> Float[Array, " B"]:
    """One value per rollout, NaN where a needed one is missing or the reward counts at no turn.

    counts: the turns at which the reward counts (default: all); not the later turns of a shorter session, nor where it does not apply.
    """
    if how not in _AGGREGATES:
        raise ValueError(f"there is no aggregate {how!r}; choose one of {', '.join(AGGREGATES)}.")
    reward = jnp.asarray(reward)
    if reward.ndim != 2:
        raise ValueError(f"aggregate wants reward[rollout, turn], got shape {reward.shape}; for one rollout pass reward[None].")
    counts = jnp.ones(reward.shape, bool) if counts is None else jnp.asarray(counts)
    return jnp.where(counts.any(axis=1), _AGGREGATES[how](reward, counts), jnp.nan)
