"""From noise to picture: the loop over the grid, with a few stochastic steps that are recorded as they happen.

Letters: B rows, N latent tokens, C numbers in a token, S steps, W stochastic steps.
One loop body serves every step, so a window may lie anywhere without a new compilation, in one piece or not; only its steps are kept.
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

    x: Float[Array, "B W N C"]  # before each stochastic step
    x_next: Float[Array, "B W N C"]  # and after it
    log_prob: Float[Array, "B W"]
    t: Float[Array, "B W"]
    t_next: Float[Array, "B W"]  # the grid's next time, also for a window's last step
    step: Int[Array, "B W"]  # index into the grid, ascending


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
    steps: Int[Array, "B W"] | None = None,
) -> Denoised:
    """Walks x from grid[0] to grid[-1].

    Args:
        velocity: the (guided) velocity from (x, t, step); t and step are traced scalars.
        noise: standard normal numbers for a step, shaped as x; never called when there are no stochastic steps.
        steps: the stochastic steps of every row, each once; they may be traced, and differ per row. None, or W = 0, is the plain ODE.

    Raises:
        ValueError: more stochastic steps than the grid has. (One beyond its end leaves zeros in its slot.)
    """
    rows, total = x.shape[0], grid.shape[0] - 1
    steps = jnp.zeros((rows, 0), jnp.int32) if steps is None else jnp.asarray(steps, jnp.int32)
    size = steps.shape[1]
    if size > total:
        raise ValueError(f"a window of {size} stochastic steps does not fit into a grid of {total} steps.")
    x = x.astype(jnp.result_type(jnp.float32, x.dtype))

    def keep(store: Array, value: Array, index: Int[Array, ""]) -> Array:
        """Writes value[B, ...] into the slot of this step, where the row has one."""
        hit = (steps == index).reshape(steps.shape + (1,) * (value.ndim - 1))
        return jnp.where(hit, value[:, None].astype(store.dtype), store)

    def body(carry, index):
        x, kept = carry
        t, t_next = grid[index], grid[index + 1]
        eps = noise(index) if size else jnp.zeros_like(x)
        inside = sde_window.contains(steps, index)
        taken = kernel.step(x, velocity(x, t, index), t, t_next, t_guard=grid[1], eps=eps, stochastic=inside)
        x_next = taken.next.astype(x.dtype)
        return (x_next, [keep(*pair, index) for pair in zip(kept, (x, x_next, taken.log_prob), strict=True)]), None

    latents = jnp.zeros((rows, size, *x.shape[1:]), x.dtype)
    kept = [latents, latents, jnp.zeros((rows, size), x.dtype)]
    (clean, kept), _ = jax.lax.scan(body, (x, kept), jnp.arange(total))
    return Denoised(clean, Trajectory(*kept, t=grid[steps], t_next=grid[steps + 1], step=steps))
