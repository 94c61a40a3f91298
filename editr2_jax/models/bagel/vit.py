"""The vision transformer that sees pictures (SigLIP on patch grids of any shape) and the connector to the decoder's width.

    x = patches W + position[id];  x += attention(norm(x));  x += W2 gelu(W1 norm(x));  features = norm(x)

Letters: B pictures, N patches of one picture, P numbers in a patch, F feature width, D decoder width, H heads.
No class token, no rotary positions. Compute type follows the input; norms and softmax run in float32.
Source: SigLIP, with the patch embedding as a matrix product, as in BAGEL.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models import attention
from editr2_jax.models.bagel.config import VitConfig
from editr2_jax.models.block_mask import InOrder
from editr2_jax.models.execution import HERE, Execution
from editr2_jax.models.layer_norm import LayerNorm
from editr2_jax.models.lora import Linear

_MASKED = -1e30  # finite, so that a picture made of padding alone gives numbers instead of NaN


class Layers(nnx.Module):
    """All layers at once: every parameter has a leading layer axis; `features` scans over it and calls one slice at a time."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs, dtype):
        self.heads = config.heads
        width, stacked = config.width, {"stack": config.layers, "dtype": dtype}
        self.norm_1 = LayerNorm(width, eps=config.eps, **stacked)
        self.q, self.k, self.v, self.o = (Linear(width, width, bias=True, rngs=rngs, **stacked) for _ in range(4))
        self.norm_2 = LayerNorm(width, eps=config.eps, **stacked)
        self.up = Linear(width, config.inner, bias=True, rngs=rngs, **stacked)
        self.down = Linear(config.inner, width, bias=True, rngs=rngs, **stacked)

    def __call__(self, x: Float[Array, "B N F"], valid: Bool[Array, "B N"] | None, run: Execution) -> Float[Array, "B N F"]:
        """One layer; only meaningful on a slice of the stack."""
        x = x + self._attention(self.norm_1(x), valid, run)
        return x + self.down(jax.nn.gelu(self.up(self.norm_2(x)), approximate=True))

    def _attention(self, x: Float[Array, "B N F"], valid: Bool[Array, "B N"] | None, run: Execution) -> Float[Array, "B N F"]:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.q, self.k, self.v))  # [B, N, H, F/H]
        b, n = x.shape[:2]
        if attention.way(run, None, shape=(b, 1, n, self.heads), slots=()) != "plain":
            together = None if valid is None else InOrder(valid=valid[:, None], place=jnp.zeros(n, jnp.int32))
            return self.o(attention.attend(q[:, None], k[:, None], v[:, None], together, (), run)[:, 0])
        score = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
        if valid is not None:
            score = jnp.where(valid[:, None, None, :], score, _MASKED)
        seen = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(score, axis=-1).astype(x.dtype), v)
        return self.o(seen.reshape(x.shape))


class Vit(nnx.Module):
    """Patches in, features out."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.enter = Linear(config.patch_dim, config.width, bias=True, rngs=rngs, dtype=dtype)
        position = jax.random.normal(rngs.params(), (config.side**2, config.width), dtype)
        self.position = nnx.Param(position * jnp.asarray(0.02, dtype))
        self.layers = Layers(config, rngs=rngs, dtype=dtype)
        self.norm = LayerNorm(config.width, eps=config.eps, dtype=dtype)

    def features(
        self,
        patches: Float[Array, "B N P"],
        position_ids: Int[Array, "*B N"],
        valid: Bool[Array, "B N"] | None = None,
        *,
        run: Execution = HERE,
    ) -> Float[Array, "B N F"]:
        """Features of every patch; each picture attends to itself alone.

        Args:
            patches: pixels in [-1, 1], cut by pixels.patchify.
            position_ids: rows of the learned table, one list for all pictures ([N]) or one per picture ([B, N]).
            valid: False for padding, which no patch sees; features of padding mean nothing.
            run: how attention runs; a picture of 512 pixels has 1369 patches, whose scores take 120 MB a layer.
        """
        x = self.enter(patches)
        x = x + self.position[...][position_ids].astype(x.dtype)  # [B, N, F]
        graph, stacked = nnx.split(self.layers)

        def layer(hidden, parameters):
            return run.constrain(nnx.merge(graph, parameters)(hidden, valid, run).astype(hidden.dtype), "batch"), None

        x, _ = jax.lax.scan(layer, run.constrain(x, "batch"), stacked)
        return self.norm(x)


class Connector(nnx.Module):
    """Features to the decoder's width: two matrices with a tanh-gelu between."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.enter = Linear(inputs, width, bias=True, rngs=rngs, dtype=dtype)
        self.leave = Linear(width, width, bias=True, rngs=rngs, dtype=dtype)

    def __call__(self, features: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        return self.leave(jax.nn.gelu(self.enter(features), approximate=True))
