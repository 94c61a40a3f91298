"""Token GRPO: the clipped surrogate over the tokens of an intent.

    loss = max(-A r, -A clip(r, 1 - low, 1 + high)),   r = exp(log_prob - old_log_prob);   A < 0: at most -dual_clip A

How tokens become a row's loss, and how rewards become A, is set beside it: DAPO is clip_high 0.28 with the reduction "token", Dr.GRPO is
the reduction "max_length" without a std, RLOO is the baseline leave_one_out without a std. Source: Edit-R2's text loss (golden case i1,
group text_grpo), Tunix (group token_loss).
"""

from __future__ import annotations

import dataclasses

from editr2_jax.objectives.points import TokenLoss, Tokens
from editr2_jax.rl import clipped_surrogate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the clipped surrogate; the defaults are the reference's."""

    clip_low: float = 1e-5
    clip_high: float = 1e-5
    advantage_clip: float = 0.0  # 0 leaves the advantage as it is
    dual_clip: float = 0.0  # 0: none; else greater than 1

    def __post_init__(self):
        clipped_surrogate.refuse_settings(**dataclasses.asdict(self))


def loss(tokens: Tokens, config: Config) -> TokenLoss:
    """The surrogate of every token."""
    out = clipped_surrogate.surrogate(
        tokens.log_prob,
        tokens.old_log_prob,
        tokens.advantage,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        advantage_clip=config.advantage_clip or None,
        dual_clip=config.dual_clip or None,
        mask=tokens.mask,
    )
    return TokenLoss(out.loss, clipped_surrogate.statistics(out))
