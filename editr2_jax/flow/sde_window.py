"""The window: which few steps of a rollout are stochastic; all others follow the ODE.

    random   start ~ uniform on first .. last - size, both ends included    Edit-R2, Flow-GRPO-Fast; size 2 in 0..7: starts 0..5
    sliding  start = first, first + stride, ..., last - size, each for `period` iterations, then from first again    MixGRPO
    fixed    start = first
    subset   `size` of the steps first .. last - 1, without replacement     Flow-Factory; size 1: one step, as in R3
    full     all of the steps first .. last - 1                             Flow-GRPO

Letters: B rows, W stochastic steps. Draws come from keys that the caller cuts by iteration, a sliding window from the iteration's number:
never from a process, whose rank keeps one window for a whole run in Edit-R2. A window has W steps wherever it stands, and some window holds
the range's last step; MixGRPO's shrinks towards the end, is empty there for a whole period, and never holds it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

KINDS = ("random", "sliding", "fixed", "subset", "full")
SHARES = ("group", "batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which steps are stochastic, and who shares a draw."""

    kind: str = "random"  # one of KINDS
    size: int = 2  # stochastic steps W; 0 draws without noise, whatever the kind; full takes its whole range
    first: int = 0  # first step that may be stochastic
    last: int = 7  # end of the range, exclusive
    share: str = "group"  # random and subset: group: each turn of each session draws its own; batch: one window for the whole iteration
    period: int = 25  # sliding: iterations at one place
    stride: int = 1  # sliding: steps between two places; 0 never moves
    roll_back: bool = True  # sliding: from the last place back to the first; False stays there
    decay: float = 0.0  # sliding: a place at start s keeps the window ceil(period exp(-decay (s - decay_from))) iterations
    decay_from: int = 0  # and a place before this one for `period`

    def __post_init__(self):
        for name, known in (("kind", KINDS), ("share", SHARES)):
            if getattr(self, name) not in known:
                raise ValueError(f"WindowConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if self.size < 0 or self.period < 1 or self.stride < 0 or self.decay < 0:
            raise ValueError(
                f"WindowConfig: size {self.size}, period {self.period}, stride {self.stride}, decay {self.decay}; "
                "give a period of at least 1, and nothing below 0."
            )
        if self.size:
            starts(self.first, self.last, self.count)

    @property
    def count(self) -> int:
        """W."""
        return self.last - self.first if self.kind == "full" and self.size else self.size


def starts(first: int, last: int, size: int) -> range:
    """Where a window of `size` steps may begin so that it lies in first .. last - 1.

    Raises:
        ValueError: it fits nowhere.
    """
    if first < 0 or size < 1 or last - size < first:
        raise ValueError(f"no window of {size} steps fits into steps {first}..{last - 1}: want size >= 1 and 0 <= first <= last - size.")
    return range(first, last - size + 1)


def draw(key: PRNGKeyArray, first: int, last: int, size: int) -> Int[Array, ""]:
    """A start, uniform on `starts`. Raises ValueError as `starts` does."""
    places = starts(first, last, size)
    return jax.random.randint(key, (), places.start, places.stop, dtype=jnp.int32)


def subset(key: PRNGKeyArray, first: int, last: int, size: int) -> Int[Array, " size"]:
    """`size` different steps of first .. last - 1, ascending; every subset is equally likely. Raises ValueError as `starts` does."""
    starts(first, last, size)
    return jnp.sort(jax.random.permutation(key, jnp.arange(first, last, dtype=jnp.int32))[:size])


def slide(
    iteration: int,
    *,
    first: int,
    last_start: int,
    period: int,
    stride: int,
    roll_back: bool,
    decay: float = 0.0,
    decay_from: int = 0,
    to_the_end: bool = False,
) -> int:
    """Where a sliding window starts at an iteration, counted from 0; never beyond last_start.

    A last move that would go too far is cut short where the window stays there, and with `to_the_end` also where it rolls back.
    With last_start = N - 2 in place of last - size, and steps from there on cut off, this is MixGRPO's schedule, also its `exp_decay`.
    """
    places = list(range(first, last_start + 1, stride)) if stride else [first]
    if stride and (to_the_end or not roll_back) and places[-1] < last_start:
        places.append(last_start)
    stay = np.ceil(period * np.exp(-decay * np.maximum(0, np.array(places) - decay_from))).astype(int)
    leave = np.cumsum(stay)  # iterations at which the window moves on
    passed = np.searchsorted(leave, iteration % leave[-1] if roll_back else iteration, side="right")
    return places[min(int(passed), len(places) - 1)]


def steps(window: WindowConfig, keys: PRNGKeyArray, iteration: int | None = None) -> Int[Array, "B W"]:
    """The stochastic steps of every row, ascending; `keys` holds a key per row, equal where rows share a draw.

    Raises:
        ValueError: the window slides and the iteration is not told.
    """
    rows, size = keys.shape[0], window.count
    if not size:
        return jnp.zeros((rows, 0), jnp.int32)
    if window.kind == "subset":
        return jax.vmap(lambda key: subset(key, window.first, window.last, size))(keys)
    if window.kind == "random":
        start = jax.vmap(lambda key: draw(key, window.first, window.last, size))(keys)
    else:
        start = jnp.full((rows,), _place(window, iteration), jnp.int32)
    return start[:, None] + jnp.arange(size, dtype=jnp.int32)


def _place(window: WindowConfig, iteration: int | None) -> int:
    """Start of a window that nobody draws."""
    if window.kind != "sliding":
        return window.first
    if iteration is None:
        raise ValueError("a sliding window moves with the iterations; say which one this is.")
    return slide(
        iteration,
        first=window.first,
        last_start=starts(window.first, window.last, window.size)[-1],
        period=window.period,
        stride=window.stride,
        roll_back=window.roll_back,
        decay=window.decay,
        decay_from=window.decay_from,
        to_the_end=True,
    )


def contains(steps: Int[Array, "*B W"], step: Int[Array, ""] | int) -> Bool[Array, "*B"]:
    """True where `step` is one of the row's stochastic steps; with W = 0 it never is."""
    return (steps == step).any(axis=-1)
