"""The clipped surrogate: follow the advantage, but not far from the policy that drew.

    r = exp(log_prob - old_log_prob),    loss = max( -A r, -A clip(r, 1 - clip_low, 1 + clip_high) )

One formula for both kinds of action: an intent's token, and a stochastic step, whose log_prob is a mean over the latent's numbers
(so its clip widths are about 1e-5). The dual clip bounds the loss of a bad action by -c A, c > 1, however likely it has become.
Source: proximal policy optimisation; Flow-GRPO, Edit-R2; dual clip as in Tunix.
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
    log_ratio: Float[Array, "*shape"]
    above: Bool[Array, "*shape"]  # ratio beyond 1 + clip_high
    below: Bool[Array, "*shape"]  # ratio beyond 1 - clip_low


def refuse_settings(*, clip_low: float, clip_high: float, advantage_clip: float = 0.0, dual_clip: float = 0.0) -> None:
    """Raises ValueError for settings that no surrogate has, when a config is made. For the last two, 0 stands for none."""
    if min(clip_low, clip_high, advantage_clip) < 0 or not (dual_clip == 0 or dual_clip > 1):
        raise ValueError(
            f"clip_low {clip_low}, clip_high {clip_high}, advantage_clip {advantage_clip}, dual_clip {dual_clip}: a clip is not below 0, "
            "and a dual clip is 0 (none) or greater than 1."
        )


def surrogate(
    log_prob: Float[Array, "*shape"],
    old_log_prob: Float[Array, "*shape"],
    advantage: Float[Array, "*shape"],
    *,
    clip_low: float,
    clip_high: float,
    advantage_clip: float | None = None,
    dual_clip: float | None = None,
    mask: Bool[Array, "*shape"] | None = None,
) -> Surrogate:
    """The loss of every action, not yet averaged.

    Args:
        log_prob: of the policy that learns; the only argument that receives gradient.
        old_log_prob: of the policy that drew, as recorded.
        advantage: broadcasts against log_prob from the left: [B] serves [B, W] and [B, K].
        advantage_clip: limits |advantage| (5 for pictures in every source; None for words in Edit-R2).
        dual_clip: c; None for none.
        mask: actions that exist; what the others hold, NaN included, is not looked at.

    Raises:
        ValueError: a shape that does not fit log_prob's, or a dual clip that would cut the surrogate itself.
    """
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; it bounds the loss of unlikely good news only when it is greater than 1.")
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
    ratio = ratio_of(log_ratio)
    loss = jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        loss = jnp.where(advantage < 0, jnp.minimum(loss, -dual_clip * advantage), loss)
    fixed, log_ratio = jax.lax.stop_gradient((ratio, log_ratio))
    return Surrogate(
        loss=jnp.where(exists, loss, 0.0), ratio=fixed, log_ratio=log_ratio, above=fixed > 1 + clip_high, below=fixed < 1 - clip_low
    )


def ratio_of(log_ratio: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp of a log ratio, limited so that it can be told and differentiated."""
    return jnp.exp(jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def statistics(out: Surrogate) -> dict[str, Float[Array, "*shape"]]:
    """What is worth telling of a surrogate, per action; a name that ends in _max wants the maximum, the others the mean."""
    gap = jnp.abs(out.log_ratio)
    return {
        "surrogate": out.loss,
        "ratio": out.ratio,
        "clip_fraction_low": out.below,
        "clip_fraction_high": out.above,
        "log_ratio_mean": gap,
        "log_ratio_max": gap,
    }
