"""From noise to picture: the loop over the grid, with a few stochastic steps that are recorded as they happen.

Letters: B rows, N latent tokens, C numbers in a token, S steps, W stochastic steps.
One loop body serves every step, so a window may start anywhere without a new compilation; only the window is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from editr2_jax.flow import kernels, sde_window


class Trajectory(NamedTuple):
    """The stochastic steps of a rollout: all that the loss replays."""

    latents: Float[Array, "B W+1 N C"]  # before the first stochastic step, then after each
    log_prob: Float[Array, "B W"]
    t: Float[Array, "B W"]
    t_next: Float[Array, "B W"]
    step: Int[Array, "B W"]  # index into the grid


class Denoised(NamedTuple):
    latent: Float[Array, "B N C"]  # at t = 0
    trajectory: Trajectory


def run(
    velocity: Callable[[Float[Array, "B N C"], Float[Array, ""], Int[Array, ""]], Float[Array, "B N C"]],
    noise: Callable[[Int[Array, ""]], Float[Array, "B N C"]],
    x: Float[Array, "B N C"],
    *,
    grid: Float[Array, " S+1"],
    kernel: kernels.Kernel,
    start: Int[Array, "*B"] | int = 0,
    size: int = 0,
) -> Denoised:
    """Walks x from grid[0] to grid[-1].

    Args:
        velocity: the (guided) velocity from (x, t, step); t and step are traced scalars.
        noise: standard normal numbers for a step, shaped as x; never called when size is 0.
        start, size: the window of stochastic steps; start may be traced, and differ per row. size 0 is the plain ODE.

    Raises:
        ValueError: the window is longer than the grid. (A start so late that the window runs over the end leaves zeros in its last slots.)
    """
    steps = grid.shape[0] - 1
    if size > steps:
        raise ValueError(f"a window of {size} stochastic steps does not fit into a grid of {steps} steps.")
    rows = x.shape[0]
    x = x.astype(jnp.result_type(jnp.float32, x.dtype))
    start = jnp.broadcast_to(jnp.asarray(start, jnp.int32), (rows,))
    slots = start[:, None] + jnp.arange(size + 1)  # [B, W+1] step before which each slot's latent is seen

    def keep(store: Array, value: Array, index: Int[Array, ""], slots: Array) -> Array:
        """Writes value[B, ...] into the slot of this index, where the row has one."""
        hit = (slots == index).reshape(slots.shape + (1,) * (value.ndim - 1))
        return jnp.where(hit, value[:, None].astype(store.dtype), store)

    def body(carry, index):
        x, latents, log_prob = carry
        t, t_next = grid[index], grid[index + 1]
        eps = noise(index) if size else jnp.zeros_like(x)
        inside = sde_window.contains(index, start, size)
        taken = kernel.step(x, velocity(x, t, index), t, t_next, t_guard=grid[1], eps=eps, stochastic=inside)
        x_next = taken.next.astype(x.dtype)
        return (x_next, keep(latents, x_next, index + 1, slots), keep(log_prob, taken.log_prob, index, slots[:, :size])), None

    latents = keep(jnp.zeros((rows, size + 1, *x.shape[1:]), x.dtype), x, jnp.int32(0), slots)
    log_prob = jnp.zeros((rows, size), x.dtype)
    (x, latents, log_prob), _ = jax.lax.scan(body, (x, latents, log_prob), jnp.arange(steps))
    taken_steps = slots[:, :size]
    return Denoised(x, Trajectory(latents, log_prob, grid[taken_steps], grid[taken_steps + 1], taken_steps))
