"""Averages of a policy over its updates: the old policy that plays (DiffusionNFT), and the smooth one that is evaluated (EMA).

    average <- d average + (1 - d) policy

d by its count k:  copy 0 · ramp min(0.001 k, 0.5) · delayed 0 until k = 75, then min(0.0075 (k - 75), 0.999) · constant · power
min(d, (1 + k) / (w + k)) · linear from d0 to d over w counts · cosine from d0 to d over n counts · warmup_cosine linear 0 to d0 over w
counts, then cosine to d. Source: DiffusionNFT's types 0, 1, 2 (there k counts optimizer updates), Flow-Factory's six (group ema).
Tuned for one clock they are wrong on another, so a schedule names its clock: optimizer `updates` or training `steps`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

T = TypeVar("T")
CLOCKS = ("updates", "steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How fast an average follows. The constants' defaults are the sources'."""

    kind: str = "off"  # off: there is no average; else a name of the module's head
    clock: str = "updates"
    decay: float = 0.9  # d: the final decay of constant, power, linear and the cosines
    initial: float = 0.0  # d0
    warmup: int = 10  # w
    total: int = 1000  # n
    flat: int = 75  # of delayed
    rate: float = 0.0075  # of delayed
    cap: float = 0.999  # of delayed

    def __post_init__(self):
        if self.kind != "off" and self.kind not in _DECAYS:
            raise ValueError(f"the schedule of an average is {self.kind!r}; choose off, {', '.join(_DECAYS)}.")
        if self.clock not in CLOCKS:
            raise ValueError(f"the clock of an average is {self.clock!r}; choose one of {', '.join(CLOCKS)}.")
        if not all(0 <= value <= 1 for value in (self.decay, self.initial, self.cap)) or self.rate < 0:
            raise ValueError(
                f"an average decays by {self.initial} to {self.decay}, at most by {self.cap}, at a rate of {self.rate}; "
                "the first three lie in [0, 1], and no rate is below 0."
            )

    def at(self, count: int) -> float:
        """The decay after `count` ticks of the clock."""
        return _DECAYS[self.kind](self, count)


def mix(average: T, policy: T, decay: Float[Array, ""] | float) -> T:
    """One update of the average, leaf by leaf, at least in float32."""

    def one(a, p):
        wide = jnp.result_type(jnp.float32, a)
        return (decay * a.astype(wide) + (1 - decay) * p.astype(wide)).astype(a.dtype)

    return jax.tree.map(one, average, policy)


def _delayed(s: Schedule, k: int) -> float:
    return 0.0 if k < s.flat else min(s.rate * (k - s.flat), s.cap)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * min(max(share, 0.0), 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    return _between(start, end, (1 - math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2)


def _warmup_cosine(s: Schedule, k: int) -> float:
    if k < s.warmup:
        return _between(0.0, s.initial, k / s.warmup)
    return _cosine(s.initial, s.decay, (k - s.warmup) / max(s.total - s.warmup, 1))


_DECAYS = {
    "copy": lambda s, k: 0.0,
    "ramp": lambda s, k: min(0.001 * k, 0.5),
    "delayed": _delayed,
    "constant": lambda s, k: s.decay,
    "power": lambda s, k: min(s.decay, (1 + k) / (s.warmup + k)),
    "linear": lambda s, k: _between(s.initial, s.decay, k / max(s.warmup, 1)),
    "cosine": lambda s, k: _cosine(s.initial, s.decay, k / max(s.total, 1)),
    "warmup_cosine": _warmup_cosine,
}
