"""The log_prob of given tokens under a model's logits, at the temperature they were drawn with.

    log_prob = log softmax(logits / temperature)[token]

Letters: K tokens, V vocabulary. The same temperature must serve drawing and loss. Source: Edit-R2 (0.7).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def of(logits: Float[Array, "*B K V"], token: Int[Array, "*B K"], *, temperature: float = 1.0) -> Float[Array, "*B K"]:
    """log_prob[k] of token[k] under logits[k]: the caller aligns them, logits at a position predict the token after it.

    Raises:
        ValueError: temperature is not positive (greedy choice has no density; score it at temperature 1), or shapes do not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; a log_prob needs a positive one (greedy intents are scored at 1).")
    if logits.shape[:-1] != token.shape:
        raise ValueError(f"logits{list(logits.shape)} do not fit token{list(token.shape)}; want one row of logits per token.")
    scaled = logits.astype(jnp.result_type(jnp.float32, logits.dtype)) / temperature
    chosen = jnp.take_along_axis(scaled, token[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(scaled, axis=-1)
