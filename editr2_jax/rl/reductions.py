"""From per-token losses to one number. Letters: R rows, K tokens. A row without tokens gives 0, not 0/0, and gradient 0.

A reduction is a weight for each row, such that   loss = mean over rows of ( weight sum_k loss_k ):
    sequence_mean   1 / n            each intent weighs the same (Edit-R2, GRPO)
    token_mean      R / sum n        each token weighs the same (DAPO)
    max_length      1 / K            no reward for being short or long (Dr.GRPO)
    sum             1
    sum_nonempty    R / rows with tokens
n is a row's number of tokens. Source: Tunix' reduced_loss_agg, whose rows include the empty ones (group token_loss).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_WEIGHTS = {
    "sequence_mean": lambda n, slots: 1 / np.maximum(n, 1),
    "token_mean": lambda n, slots: np.full_like(n, len(n) / max(n.sum(), 1)),
    "max_length": lambda n, slots: np.full_like(n, 1 / slots),
    "sum": lambda n, slots: np.ones_like(n),
    "sum_nonempty": lambda n, slots: np.full_like(n, len(n) / max((n > 0).sum(), 1)),
}
REDUCTIONS = tuple(_WEIGHTS)


def row_weights(count: Int[np.ndarray, " R"], *, reduction: str, slots: int) -> Float[np.ndarray, " R"]:
    """Weights of the rows, on the host, float64; `count` holds each row's number of tokens that teach, `slots` is K.

    Raises:
        ValueError: an unknown reduction.
    """
    if reduction not in _WEIGHTS:
        raise ValueError(f"reduction {reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}.")
    return _WEIGHTS[reduction](np.asarray(count, np.float64), slots)


def sum_per_row(value: Float[Array, "R K"], mask: Bool[Array, "R K"]) -> Float[Array, " R"]:
    """Each row's sum over its own tokens; what the others hold, NaN included, is not looked at."""
    return jnp.sum(jnp.where(mask.astype(bool), value, 0.0), axis=1)


def mean_per_row(value: Float[Array, "R K"], mask: Bool[Array, "R K"]) -> Float[Array, " R"]:
    """Each row's mean over its own tokens."""
    return sum_per_row(value, mask) / jnp.maximum(jnp.sum(mask.astype(bool), axis=1), 1)
