"""The coefficient-preserving step: after it the noise level is exactly t', so a picture is never left grainy.

    std = t' sin(eta pi/2),    mean = (1-t') clean + t' |cos(eta pi/2)| noise,    log_prob = -mean_d (x' - mean)^2

Letters: B rows; eta noise_level in [0, 1] (0.8 is Flow-GRPO's; beyond 1 the noise falls again). Times are scalars or [B].
clean and noise are what v implies.
The published score is not divided by 2 std^2, which scales every log ratio by 2 std^2; `Kernel.scaled` gives the true Gaussian.
The last step (t' = 0) has no spread and is deterministic. Source: Flow-GRPO, Edit-R2.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.flow import rectified_flow, transition

Time = Float[Array, "*B"] | float


def moments(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Time, t_next: Time, *, noise_level: Time, t_guard: Time
) -> transition.Moments:
    """Mean and spread of the step from t to t_next; here sigma is the spread itself. t_guard is not needed.

    t_next is the grid's next time also for a window's last step.
    """
    x, v, t, t_next, eta = rectified_flow.working(x, v, t, t_next, noise_level)
    angle = eta * (jnp.pi / 2)
    std = jnp.broadcast_to(t_next * jnp.sin(angle), x.shape[:1])
    keep_clean = rectified_flow.per_row(1 - t_next, x)
    keep_noise = rectified_flow.per_row(t_next * jnp.abs(jnp.cos(angle)), x)  # = sqrt(t'^2 - std^2)
    mean = keep_clean * rectified_flow.clean_from(x, v, t) + keep_noise * rectified_flow.noise_from(x, v, t)
    return transition.Moments(mean=mean, std=std, sigma=std)
