"""The clipped surrogate: follow the advantage, but not far from the policy that drew.

    r = exp(log_prob - old_log_prob),    loss = max( -A r, -A clip(r, 1 - clip_low, 1 + clip_high) )

One formula for both kinds of action: an intent's token, and a stochastic step, whose log_prob is a mean over the latent's numbers
(so its clip widths are about 1e-5). Source: proximal policy optimisation; Flow-GRPO, Edit-R2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOG_RATIO_LIMIT = 20.0  # as in Tunix: beyond it exp overflows and the unused branch of the max would turn the gradient into NaN


class Surrogate(NamedTuple):
    """Per action; masked actions have loss 0, ratio 1 and no flag."""

    loss: Float[Array, "*shape"]
    ratio: Float[Array, "*shape"]
    above: Bool[Array, "*shape"]  # ratio beyond 1 + clip_high
    below: Bool[Array, "*shape"]  # ratio beyond 1 - clip_low


def surrogate(
    log_prob: Float[Array, "*shape"],
    old_log_prob: Float[Array, "*shape"],
    advantage: Float[Array, "*shape"],
    *,
    clip_low: float,
    clip_high: float,
    advantage_clip: float | None = None,
    mask: Bool[Array, "*shape"] | None = None,
) -> Surrogate:
    """The loss of every action, not yet averaged.

    Args:
        log_prob: of the policy that learns; the only argument that receives gradient.
        old_log_prob: of the policy that drew, as recorded.
        advantage: broadcasts against log_prob from the left: [B] serves [B, W] and [B, K].
        advantage_clip: limits |advantage| (5 for pictures in every source; None for words in Edit-R2).
        mask: actions that exist; what the others hold, NaN included, is not looked at.

    Raises:
        ValueError: a shape that does not fit log_prob's.
    """
    shape = log_prob.shape
    if old_log_prob.shape != shape or advantage.shape != shape[: advantage.ndim] or (mask is not None and mask.shape != shape):
        given = {"old_log_prob": old_log_prob.shape, "advantage": advantage.shape, "mask": None if mask is None else mask.shape}
        raise ValueError(
            f"surrogate over log_prob{list(shape)} cannot use {given}; advantage needs the leading axes, the others all of them."
        )
    dtype = jnp.result_type(jnp.float32, log_prob, old_log_prob)
    advantage = jax.lax.stop_gradient(advantage).astype(dtype).reshape(advantage.shape + (1,) * (len(shape) - advantage.ndim))
    if advantage_clip is not None:
        advantage = jnp.clip(advantage, -advantage_clip, advantage_clip)
    log_ratio = log_prob.astype(dtype) - jax.lax.stop_gradient(old_log_prob).astype(dtype)
    exists = jnp.ones(shape, bool) if mask is None else mask
    log_ratio = jnp.where(exists, log_ratio, 0.0)
    ratio = jnp.exp(jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    loss = jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - clip_low, 1 + clip_high))
    fixed = jax.lax.stop_gradient(ratio)
    return Surrogate(loss=jnp.where(exists, loss, 0.0), ratio=fixed, above=fixed > 1 + clip_high, below=fixed < 1 - clip_low)
