"""Reward-weighted likelihood of the rollout's own intents: rejection sampling ("best"), raw rewards, or exp(A / temperature).

    loss = -weight log_prob

Source: Flow-GRPO's tracker types rwr and sft, for words.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from editr2_jax.objectives.points import TokenLoss, Tokens
from editr2_jax.rl import selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the weights."""

    weighting: str = "best"
    temperature: float = 1.0  # of "exp"

    def __post_init__(self):
        if self.weighting not in selection.WEIGHTINGS or not self.temperature > 0:
            raise ValueError(
                f"rwr: weighting {self.weighting!r}, temperature {self.temperature}; "
                f"weighting is one of {', '.join(selection.WEIGHTINGS)}, temperature is positive."
            )


def loss(tokens: Tokens, config: Config) -> TokenLoss:
    """The weighted negative log-likelihood of every token."""
    weight = selection.weights(
        tokens.reward, tokens.advantage, tokens.mask.any(axis=1),
        group=tokens.group, weighting=config.weighting, temperature=config.temperature,
    )  # fmt: skip
    value = jnp.where(tokens.mask, -weight[:, None] * jnp.where(tokens.mask, tokens.log_prob, 0.0), 0.0)
    return TokenLoss(value, {"weight": jnp.broadcast_to(weight[:, None], value.shape)})
