"""Averages over intent tokens. Letters: B rows, K tokens. A row without tokens gives 0, not 0/0, and gradient 0."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean_per_row(value: Float[Array, "B K"], mask: Bool[Array, "B K"]) -> Float[Array, " B"]:
    """Each row's mean over its own tokens: a long intent weighs as much as a short one (Edit-R2)."""
    mask = mask.astype(bool)
    return jnp.sum(jnp.where(mask, value, 0.0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)


def mean_over_tokens(value: Float[Array, "B K"], mask: Bool[Array, "B K"]) -> Float[Array, ""]:
    """One mean over all tokens: every token weighs the same."""
    mask = mask.astype(bool)
    return jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
