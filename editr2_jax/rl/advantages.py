"""Group-relative advantages that skip missing rewards.

    A[b, t] = (reward[b, t] - baseline of its pool) / divisor

A pool is what shares one baseline: all rewards of a group ("dialogue", Edit-R2's), those of one turn of a group ("dialogue_turn"), or one
reward per rollout of a group ("trajectory", MT-EditFlow's; the caller hands its value to every turn).

    baseline   the pool's mean, or the mean of the pool's other members (leave_one_out)
    std        of the pool ("group") or of all rewards of the batch ("global"), over n - ddof; "none": the divisor is 1
    divisor    std + eps ("additive") or max(std, eps) ("floor")

Pools may be trimmed: mean and std then come from a pool without its lowest floor(n * trim) rewards; every member still gets an advantage.
A missing reward (NaN) enters no statistics and gets A = 0; so does every reward of a pool whose entering rewards are all equal, a pool of
one among them. Letters: B rollouts, T turns.

                            baseline       std              ddof  eps
    Flow-GRPO, Edit-R2      mean           global or group  0     1e-4 additive
    verl-omni               mean           any              1     1e-4 additive
    MixGRPO                 mean, trimmed  group            1     1e-8 additive
    Flow-Factory            mean           global or group  0     1e-6 floor
    Tunix: GRPO             mean           group            1     1e-6 additive
    Tunix: RLOO, Dr.GRPO    leave_one_out, mean    none

Pooling over turns makes the turns' unequal difficulty part of the advantage: early, easy turns are pushed up in every rollout. A floor,
unlike an additive eps, blows a group whose spread is a judge's noise up to unit scale.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

GROUPINGS = ("dialogue", "dialogue_turn", "trajectory")
SPREADS = ("group", "global", "none")
EPS_MODES = ("additive", "floor")
BASELINES = ("mean", "leave_one_out")
EPSILON = 1e-4  # Flow-GRPO's, added to the std


class Advantages(NamedTuple):
    """Advantages, and which of them say something."""

    value: Float[Array, "B T"]  # 0 where it says nothing
    known: Bool[Array, "B T"]  # the reward is not missing
    speaks: Bool[Array, "B T"]  # and its pool has spread


def group_relative(
    reward: Float[Array, "B T"],
    group: Int[Array, " B"],
    *,
    grouping: str = "dialogue",
    std: str = "global",
    eps: float = EPSILON,
    eps_mode: str = "additive",
    ddof: int = 0,
    trim: float = 0.0,
    baseline: str = "mean",
    mask: Bool[Array, "B T"] | None = None,
) -> Advantages:
    """Advantages of a batch.

    Args:
        reward: NaN where missing; [B, 1] under the grouping "trajectory".
        group: any integers, equal for the rollouts of one group; order does not matter.
        trim: the share of a pool's rewards, the lowest ones, that stays out of its statistics; in [0, 1).
        mask: which rewards enter mean and std (default: all that are not missing). The others are measured against the same mean and
            std, and get 0 where nothing or nothing but equal rewards entered; whether they teach is the trajectory filter's decision.

    Raises:
        ValueError: wrong shapes, a number out of range, or an unknown choice.
    """
    reward, group = jnp.asarray(reward), _labels(group)
    _check_shapes(reward, group, grouping, mask)
    refuse_unknown("group_relative: ", grouping=grouping, std=std, eps=eps, eps_mode=eps_mode, ddof=ddof, trim=trim, baseline=baseline)
    reward = reward.astype(jnp.result_type(jnp.float32, reward.dtype))
    known = ~jnp.isnan(reward)
    enters = known if mask is None else known & mask
    same = group[:, None] == group[None, :]  # [B, B]
    over_turns = grouping == "dialogue"
    if trim:
        enters = enters & ~_lowest(reward, enters, same, over_turns, share=trim)

    shifted = reward - _anchor(reward, enters, same, over_turns)  # exact for nearly equal rewards, where a plain mean would round
    count = _pool(enters.astype(reward.dtype), same, over_turns)  # [B, T] rewards in the pool of each entry
    centred = shifted - _pool(jnp.where(enters, shifted, 0.0), same, over_turns) / jnp.maximum(count, 1)
    flat = _pool((enters & (shifted != 0)).astype(reward.dtype), same, over_turns) == 0  # no reward differs from the anchor
    if std == "none":
        divisor = jnp.ones_like(reward)
    else:
        squares = _pool(jnp.where(enters, jnp.square(centred), 0.0), same, over_turns)
        scale = jnp.sqrt(squares / jnp.maximum(count - ddof, 1)) if std == "group" else _moments(reward, enters, ddof)[1]
        divisor = _divisor(scale, eps, eps_mode)
    if baseline == "leave_one_out":  # r - mean of the others = (r - mean) n / (n - 1); who did not enter has only others
        centred = centred * jnp.where(enters, count / jnp.maximum(count - 1, 1), 1.0)
    speaks = known & ~flat
    return Advantages(jnp.where(speaks, centred / divisor, 0.0), known, speaks)


def standardised(
    x: Float[Array, "B T"], enters: Bool[Array, "B T"], *, eps: float = EPSILON, eps_mode: str = "additive", ddof: int = 0
) -> Float[Array, "B T"]:
    """x against mean and std of its entering values, over the whole batch."""
    mean, std = _moments(x, enters, ddof)
    return (x - mean) / _divisor(std, eps, eps_mode)


def zero_variance_share(
    made: Advantages, group: Int[Array, " B"], *, grouping: str, mask: Bool[Array, "B T"] | None = None
) -> Float[Array, ""]:
    """Share of pools that say nothing, among those that any reward entered; `mask` as in `group_relative`."""
    group, dtype = _labels(group), made.value.dtype
    same, over_turns = group[:, None] == group[None, :], grouping == "dialogue"
    enters = made.known if mask is None else made.known & mask
    size = _pool(jnp.ones_like(made.value), same, over_turns)  # entries of a pool: their shares sum to one pool
    there = _pool(enters.astype(dtype), same, over_turns) > 0
    silent = there & (_pool(made.speaks.astype(dtype), same, over_turns) == 0)
    return jnp.sum(jnp.where(silent, 1 / size, 0.0)) / jnp.maximum(jnp.sum(jnp.where(there, 1 / size, 0.0)), 1)


def refuse_unknown(where: str, *, grouping: str, std: str, eps: float, eps_mode: str, ddof: int, trim: float, baseline: str) -> None:
    """Raises ValueError for a choice that there is not, or a number out of its range; `where` opens the message."""
    choices = {
        "grouping": (grouping, GROUPINGS),
        "std": (std, SPREADS),
        "eps_mode": (eps_mode, EPS_MODES),
        "baseline": (baseline, BASELINES),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{where}{name} is {value!r}; choose one of {', '.join(known)}.")
    if not eps > 0:
        raise ValueError(f"{where}eps is {eps}; give a positive number (and std=none for no division at all).")
    if ddof not in (0, 1):
        raise ValueError(f"{where}ddof is {ddof}; give 0 (population) or 1 (sample).")
    if not 0 <= trim < 1:
        raise ValueError(f"{where}trim is {trim}; give a share of a pool, at least 0 and less than 1.")
    if trim and baseline == "leave_one_out":
        raise ValueError(f"{where}trim is {trim}, but the baseline leave_one_out would tell equal rewards apart at the cut; set trim=0.")


def _check_shapes(reward: Array, group: Array, grouping: str, mask: Array | None) -> None:
    if reward.ndim != 2 or group.shape != reward.shape[:1]:
        raise ValueError(
            f"group_relative wants reward[rollout, turn] and group[rollout], got {list(reward.shape)} and {list(group.shape)}."
        )
    if mask is not None and mask.shape != reward.shape:
        raise ValueError(f"mask has shape {list(mask.shape)}, reward has {list(reward.shape)}; they must agree.")
    if grouping == "trajectory" and reward.shape[1] != 1:
        raise ValueError(
            f"the grouping trajectory wants one reward per rollout, [B, 1], got {list(reward.shape)}; aggregate the turns first."
        )


def _labels(group) -> Int[Array, " B"]:
    """Group ids as the device holds them. Those from the host are counted through first: 64-bit ids cut to 32 bits could collide."""
    group = group if isinstance(group, jax.Array) else np.asarray(group)
    if not jnp.issubdtype(group.dtype, jnp.integer):
        raise ValueError(f"group ids are {group.dtype}; give integers: large ids that pass through floats collide.")
    return group if isinstance(group, jax.Array) else jnp.asarray(np.unique(group, return_inverse=True)[1].reshape(group.shape))


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


def _lowest(
    x: Float[Array, "B T"], enters: Bool[Array, "B T"], same: Bool[Array, "B B"], over_turns: bool, *, share: float
) -> Bool[Array, "B T"]:
    """The lowest floor(n share) of the n entering values of every pool; of equal values any, which mean and std do not see."""
    rows, turns = x.shape
    one_turn = jnp.ones((turns, turns), bool) if over_turns else jnp.eye(turns, dtype=bool)
    pair = (same[:, None, :, None] & one_turn[None, :, None, :]).reshape(rows * turns, rows * turns)
    value, place = jnp.where(enters, x, jnp.inf).reshape(-1), jnp.arange(rows * turns)
    before = (value[None] < value[:, None]) | ((value[None] == value[:, None]) & (place[None] < place[:, None]))
    rank = jnp.sum(pair & before, axis=1).reshape(x.shape)
    size = jnp.sum(pair & enters.reshape(-1)[None], axis=1).reshape(x.shape)
    cut = jnp.asarray([int(n * share) for n in range(rows * turns + 1)])[size]  # in Python's floats, so that no rounding moves a cut
    return enters & (rank < cut)


def _divisor(std: Array, eps: float, eps_mode: str) -> Array:
    return jnp.maximum(std, eps) if eps_mode == "floor" else std + eps


def _moments(x: Array, enters: Array, ddof: int) -> tuple[Array, Array]:
    """Mean and std of the entering values; 0 and 0 of none, std 0 of one."""
    low = jnp.min(jnp.where(enters, x, jnp.inf))
    low = jnp.where(jnp.isfinite(low), low, 0.0)
    count = jnp.sum(enters)
    mean = jnp.sum(jnp.where(enters, x - low, 0.0)) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(enters, jnp.square(x - low - mean), 0.0))
    return low + mean, jnp.sqrt(squares / jnp.maximum(count - ddof, 1))
