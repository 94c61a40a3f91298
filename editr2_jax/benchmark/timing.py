"""Stopwatch and yardstick: the best of a few runs, and the rate of plain matrix products on this machine, now."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MATRIX_SIDES = (1024, 2048)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call."""

    best: float
    median: float
    first: float  # the first call's excess over the best: tracing and compiling


def measure(call: Callable[[], Any], *, repeats: int) -> Timing:
    """Calls once to compile, then `repeats` times. The call returns arrays; it is over when they are there."""
    first = _seconds(call)
    times = [_seconds(call) for _ in range(repeats)]
    return Timing(best=min(times), median=statistics.median(times), first=max(first - min(times), 0.0))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def matrix_rates(*, repeats: int) -> dict[int, float]:
    """GFLOP/s of float32 products of square matrices, by their side: the best of several."""
    product = jax.jit(jnp.matmul)
    rng, rates = np.random.default_rng(0), {}
    for side in MATRIX_SIDES:
        a, b = (jnp.asarray(rng.standard_normal((side, side), np.float32)) for _ in range(2))
        rates[side] = 2 * side**3 / measure(lambda a=a, b=b: product(a, b), repeats=repeats).best / 1e9
    return rates
