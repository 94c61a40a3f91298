"""The intent term: clipped surrogate over the tokens of a written intent. Letters: B rows, K tokens.

    l = (1/n) sum_i max(-A r_i, -A clip(r_i, 1 - low, 1 + high)),   r_i = exp(log_prob_i - old_log_prob_i)

A is the advantage of the turn whose picture the intent led to. A sequence without tokens contributes 0, never NaN.
Source: Edit-R2's text loss (golden case i1, group text_grpo).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.policies import intent_policy
from editr2_jax.rl import clipped_surrogate, reductions


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentObjectiveConfig:
    """Settings of the intent term."""

    weight: float = 1.0
    clip_low: float = 1e-5
    clip_high: float = 1e-5
    advantage_clip: float = 0.0  # 0 leaves the advantage as it is, as the reference does


class Terms(NamedTuple):
    """Per row, and per token where it says so."""

    loss: Float[Array, "B"]
    surrogate: clipped_surrogate.Surrogate  # per token
    log_prob: Float[Array, "B K"]
    real: Bool[Array, "B K"]


def terms(
    model: Bagel,
    cache: KVCache,
    tokens: Int[Array, "B K"],
    count: Int[Array, "B"],
    *,
    old_log_prob: Float[Array, "B K"],
    advantage: Float[Array, "B"],
    temperature: float,
    config: IntentObjectiveConfig,
) -> Terms:
    """The intent term of every row; `cache` is the dialogue followed by the question."""
    log_prob, _ = intent_policy.log_prob(model, cache, tokens, count, temperature=temperature)
    real = jnp.arange(tokens.shape[1]) < count[:, None]
    clipped = clipped_surrogate.surrogate(
        log_prob,
        old_log_prob,
        advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        advantage_clip=config.advantage_clip or None,
        mask=real,
    )
    return Terms(loss=reductions.mean_per_row(clipped.loss, real), surrogate=clipped, log_prob=log_prob, real=real)
