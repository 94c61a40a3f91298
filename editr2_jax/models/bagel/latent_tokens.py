"""Latent tokens: latents enter the decoder, velocities leave it.

Letters: B rows, R variants, L latent tokens, C numbers in a token, D width.

    h = W_in x + time(t) + position[row * side + col]        velocity = W_out h'
    time(t) = W2 silu(W1 [cos(t f), sin(t f)])               f_i = 10000^(-i/128), t in [0, 1] taken as it is

Source: BAGEL's published model definition.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from editr2_jax.models.bagel import positions
from editr2_jax.models.lora import Linear

TIME_CHANNELS = 256


class LatentTokens(nnx.Module):
    """The projections around the decoder and the tables that tell a latent token its place and its time."""

    def __init__(self, *, width: int, token_dim: int, side: int, rngs: nnx.Rngs, dtype=jnp.float32):
        self.enter = Linear(token_dim, width, bias=True, rngs=rngs, dtype=dtype)
        self.leave = Linear(width, token_dim, bias=True, rngs=rngs, dtype=dtype)
        self.time_in = Linear(TIME_CHANNELS, width, bias=True, rngs=rngs, dtype=dtype)
        self.time_out = Linear(width, width, bias=True, rngs=rngs, dtype=dtype)
        self.pos = positions.Table(jnp.asarray(positions.sincos_table(width, side), dtype))

    def time(self, t: Float[Array, "*B"]) -> Float[Array, "*B D"]:
        """Embedding of a time in [0, 1]; the sinusoids are float32."""
        features = positions.timestep_features(t, TIME_CHANNELS)
        return self.time_out(jax.nn.silu(self.time_in(features.astype(self.time_in.w.dtype))))

    def embed(self, x: Float[Array, "B R L C"], t: Float[Array, "B R"], position_ids: Int[Array, "L"]) -> Float[Array, "B R L D"]:
        """Hidden states of latent tokens at time t."""
        h = self.enter(x.astype(self.enter.w.dtype))
        return h + self.time(t)[:, :, None, :].astype(h.dtype) + self.pos[...][position_ids].astype(h.dtype)

    def velocity(self, hidden: Float[Array, "B R L D"]) -> Float[Array, "B R L C"]:
        """noise - clean, in float32: the flow maths runs there."""
        return self.leave(hidden).astype(jnp.float32)
