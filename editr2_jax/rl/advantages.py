"""Group-relative advantages that skip missing rewards.

    A[b, t] = (reward[b, t] - mean of its pool) / (std + 1e-4)

A pool is what shares one baseline: all rewards of a group ("dialogue", Edit-R2's) or those of one turn of a group ("dialogue_turn").
std is the pool's ("group") or that of all rewards of the batch ("global", Edit-R2's and Flow-GRPO's default); population form, ddof 0.
A missing reward (NaN) enters no statistics and gets A = 0; so does every reward of a pool without spread.
Letters: B rollouts, T turns. Source: Flow-GRPO's tracker; group-relative policy optimisation.
Pooling over turns makes the turns' unequal difficulty part of the advantage: early, easy turns are pushed up in every rollout.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

GROUPINGS = ("dialogue", "dialogue_turn")
SPREADS = ("group", "global")
EPSILON = 1e-4  # Flow-GRPO's, added to the std


class Advantages(NamedTuple):
    """Advantages and what is worth logging about them."""

    value: Float[Array, "B T"]  # 0 where the reward is missing
    known: Bool[Array, "B T"]  # the reward is not missing
    statistics: dict[str, Array]


def group_relative(
    reward: Float[Array, "B T"],
    group: Int[Array, " B"],
    *,
    grouping: str = "dialogue",
    std: str = "global",
    eps: float = EPSILON,
    mask: Bool[Array, "B T"] | None = None,
) -> Advantages:
    """Advantages of a batch.

    Args:
        reward: NaN where missing.
        group: any integers, equal for the rollouts of one group; order does not matter.
        mask: which rewards enter mean and std (default: all that are not missing). The others are measured against the same mean and
            std, and get 0 where nothing or nothing but equal rewards entered; whether they teach is the trajectory filter's decision.

    Returns:
        value; known; statistics: reward_mean, reward_std (of what entered), reward_mean_per_turn[T], advantage_mean_per_turn[T],
        advantage_max, missing_share, zero_variance_share (pools without spread among pools with any reward).

    Raises:
        ValueError: wrong shapes, or an unknown grouping or std.
    """
    reward, group = jnp.asarray(reward), jnp.asarray(group)
    _check(reward, group, grouping, std, mask)
    reward = reward.astype(jnp.result_type(jnp.float32, reward.dtype))
    known = ~jnp.isnan(reward)
    enters = known if mask is None else known & mask
    same = group[:, None] == group[None, :]  # [B, B]
    over_turns = grouping == "dialogue"

    shifted = reward - _anchor(reward, enters, same, over_turns)  # exact for nearly equal rewards, where a plain mean would round
    count = _pool(enters.astype(reward.dtype), same, over_turns)  # [B, T] rewards in the pool of each entry
    centred = shifted - _pool(jnp.where(enters, shifted, 0.0), same, over_turns) / jnp.maximum(count, 1)
    variance = _pool(jnp.where(enters, jnp.square(centred), 0.0), same, over_turns) / jnp.maximum(count, 1)
    batch_mean, batch_std = _moments(reward, enters)
    scale = jnp.sqrt(variance) if std == "group" else batch_std
    flat = _pool((enters & (shifted != 0)).astype(reward.dtype), same, over_turns) == 0  # no reward differs from the anchor
    value = jnp.where(known & ~flat, centred / (scale + eps), 0.0)

    share = 1 / _pool(jnp.ones_like(reward), same, over_turns)  # entries of a pool sum to one pool
    pools = jnp.sum(jnp.where(count > 0, share, 0.0))
    statistics = {
        "reward_mean": batch_mean,
        "reward_std": batch_std,
        "reward_mean_per_turn": _mean(reward, enters, axis=0),
        "advantage_mean_per_turn": _mean(value, enters, axis=0),
        "advantage_max": jnp.max(jnp.abs(value)),
        "missing_share": jnp.mean((~known).astype(reward.dtype)),
        "zero_variance_share": jnp.sum(jnp.where((count > 0) & flat, share, 0.0)) / jnp.maximum(pools, 1),
    }
    return Advantages(value, known, statistics)


def _check(reward: Array, group: Array, grouping: str, std: str, mask: Array | None) -> None:
    if reward.ndim != 2 or group.shape != reward.shape[:1]:
        raise ValueError(
            f"group_relative wants reward[rollout, turn] and group[rollout], got {list(reward.shape)} and {list(group.shape)}."
        )
    if not jnp.issubdtype(group.dtype, jnp.integer):
        raise ValueError(f"group ids are {group.dtype}; give integers: large ids that pass through floats collide.")
    if mask is not None and mask.shape != reward.shape:
        raise ValueError(f"mask has shape {list(mask.shape)}, reward has {list(reward.shape)}; they must agree.")
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping {grouping!r} is unknown; choose one of {', '.join(GROUPINGS)}.")
    if std not in SPREADS:
        raise ValueError(f"std {std!r} is unknown; choose one of {', '.join(SPREADS)}.")


def _pool(x: Float[Array, "B T"], same: Bool[Array, "B B"], over_turns: bool) -> Float[Array, "B T"]:
    """For every entry the sum of x over its pool. Pairwise, so any integers may name groups and the sum's order is fixed."""
    total = jnp.sum(jnp.where(same[:, :, None], x[None], 0.0), axis=1)  # [B, T]
    return jnp.broadcast_to(total.sum(axis=1, keepdims=True), x.shape) if over_turns else total


def _anchor(x: Float[Array, "B T"], enters: Bool[Array, "B T"], same: Bool[Array, "B B"], over_turns: bool) -> Float[Array, "B T"]:
    """For every entry the smallest entering value of its pool; 0 where nothing enters."""
    candidates = jnp.where(enters, x, jnp.inf)
    low = jnp.min(jnp.where(same[:, :, None], candidates[None], jnp.inf), axis=1)  # [B, T]
    if over_turns:
        low = jnp.broadcast_to(low.min(axis=1, keepdims=True), x.shape)
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(low), low, 0.0))


def _mean(x: Array, enters: Array, axis: int | None = None) -> Array:
    return jnp.sum(jnp.where(enters, x, 0.0), axis=axis) / jnp.maximum(jnp.sum(enters, axis=axis), 1)


def _moments(x: Array, enters: Array) -> tuple[Array, Array]:
    """Mean and population std of the entering values; 0 and 0 of none."""
    low = jnp.min(jnp.where(enters, x, jnp.inf))
    low = jnp.where(jnp.isfinite(low), low, 0.0)
    mean = _mean(x - low, enters)
    return low + mean, jnp.sqrt(_mean(jnp.square(x - low - mean), enters))
