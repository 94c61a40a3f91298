"""Mixture-of-transformers decoder: two experts, one attention.

Latent tokens of the autoencoder go through the `gen` expert, every other token (text, seen pictures, picture markers) through `und`;
both meet in one joint attention. Letters: B rows, R variants, U und tokens, L gen tokens, T = U + L, D width, N layers, K key-value heads,
d head width, V vocabulary. Source: BAGEL (arXiv 2505.14683) and its published model definition.

A block is what enters the context in one piece: a text segment (causal), a seen picture, or a latent picture between its two markers (both
fully bidirectional). Block order is: first und token, gen tokens, remaining und tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models import attention, block_mask, logical_axes
from editr2_jax.models.bagel.config import DecoderConfig
from editr2_jax.models.block_mask import BlockMask
from editr2_jax.models.execution import HERE, Execution
from editr2_jax.models.lora import Linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What Rv variants see of the first S slots of a cache."""

    k: Float[Array, "N B K S+ d"]
    v: Float[Array, "N B K S+ d"]
    visible: Bool[Array, "B Rv S"]

    def of_layer(self, k: Float[Array, "B K S+ d"], v: Float[Array, "B K S+ d"], *, whole: bool = False) -> tuple[Array, Array, Array]:
        """A layer's keys and values, cut to what there is to see: layer by layer, for a cut of the whole cache would be a copy of it. What
        skips the slots that nobody sees takes them `whole`."""
        slots = self.visible.shape[2]
        if whole:
            return k, v, jnp.pad(self.visible, ((0, 0), (0, 0), (0, k.shape[2] - slots)))
        return k[:, :, :slots], v[:, :, :slots], self.visible


class Norm(nnx.Module):
    """A root-mean-square norm's scale."""

    def __init__(self, width: int, *, stack: int | None = None, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((width,) if stack is None else (stack, width), dtype))


class Expert(nnx.Module):
    """Everything of a layer that exists twice."""

    def __init__(self, c: DecoderConfig, *, stack: int, rngs: nnx.Rngs, dtype):
        linear = lambda i, o, bias: Linear(i, o, bias=bias, rngs=rngs, stack=stack, dtype=dtype)  # noqa: E731
        self.q = linear(c.width, c.heads * c.head_dim, True)
        self.k = linear(c.width, c.kv_heads * c.head_dim, True)
        self.v = linear(c.width, c.kv_heads * c.head_dim, True)
        self.o = linear(c.heads * c.head_dim, c.width, False)
        self.q_norm = Norm(c.head_dim, stack=stack, dtype=dtype)
        self.k_norm = Norm(c.head_dim, stack=stack, dtype=dtype)
        self.input_norm = Norm(c.width, stack=stack, dtype=dtype)
        self.post_norm = Norm(c.width, stack=stack, dtype=dtype)
        self.gate = linear(c.width, c.inner, False)
        self.up = linear(c.width, c.inner, False)
        self.down = linear(c.inner, c.width, False)

    def project(self, x: Float[Array, "B R T D"], c: DecoderConfig):
        """Queries [B, R, T, H, d] and keys [B, R, T, K, d], normed per head, and values [B, R, T, K, d]."""
        x = attention.rms_norm(x, self.input_norm.scale[...], c.rms_eps)
        q = self.q(x).reshape(*x.shape[:-1], c.heads, c.head_dim)
        k = self.k(x).reshape(*x.shape[:-1], c.kv_heads, c.head_dim)
        v = self.v(x).reshape(*x.shape[:-1], c.kv_heads, c.head_dim)
        q = attention.rms_norm(q, self.q_norm.scale[...], c.rms_eps)
        return q, attention.rms_norm(k, self.k_norm.scale[...], c.rms_eps), v

    def finish(
        self, x: Float[Array, "B R T D"], attended: Float[Array, "B R T HD"], c: DecoderConfig, run: Execution
    ) -> Float[Array, "B R T D"]:
        """Output projection and gated MLP, both residual."""
        x = x + self.o(attended)
        y = attention.rms_norm(x, self.post_norm.scale[...], c.rms_eps)
        inner = run.constrain(jax.nn.silu(self.gate(y)) * self.up(y), "batch", None, None, "inner")
        return x + self.down(inner)


class Layers(nnx.Module):
    """The stack of layers: every leaf has a leading axis N."""

    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs, dtype):
        self.und = Expert(c, stack=c.layers, rngs=rngs, dtype=dtype)
        self.gen = Expert(c, stack=c.layers, rngs=rngs, dtype=dtype)

    def experts(self, drawing: bool) -> tuple[Expert, ...]:
        """The experts that a block needs: without latents among its tokens, `und` alone."""
        return (self.und, self.gen) if drawing else (self.und,)


def join(und: Array, gen: Array | None) -> Array:
    """Block order along the token axis 2: first und token, gen tokens, remaining und tokens."""
    return und if gen is None else jnp.concatenate([und[:, :, :1], gen, und[:, :, 1:]], axis=2)


