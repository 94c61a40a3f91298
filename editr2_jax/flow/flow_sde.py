"""Flow-GRPO's stochastic step: the flow's ODE turned into an SDE with the same marginals.

    sigma = eta sqrt(t / (1 - g)),    g = t, except g = the grid's second time where t = 1
    mean = x + [ v + sigma^2/(2t) (x + (1-t) v) ] (t' - t),    std = sigma sqrt(t - t')

Letters: B rows; eta noise_level; g t_guard. Times are scalars or [B]. Source: Flow-GRPO, Edit-R2.
The guard keeps t = 1 finite and leaves a little too much noise there (std = eta): prefer windows that start at step 1 or later.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow, transition

Time = Float[Array, "*B"] | float


def moments(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Time, t_next: Time, *, noise_level: Time, t_guard: Time
) -> transition.Moments:
    """Mean and spread of the step from t to t_next. noise_level 0 is the Euler step with no spread."""
    x, v, t, t_next, eta, t_guard = rectified_flow.working(x, v, t, t_next, noise_level, t_guard)
    per_time = 1 / (1 - jnp.where(t >= 1, t_guard, t))  # sigma^2 = eta^2 t per_time, so sigma^2/(2t) needs no division by t
    rows = x.shape[:1]
    sigma = jnp.broadcast_to(eta * jnp.sqrt(t * per_time), rows)
    std = jnp.broadcast_to(sigma * jnp.sqrt(t - t_next), rows)
    pull = rectified_flow.per_row(jnp.square(eta) * per_time / 2, x)
    drift = v + pull * rectified_flow.noise_from(x, v, t)
    return transition.Moments(mean=x + drift * rectified_flow.per_row(t_next - t, x), std=std, sigma=sigma)
