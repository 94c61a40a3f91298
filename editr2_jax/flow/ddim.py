"""DDIM with a dial: eta 0 is the ODE, eta 1 forgets as much of the old noise as a step of this length can replace.

    std = eta t' sqrt(1 - q^2),    q = t'(1-t) / (t (1-t')),    mean = (1-t') clean + sqrt(t'^2 - std^2) noise

Letters: B rows; eta noise_level in [0, 1]. Times are scalars or [B]. clean and noise are what v implies.
Like `cps` it leaves a noise level of exactly t'; from t = 1, where q is 0, the two differ in the dial alone. The last step (t' = 0) has
no spread and is deterministic. Source: DiffusionNFT's solver.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow, transition

Time = Float[Array, "*B"] | float


def moments(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Time, t_next: Time, *, noise_level: Time, t_guard: Time
) -> transition.Moments:
    """Mean and spread of the step from t > 0 to t_next < 1; here sigma is the spread itself. t_guard is not needed."""
    x, v, t, t_next, eta = rectified_flow.working(x, v, t, t_next, noise_level)
    less = (t - t_next) / (t * (1 - t_next))  # 1 - q, without the cancellation that 1 - q^2 has where steps are short
    fresh = jnp.square(eta) * less * (2 - less)  # share of the variance t'^2 that is drawn anew
    std = jnp.broadcast_to(t_next * jnp.sqrt(fresh), x.shape[:1])
    keep_noise = t_next * jnp.sqrt(jnp.maximum(1 - fresh, 0))  # rounding may reach beyond 1 at t = 1, eta = 1
    mean = rectified_flow.per_row(1 - t_next, x) * rectified_flow.clean_from(x, v, t)
    mean = mean + rectified_flow.per_row(keep_noise, x) * rectified_flow.noise_from(x, v, t)
    return transition.Moments(mean=mean, std=std, sigma=std)
