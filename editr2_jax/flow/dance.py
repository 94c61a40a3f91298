"""The SDE step with one noise level for all times: `flow_sde` with sigma = eta instead of a sigma that falls with t.

    mean = x + [ v + eta^2/(2 t^2) (x - (1-t) clean) ] (t' - t),    std = eta sqrt(t - t')

x - (1-t) clean is t times the noise that v implies, so one t cancels. What is left is singular towards t = 0, where no step starts; a step
from t is at most t long, so it takes away at most eta^2/2 of that noise.
Letters: B rows; eta noise_level, 0.3 by default in the references. Times are scalars or [B].
Source: DanceGRPO, MixGRPO, Flow-Factory; there the constants of the density are lost or kept, here as everywhere left out.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow, transition

Time = Float[Array, "*B"] | float


def moments(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Time, t_next: Time, *, noise_level: Time, t_guard: Time
) -> transition.Moments:
    """Mean and spread of the step from t > 0 to t_next; t = 1 is as good as any, so t_guard is not needed."""
    x, v, t, t_next, eta = rectified_flow.working(x, v, t, t_next, noise_level)
    rows = x.shape[:1]
    std = jnp.broadcast_to(eta * jnp.sqrt(t - t_next), rows)
    pull = rectified_flow.per_row(jnp.square(eta) / (2 * t), x)
    drift = v + pull * rectified_flow.noise_from(x, v, t)
    mean = x + drift * rectified_flow.per_row(t_next - t, x)
    return transition.Moments(mean=mean, std=std, sigma=jnp.broadcast_to(eta, rows))
