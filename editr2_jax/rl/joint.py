"""Words and pictures in one loss.

    loss[b, w] = image_mask[b] (surrogate[b, w] + kl_weight kl[b, w]) + [w = 0] text_mask[b] text_weight text[b]

Letters: B (rollout, turn) pairs, W stochastic steps. The words join the first stochastic step once, so words : pictures = 1 : W.
Source: Edit-R2. Masks select, they do not multiply: a NaN behind a mask stays there, and its gradient too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Joint(NamedTuple):
    per_step: Float[Array, "B W"]
    total: Float[Array, " B"]  # summed over the window; the caller averages over rows


def combine(
    surrogate: Float[Array, "B W"],
    kl: Float[Array, "B W"] | None,
    text: Float[Array, " B"] | None,
    *,
    image_mask: Bool[Array, " B"],
    text_mask: Bool[Array, " B"],
    kl_weight: float,
    text_weight: float = 1.0,
) -> Joint:
    """The sum of the terms; kl and text are None where the recipe has none.

    text_mask is False for turn 0, which has no intent, and for whatever the trajectory filter takes out.
    """
    image = surrogate if kl is None else surrogate + kl_weight * kl
    per_step = jnp.where(image_mask[:, None], image, 0.0)
    if text is not None:
        first = jnp.arange(per_step.shape[1]) == 0  # [W]
        words = jnp.where(text_mask, text_weight * text, 0.0)
        per_step = per_step + jnp.where(first, words[:, None], 0.0)
    return Joint(per_step=per_step, total=per_step.sum(axis=1))
