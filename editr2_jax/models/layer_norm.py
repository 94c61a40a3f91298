"""Layer norm as vision transformers have it. Letters: B rows, F width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class LayerNorm(nnx.Module):
    """Mean and variance over the features, in float32."""

    def __init__(self, width: int, *, eps: float, stack: int | None = None, dtype):
        shape = (width,) if stack is None else (stack, width)
        self.scale = nnx.Param(jnp.ones(shape, dtype))
        self.bias = nnx.Param(jnp.zeros(shape, dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (normed * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)
