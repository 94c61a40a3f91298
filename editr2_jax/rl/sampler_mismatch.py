"""Weights for tokens that one program drew and another one scores: truncated importance sampling.

    w = min(exp(log_prob - sampler_log_prob), cap)          both under the weights that drew

1 where decoding and the loss's pass agree. Source: Tunix, verl-omni.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.rl import clipped_surrogate


def weights(log_prob: Float[Array, "*shape"], sampler_log_prob: Float[Array, "*shape"], *, cap: float) -> Float[Array, "*shape"]:
    """The weights; constants of the loss. `cap` is at least 1 (2 is usual)."""
    if not cap >= 1:
        raise ValueError(f"the cap on sampler mismatch is {cap}; below 1 it would shrink tokens that do agree.")
    return jnp.minimum(clipped_surrogate.ratio_of(jax.lax.stop_gradient(log_prob - sampler_log_prob)), cap)
