"""Trajectory filtering: which turns of a rollout may teach.

After an outright failure the rest of a session answers a corrupted picture, so turns keep their gradient up to the failure:
    learn[b, t] = 1  iff  score[b, s] > floor  for every s < t
Letters: B rollouts, T turns. Scores are in [0, 1]. Source: Edit-R2, trajectory filtering (there: instruction following, floor 0, so
only a unanimous failure of all votes counts).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MODES = ("all", "image", "off")


def learn_mask(score: Float[Array, "B T"], *, floor: float = 0.0) -> Bool[Array, "B T"]:
    """True where the turn's input picture is still sound; turn 0 always is. NaN (no verdict) is not a failure."""
    if score.ndim != 2:
        raise ValueError(f"learn_mask wants score[rollout, turn], got shape {score.shape}; for one rollout pass score[None].")
    failed = score <= floor
    failed_before = jnp.cumsum(failed, axis=1) - failed  # [B, T] failures strictly earlier than t
    return failed_before == 0


def masks(score: Float[Array, "B T"], *, mode: str, floor: float = 0.0) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """(image_mask, text_mask): which turns teach the pictures, which the words.

    "all" filters both (what Edit-R2's code does), "image" spares the words (what its comments say), "off" filters nothing.
    """
    if mode not in MODES:
        raise ValueError(f"filter mode {mode!r} is unknown; choose one of {', '.join(MODES)}.")
    sound = learn_mask(score, floor=floor)
    everything = jnp.ones_like(sound)
    return (everything if mode == "off" else sound), (sound if mode == "all" else everything)
