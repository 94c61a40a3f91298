"""How far the policy has moved from the reference: between two Gaussian steps of one spread, between velocities, and per token.

    exact     mean_d (mean - mean_ref)^2 / (2 std^2)       the Gaussian KL per number; std = sigma sqrt(t - t')
    latent    mean_d (mean - mean_ref)^2 / (2 sigma^2)     what Flow-GRPO and Edit-R2 compute: smaller by the factor t - t'
    velocity  mean_d (v - v_ref)^2
    k1 = q - p,    k2 = (q - p)^2 / 2,    k3 = exp(p - q) - (p - q) - 1        q, p: log_prob of policy and reference

Letters: B rows. The reference is a constant: no gradient flows into it.
As a loss on the policy's own tokens k1 has no expected gradient; k2 has that of KL(policy, reference), k3 that of KL(reference, policy).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def latent(mean: Float[Array, "B ..."], mean_ref: Float[Array, "B ..."], sigma: Float[Array, " B"]) -> Float[Array, " B"]:
    """The latent KL as implemented by the sources; 0 for a step without noise."""
    return _over_twice_variance(_squared_gap(mean, mean_ref), sigma)


def exact(mean: Float[Array, "B ..."], mean_ref: Float[Array, "B ..."], std: Float[Array, " B"]) -> Float[Array, " B"]:
    """The KL of the two transitions, per number of the latent; 0 for a step without noise."""
    return _over_twice_variance(_squared_gap(mean, mean_ref), std)


def velocity(v: Float[Array, "B ..."], v_ref: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """The mean squared gap of velocities; independent of the noise."""
    return _squared_gap(v, v_ref)


def k1(log_prob: Float[Array, "*shape"], ref_log_prob: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The log ratio: unbiased as a measurement, useless as a loss."""
    return -_to_reference(log_prob, ref_log_prob)


def k2(log_prob: Float[Array, "*shape"], ref_log_prob: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Half the squared log ratio."""
    return jnp.square(_to_reference(log_prob, ref_log_prob)) / 2


def k3(log_prob: Float[Array, "*shape"], ref_log_prob: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Never negative, low variance."""
    gap = _to_reference(log_prob, ref_log_prob)
    return jnp.expm1(gap) - gap


def _to_reference(log_prob: Array, ref_log_prob: Array) -> Array:
    dtype = jnp.result_type(jnp.float32, log_prob, ref_log_prob)
    return jax.lax.stop_gradient(ref_log_prob).astype(dtype) - log_prob.astype(dtype)


def _squared_gap(a: Array, b: Array) -> Float[Array, " B"]:
    dtype = jnp.result_type(jnp.float32, a, b)
    gap = a.astype(dtype) - jax.lax.stop_gradient(b).astype(dtype)
    return jnp.square(gap).reshape(gap.shape[0], -1).mean(axis=1)


def _over_twice_variance(square: Float[Array, " B"], spread: Float[Array, " B"]) -> Float[Array, " B"]:
    spread = jnp.broadcast_to(jnp.asarray(spread), square.shape)
    live = spread > 0
    return jnp.where(live, square / (2 * jnp.square(jnp.where(live, spread, 1.0))), 0.0)
