"""One step of the sampler as a Gaussian: what every kernel shares, and what sampler and loss both call.

    x' = mean + std eps                                        a draw
    log_prob = -1/D sum_d (x'_d - mean_d)^2 / (2 std^2)        its score: a mean over the D numbers of a row, without constants

The mean (never the sum) makes the ratio a geometric mean per number; hence clip widths of 1e-5. Constants cancel in every ratio.
Letters: B rows. Source: Flow-GRPO and Edit-R2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from editr2_jax.flow import rectified_flow


class Moments(NamedTuple):
    """A transition's mean and spread."""

    mean: Float[Array, "B ..."]
    std: Float[Array, " B"]  # of the whole transition
    sigma: Float[Array, " B"]  # the diffusion coefficient that the reference reports: without sqrt(t - t'), where a kernel has it


class Step(NamedTuple):
    """A step taken. Where it was not stochastic: the Euler step, std = sigma = 0 and log_prob = 0."""

    next: Float[Array, "B ..."]
    mean: Float[Array, "B ..."]
    std: Float[Array, " B"]
    sigma: Float[Array, " B"]
    log_prob: Float[Array, " B"]


class Density(NamedTuple):
    """A given step, scored."""

    log_prob: Float[Array, " B"]
    mean: Float[Array, "B ..."]
    std: Float[Array, " B"]
    sigma: Float[Array, " B"]


def log_density(
    x_next: Float[Array, "B ..."], mean: Float[Array, "B ..."], std: Float[Array, " B"], *, scaled: bool = True
) -> Float[Array, " B"]:
    """Gaussian log density of x_next without constants, averaged over a row; 0 where std is 0, with a gradient of 0.

    x_next is a stored number: no gradient flows into it.
    scaled=False is the bare negative squared distance (CPS as published), whatever std is.
    """
    distance = jax.lax.stop_gradient(x_next) - mean
    if scaled:
        spread = rectified_flow.per_row(std, mean)
        live = spread > 0  # without this guard an ODE step is 0/0, and its NaN reaches the gradient even through a where
        distance = jnp.where(live, distance, 0.0) / jnp.where(live, spread, 1.0)
    score = -jnp.square(distance) / (2 if scaled else 1)
    return score.reshape(score.shape[0], -1).mean(axis=1)


def draw(
    moments: Moments, euler: Float[Array, "B ..."], eps: Float[Array, "B ..."], stochastic: Bool[Array, "*B"] | bool, *, scaled: bool = True
) -> Step:
    """Draws from the moments where `stochastic` (scalar or [B], may be traced), else takes the Euler step."""
    mean, std, sigma = moments
    stochastic = jnp.broadcast_to(jnp.asarray(stochastic, bool), std.shape)
    std = jnp.where(stochastic, std, 0.0)
    sigma = jnp.where(stochastic, sigma, 0.0)
    noisy = rectified_flow.per_row(std > 0, mean)
    mean = jnp.where(noisy, mean, euler)
    x_next = jnp.where(noisy, mean + rectified_flow.per_row(std, mean) * eps.astype(mean.dtype), euler)
    return Step(next=x_next, mean=mean, std=std, sigma=sigma, log_prob=log_density(x_next, mean, std, scaled=scaled))


def score(moments: Moments, x_next: Float[Array, "B ..."], *, scaled: bool = True) -> Density:
    """The density of a recorded step under these moments: the arithmetic of `draw`, so a fresh draw has ratio one."""
    mean, std, sigma = moments
    return Density(log_prob=log_density(x_next, mean, std, scaled=scaled), mean=mean, std=std, sigma=sigma)
