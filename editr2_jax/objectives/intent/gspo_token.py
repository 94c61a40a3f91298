"""GSPO-token: one ratio for a whole intent, the geometric mean of its tokens' ratios, with a gradient for each token.

    log r_i = stop[ mean_k (log_prob_k - old_log_prob_k) ] + log_prob_i - stop[log_prob_i]

The clip acts on whole intents, so its widths are smaller than a token's. Source: GSPO; Tunix (group token_loss).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from editr2_jax.objectives.points import TokenLoss, Tokens
from editr2_jax.rl import clipped_surrogate, reductions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the clipped surrogate."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 0.0  # 0: none; else greater than 1

    def __post_init__(self):
        clipped_surrogate.refuse_settings(**dataclasses.asdict(self))


def loss(tokens: Tokens, config: Config) -> TokenLoss:
    """The surrogate of every token under its intent's ratio."""
    gap = jnp.where(tokens.mask, tokens.log_prob - tokens.old_log_prob, 0.0)
    whole = jax.lax.stop_gradient(reductions.mean_per_row(gap, tokens.mask))
    own = tokens.log_prob - jax.lax.stop_gradient(tokens.log_prob)  # 0, with the token's gradient
    log_ratio = whole[:, None] + own
    out = clipped_surrogate.surrogate(
        log_ratio,
        jnp.zeros_like(log_ratio),
        tokens.advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip or None,
        mask=tokens.mask,
    )
    return TokenLoss(out.loss, clipped_surrogate.statistics(out))
