"""DINOv3's vision transformer: pictures in, one CLS token, registers and a grid of patches out.

    x = [cls, registers, patches W + b]
    x += s1 attention(norm(x));  x += s2 mlp(norm(x));  tokens = norm(x)
    mlp(x) = down act(up x),  or gated:  down (act(gate x) * up x)

Patches have rotary positions, CLS and registers none: the centre of patch (i, j) of an h x w grid is at y = 2 (i + 1/2) / h - 1 and
x = 2 (j + 1/2) / w - 1, each side on its own scale, and turns channel pairs by 2 pi y f_k, then 2 pi x f_k, with f_k = theta^(-4k/d) for
k = 0..d/4-1. So a model works at any size of pictures.
Letters: N pictures, H W pixels, h w patches, P side of a patch, T = 1 + registers + h w tokens, D width, d head width.
Source: DINOv3 (arXiv 2508.10104), as in transformers' DINOv3ViTModel outside of training (its mask token and augmented positions unused).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from editr2_jax.models import attention
from editr2_jax.models.dinov3.config import DinoV3Config
from editr2_jax.models.execution import HERE, Execution
from editr2_jax.models.layer_norm import LayerNorm
from editr2_jax.models.lora import Linear

_ACTIVATIONS = {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "silu": jax.nn.silu}


class Enter(nnx.Module):
    """Patches to tokens: a convolution whose stride is its window."""

    def __init__(self, patch: int, width: int, *, rngs: nnx.Rngs, dtype):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (patch, patch, 3, width), dtype) * jnp.asarray(0.02, dtype))
        self.b = nnx.Param(jnp.zeros((width,), dtype))

    def __call__(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N h w D"]:
        """Raises ValueError when a side is no multiple of the patch (transformers drops the rest in silence)."""
        n, height, width, _ = pictures.shape
        p = self.w.shape[0]
        if not height or not width or height % p or width % p:
            raise ValueError(f"DINOv3 wants pictures whose sides are multiples of {p} pixels, got {height}x{width}; resize them first.")
        cut = pictures.astype(self.w.dtype).reshape(n, height // p, p, width // p, p, 3)
        return jnp.einsum("nhpwqc,pqcd->nhwd", cut, self.w[...]) + self.b[...]


class Layers(nnx.Module):
    """All layers at once: every parameter has a leading layer axis; `DinoV3` scans over it and calls one slice at a time."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs, dtype):
        self.config = config
        width, inner, stacked = config.width, config.inner, {"stack": config.layers, "dtype": dtype}
        linear = lambda inputs, outputs, bias: Linear(inputs, outputs, bias=bias, rngs=rngs, **stacked)  # noqa: E731
        scale = lambda: nnx.Param(jnp.ones((config.layers, width), dtype))  # noqa: E731
        self.norm_1 = LayerNorm(width, eps=config.eps, **stacked)
        self.q, self.k = linear(width, width, config.query_bias), linear(width, width, config.key_bias)
        self.v, self.o = linear(width, width, config.value_bias), linear(width, width, config.proj_bias)
        self.scale_1 = scale()
        self.norm_2 = LayerNorm(width, eps=config.eps, **stacked)
        self.gate = linear(width, inner, config.mlp_bias) if config.gated else None
        self.up, self.down = linear(width, inner, config.mlp_bias), linear(inner, width, config.mlp_bias)
        self.scale_2 = scale()

    def __call__(self, x: Float[Array, "N T D"], turn: tuple[Array, Array], run: Execution) -> Float[Array, "N T D"]:
        """One layer; only meaningful on a slice of the stack."""
        x = x + self._attention(self.norm_1(x), turn, run) * self.scale_1[...]
        return x + self._mlp(self.norm_2(x)) * self.scale_2[...]

    def _attention(self, x: Float[Array, "N T D"], turn: tuple[Array, Array], run: Execution) -> Float[Array, "N T D"]:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.config.heads, -1) for layer in (self.q, self.k, self.v))  # [N, T, heads, d]
        q, k = attention.rotate(q, *turn), attention.rotate(k, *turn)
        return self.o(attention.attend(q[:, None], k[:, None], v[:, None], None, (), run)[:, 0])

    def _mlp(self, x: Float[Array, "N T D"]) -> Float[Array, "N T D"]:
        act = _ACTIVATIONS[self.config.activation]
        return self.down(act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x))


class DinoV3(nnx.Module):
    """Normalised pictures in, tokens out."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.enter = Enter(config.patch, config.width, rngs=rngs, dtype=dtype)
        self.cls = nnx.Param(jax.random.normal(rngs.params(), (1, 1, config.width), dtype) * jnp.asarray(0.02, dtype))
        self.registers = nnx.Param(jax.random.normal(rngs.params(), (1, config.registers, config.width), dtype) * jnp.asarray(0.02, dtype))
        self.layers = Layers(config, rngs=rngs, dtype=dtype)
        self.norm = LayerNorm(config.width, eps=config.eps, dtype=dtype)

    def tokens(self, pictures: Float[Array, "N H W 3"], *, run: Execution = HERE) -> Float[Array, "N T D"]:
        """CLS, registers and patches row by row, after the last norm; the order of transformers' last_hidden_state."""
        patches = self.enter(pictures)
        n, h, w, _ = patches.shape
        first = [jnp.broadcast_to(token[...], (n, *token.shape[1:])) for token in (self.cls, self.registers)]
        x = jnp.concatenate([*first, patches.reshape(n, h * w, -1)], axis=1)  # [N, T, D]
        turn = rotary_table(self.config, h, w)
        graph, stacked = nnx.split(self.layers)

        def layer(hidden, parameters):
            return run.constrain(nnx.merge(graph, parameters)(hidden, turn, run).astype(hidden.dtype), "batch"), None

        x, _ = jax.lax.scan(layer, run.constrain(x, "batch"), stacked)
        return self.norm(x)

    def features(self, pictures: Float[Array, "N H W 3"], *, run: Execution = HERE) -> tuple[Float[Array, "N D"], Float[Array, "N h w D"]]:
        """CLS, and the patches on their grid; the registers are left out."""
        tokens, side = self.tokens(pictures, run=run), self.config.patch
        n, height, width, _ = pictures.shape
        return tokens[:, 0], tokens[:, self.config.prefix :].reshape(n, height // side, width // side, -1)


def rotary_table(config: DinoV3Config, h: int, w: int) -> tuple[Float[Array, "T d/2"], Float[Array, "T d/2"]]:
    """Cosines and sines of every token's turn; CLS and registers do not turn."""
    d = config.width // config.heads
    frequency = 2 * math.pi / config.theta ** jnp.linspace(0, 1, d // 4, endpoint=False, dtype=jnp.float32)
    y, x = (2 * (jnp.arange(n, dtype=jnp.float32) + 0.5) / n - 1 for n in (h, w))
    grid = jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1).reshape(h * w, 2)  # [h w, (y, x)]
    angle = (grid[:, :, None] * frequency).reshape(h * w, d // 2)
    angle = jnp.concatenate([jnp.zeros((config.prefix, d // 2)), angle])
    return jnp.cos(angle), jnp.sin(angle)


def abstract(config: DinoV3Config, dtype=jnp.float32) -> DinoV3:
    """The model's shapes without its memory."""
    return nnx.eval_shape(lambda: DinoV3(config, rngs=nnx.Rngs(0), dtype=dtype))
