"""Several rewards, one advantage: fused before the baseline or after it.

    reward level     A of (sum w_k R_k)          the reward with the larger spread inside a group decides
    advantage level  sum w_k (A of R_k)          every reward speaks with its weight, whatever its scale

    additive  the sum as it is: A_IF + lambda A_CC (MT-EditFlow)
    convex    the sum over the sum of the weights (MixGRPO; Edit-R2's 0.3, 0.3, 0.4)
    gdpo      the advantage-level sum, standardised once more over the batch (Flow-Factory)

A reward counts where its weight is not 0. Where one that counts is missing (NaN), a sum of rewards is missing, for it would be a sum of
something else; a sum of advantages goes on without it (A = 0), so the other rewards still teach. Letters: B rollouts, T turns.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from editr2_jax.rl.advantages import EPSILON, Advantages, standardised

LEVELS = ("reward", "advantage")
FORMS = ("convex", "additive", "gdpo")


def of_rewards(
    rewards: Mapping[str, Float[Array, "B T"]], weights: Mapping[str, Float[Array, "B T"] | float], *, form: str = "convex"
) -> Float[Array, "B T"]:
    """The weighted sum or mean of rewards: NaN where one that counts is missing, or none counts."""
    _check(rewards, weights, form)
    if form == "gdpo":
        raise ValueError("gdpo standardises fused advantages; fuse rewards as convex or additive, or fuse advantages.")
    counts = {name: jnp.asarray(weights[name]) > 0 for name in rewards}
    value = _weighted({name: jnp.where(counts[name], reward, 0.0) for name, reward in rewards.items()}, weights, form)
    return jnp.where(_any(counts.values()), value, jnp.nan)


def of_advantages(
    parts: Mapping[str, Advantages],
    weights: Mapping[str, Float[Array, "B T"] | float],
    *,
    form: str = "convex",
    eps: float = EPSILON,
    eps_mode: str = "additive",
    mask: Bool[Array, "B T"] | None = None,
) -> Advantages:
    """The weighted sum or mean of each reward's advantages; known and speaking where any that counts is.

    eps, eps_mode, mask: of gdpo's second standardisation, which has population std; mask says which entries enter it (default: all known).
    """
    _check(parts, weights, form)
    value = _weighted({name: part.value for name, part in parts.items()}, weights, form)
    counts = {name: jnp.asarray(weights[name]) > 0 for name in parts}
    known = _any(part.known & counts[name] for name, part in parts.items())
    speaks = _any(part.speaks & counts[name] for name, part in parts.items())
    if form == "gdpo":
        value = standardised(value, known if mask is None else known & mask, eps=eps, eps_mode=eps_mode)
    return Advantages(jnp.where(speaks, value, 0.0), known, speaks)


def _weighted(values: Mapping[str, Array], weights: Mapping[str, Array | float], form: str) -> Array:
    """sum w v, over sum w if convex."""
    names = sorted(values)  # one order of the sum, whatever the order of a mapping
    weight = {name: jnp.asarray(weights[name], values[name].dtype) for name in names}
    total = _sum(weight[name] * values[name] for name in names)
    if form != "convex":
        return total
    of_weights = _sum(weight.values())
    return total / jnp.where(of_weights > 0, of_weights, 1.0)


_sum = functools.partial(functools.reduce, jnp.add)
_any = functools.partial(functools.reduce, jnp.logical_or)


def _check(values: Mapping, weights: Mapping, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"there is no fusion form {form!r}; choose one of {', '.join(FORMS)}.")
    if not values or set(values) != set(weights):
        raise ValueError(f"fusion wants a weight for every reward and at least one; rewards {sorted(values)}, weights {sorted(weights)}.")
