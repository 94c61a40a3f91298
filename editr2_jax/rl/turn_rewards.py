"""What a turn's reward becomes before it meets a baseline.

    none         R_t
    improvement  R_t - R_{t-1}, and R_0 itself at the first turn: a good turn is one that left the session better than it found it
    to_go        sum over u >= t of gamma^(u-t) R_u: a turn answers for what comes after it, too

t and u run over the turns at which the reward counts. A missing reward (NaN) makes missing what is computed from it: the improvement at its
turn and the next, the reward to go of its turn and every earlier one. Letters: B rollouts, T turns.
Source: Reason-Reflect-Refine credits improvement per round; reward to go is policy gradients' own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

TRANSFORMS = ("none", "improvement", "to_go")


def improvement(reward: Float[Array, "B T"], *, counts: Bool[Array, "B T"] | None = None) -> Float[Array, "B T"]:
    """Each reward less that of the last turn before it that counts, less nothing where there is none; NaN where it does not count."""
    reward, counts = _checked(reward, counts)
    turn = jax.lax.cummax(jnp.where(counts, jnp.arange(reward.shape[1]), -1), axis=1)  # [B, T] the last turn so far that counts
    before = jnp.pad(turn[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    earlier = jnp.take_along_axis(reward, jnp.maximum(before, 0), axis=1)
    return jnp.where(counts, reward - jnp.where(before < 0, 0.0, earlier), jnp.nan)


def to_go(reward: Float[Array, "B T"], *, gamma: float = 1.0, counts: Bool[Array, "B T"] | None = None) -> Float[Array, "B T"]:
    """The discounted sum over a turn and all later ones; NaN where the reward counts at none of them."""
    reward, counts = _checked(reward, counts)
    if not 0 < gamma <= 1:
        raise ValueError(f"to_go: gamma is {gamma}; give a discount above 0 and at most 1.")
    turn = jnp.arange(reward.shape[1])
    ahead = turn[None] - turn[:, None]  # [T, T] from t to u
    decay = jnp.power(jnp.asarray(gamma, reward.dtype), jnp.maximum(ahead, 0))
    enters = counts[:, None, :] & (ahead >= 0)[None]  # [B, T, T]
    total = jnp.sum(jnp.where(enters, decay[None] * reward[:, None, :], 0.0), axis=2)
    return jnp.where(enters.any(axis=2), total, jnp.nan)


def _checked(reward, counts) -> tuple[Array, Array]:
    reward = jnp.asarray(reward)
    if reward.ndim != 2:
        raise ValueError(f"turn rewards want reward[rollout, turn], got shape {reward.shape}; for one rollout pass reward[None].")
    return reward, jnp.ones(reward.shape, bool) if counts is None else jnp.asarray(counts)
