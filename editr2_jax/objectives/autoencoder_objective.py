"""The autoencoder's objective: give back the picture, and keep the latents near a standard normal.

    loss = mean |p - p'| + square_weight * mean (p - p')^2 + kl_weight * mean_latent ½ (m^2 + s^2 - 1 - log s^2)

Letters: B pictures, H x W pixels. Pictures are in [-1, 1]; m, s are the encoder's mean and spread. Source: the usual objective of latent
diffusion autoencoders, without its perceptual and adversarial terms, which small synthetic pictures do not need.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from editr2_jax.models.bagel import pixels
from editr2_jax.models.bagel.vae import Autoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Settings of the autoencoder's objective."""

    square_weight: float = 4.0
    kl_weight: float = 1e-4


def loss(
    vae: Autoencoder, picture: UInt8[Array, "B H W 3"], *, key: jax.Array, config: AutoencoderConfig
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics of a batch of pictures, decoded from sampled latents."""
    wanted = pixels.normalise(picture).astype(vae.dtype)
    mean, log_variance = vae.moments(wanted)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    got = vae.decode(vae.sample(wanted, noise))
    gap = jnp.abs(got - wanted)
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
    metrics = {"autoencoder/l1": gap.mean(), "autoencoder/l2": jnp.square(gap).mean(), "autoencoder/kl": kl}
    return metrics["autoencoder/l1"] + config.square_weight * metrics["autoencoder/l2"] + config.kl_weight * kl, metrics