def _part(x: Array, gen_tokens: int) -> tuple[Array, Array | None]:
    """The inverse of `join`."""
    if not gen_tokens:
        return x, None
    und = jnp.concatenate([x[:, :, :1], x[:, :, 1 + gen_tokens :]], axis=2)
    return und, x[:, :, 1 : 1 + gen_tokens]


class MoTDecoder(nnx.Module):
    """Token embedding, the layers, the final norms and the text head."""

    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config, self.execution = c, HERE
        self.embed = nnx.Param(jax.random.normal(rngs.params(), (c.vocab, c.width), dtype) * jnp.asarray(0.02, dtype))
        self.layers = Layers(c, rngs=rngs, dtype=dtype)
        self.norm_und = Norm(c.width, dtype=dtype)
        self.norm_gen = Norm(c.width, dtype=dtype)
        self.lm_head = Linear(c.width, c.vocab, bias=False, rngs=rngs, dtype=dtype)

    def block(
        self,
        und: Float[Array, "B R U D"],
        gen: Float[Array, "B R L D"] | None,
        *,
        positions: Int[Array, "B R T"],
        views: tuple[View, ...] = (),
        mask: BlockMask = None,
    ) -> tuple[Float[Array, "B R U D"], Float[Array, "B R L D"] | None, tuple[Float[Array, "N B R K T d"], Float[Array, "N B R K T d"]]]:
        """One pass of a block over what its variants see.

        Returns hidden states after the final norms (und, gen) and the block's own keys and values, ready to be written into a cache.
        `mask` says which tokens of the block a token of the block sees; without it all see all.
        """
        return self._through(und, gen, positions, views, mask)[:3]

    def attention(
        self,
        und: Float[Array, "B R U D"],
        gen: Float[Array, "B R L D"] | None,
        *,
        positions: Int[Array, "B R T"],
        view: View,
        mask: BlockMask = None,
    ) -> Float[Array, "N B R H T S+T"]:
        """Where every token of a block looks in every layer and head: shares of the cache's slots, then of the block (see `block`)."""
        mask = block_mask.dense(mask, *positions.shape)
        *_, looks = self._through(und, gen, positions, (view,), mask, look=lambda q, k, seen: attention.weights(q, k, mask, *seen))
        return looks

    def _through(self, und, gen, positions, views, mask, look: Callable | None = None):
        """A block through all layers: und, gen, (keys, values), and per layer what `look` makes of (q, k, caches)."""
        c, run = self.config, self.execution
        b, r, t = positions.shape
        gen_tokens = 0 if gen is None else gen.shape[2]
        way = attention.way(run, mask, shape=(b, r, t, c.heads), slots=tuple(view.k.shape[3] for view in views))
        mask = block_mask.dense(mask, b, r, t) if way == "plain" else mask  # once for all layers
        cos, sin = attention.rotary_table(positions, c.head_dim, c.rope_theta)
        graphs, stacked = zip(*map(nnx.split, self.layers.experts(gen_tokens > 0)), strict=True)  # of one expert, where the other rests

        def layer(carry, xs):
            """One layer: hidden states in and out, the block's keys and values [B, R, K, T, d], and the look."""
            hidden_und, hidden_gen = carry
            one, caches = xs
            weights = (logical_axes.gathered(expert, run.layout) for expert in one)
            expert_und, *expert_gen = map(nnx.merge, graphs, weights)
            q, k, v = expert_und.project(hidden_und, c)
            if gen_tokens:
                q, k, v = (join(a, z) for a, z in zip((q, k, v), expert_gen[0].project(hidden_gen, c), strict=True))
            q, k = attention.rotate(q, cos, sin), attention.rotate(k, cos, sin)
            q, k, v = (run.constrain(x, "batch", None, None, "heads") for x in (q, k, v))
            seen = tuple(view.of_layer(*cache, whole=way != "plain") for cache, view in zip(caches, views, strict=True))
            attended = run.constrain(attention.attend(q, k, v, mask, seen, run), "batch", None, None, "heads")
            attended_und, attended_gen = _part(attended, gen_tokens)
            hidden_und = run.constrain(expert_und.finish(hidden_und, attended_und, c, run), "batch")
            if gen_tokens:
                hidden_gen = run.constrain(expert_gen[0].finish(hidden_gen, attended_gen, c, run), "batch")
            own = k.transpose(0, 1, 3, 2, 4), v.transpose(0, 1, 3, 2, 4)
            return (hidden_und, hidden_gen), (own, None if look is None else look(q, k, seen))

        caches = tuple((view.k, view.v) for view in views)
        start = run.constrain((und, gen), "batch")
        (und, gen), (kv, looks) = jax.lax.scan(run.checkpoint(layer), start, (stacked, caches), unroll=run.unroll)
        und = attention.rms_norm(und, self.norm_und.scale[...], c.rms_eps)
        gen = None if gen is None else attention.rms_norm(gen, self.norm_gen.scale[...], c.rms_eps)
        return und, gen, kv, looks
