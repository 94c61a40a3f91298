"""BAGEL put together: what reads text, sees pictures, reads and draws latents. Arrays in, arrays out.

Letters: B rows, R variants, T tokens, L latent tokens, C numbers in a token, P patches, D width, V vocabulary, H x W pixels,
h x w latent pixels. Source: BAGEL (arXiv 2505.14683) and its published model definition.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from editr2_jax.models import kv_cache
from editr2_jax.models.bagel import pixels, positions
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.models.bagel.latent_tokens import LatentTokens
from editr2_jax.models.bagel.mot_decoder import MoTDecoder, View
from editr2_jax.models.bagel.vae import Autoencoder
from editr2_jax.models.bagel.vit import Connector, Vit
from editr2_jax.models.block_mask import InOrder
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.models.pieces import in_pieces

_PIXELS_AT_ONCE = 1 << 14  # in the autoencoder on a CPU: a fifth less time to decode, two fifths less to encode, than a whole batch


def _pictures_at_once(height: int, width: int) -> int:
    return max(1, _PIXELS_AT_ONCE // (height * width))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureTokens:
    """A picture as the decoder reads it."""

    latents: Float[Array, "*B L C"]  # clean, of the autoencoder
    seen: Float[Array, "*B P D"]  # of the vision transformer


class Bagel(nnx.Module):
    """The whole model; `vae` is filled from its own checkpoint file."""

    def __init__(self, config: BagelConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        c = self.config = config
        token_dim = c.latent_patch**2 * c.vae.latent_channels
        self.decoder = MoTDecoder(c.decoder, rngs=rngs, dtype=dtype)
        self.latent = LatentTokens(width=c.decoder.width, token_dim=token_dim, side=c.latent_side, rngs=rngs, dtype=dtype)
        self.vit = Vit(c.vit, rngs=rngs, dtype=dtype)
        self.connector = Connector(c.vit.width, c.decoder.width, rngs=rngs, dtype=dtype)
        self.vit_pos = positions.Table(jnp.asarray(positions.sincos_table(c.decoder.width, c.vit_side), dtype))
        self.vae = Autoencoder(c.vae, rngs=rngs, dtype=dtype)

    # Sizes -----------------------------------------------------------------------------------------------------------------------

    def latent_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of latent tokens of a picture of this size."""
        stride = self.config.latent_patch * self.config.vae.downsample
        if height % stride or width % stride or max(height, width) // stride > self.config.latent_side:
            raise ValueError(
                f"a picture of {width}x{height} pixels does not fit this model: sides must be multiples of {stride} and at most "
                f"{self.config.latent_side * stride}; resize it with the VAE transform first."
            )
        return height // stride, width // stride

    def vit_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the ViT sees a picture of this size."""
        out_width, out_height = self.config.vit_transform.shape(width, height)
        return out_height, out_width

    # Pictures --------------------------------------------------------------------------------------------------------------------

    def encode(self, picture: UInt8[Array, "B H W 3"]) -> Float[Array, "B L C"]:
        """Clean latent tokens of a picture (the mean path of the autoencoder)."""
        height, width = picture.shape[1:3]
        self.latent_grid(height, width)
        encode = lambda some: self.vae.encode(pixels.normalise(some).astype(self.vae_dtype))  # noqa: E731
        latent = in_pieces(encode, picture, at_once=_pictures_at_once(height, width), run=self.decoder.execution)
        return pixels.patchify(latent, self.config.latent_patch).astype(jnp.float32)

    def decode(self, tokens: Float[Array, "B L C"], height: int, width: int) -> Float[Array, "B H W 3"]:
        """Pixels in [-1, 1] (not clamped) of latent tokens."""
        rows, columns = self.latent_grid(height, width)
        latent = pixels.unpatchify(tokens, rows, columns, self.config.latent_patch)
        latent, some = latent.astype(self.vae_dtype), _pictures_at_once(height, width)
        return in_pieces(self.vae.decode, latent, at_once=some, run=self.decoder.execution).astype(jnp.float32)

    def see(self, picture: UInt8[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """ViT tokens of a picture, in the decoder's width: connector(features) + position."""
        height, width = self.vit_size(*picture.shape[1:3])
        patch = self.config.vit.patch
        seen = pixels.normalise(pixels.resize(picture, height, width))
        patches = pixels.patchify(seen, patch).astype(self.decoder.embed.dtype)
        ids = positions.flattened_ids(height // patch, width // patch, self.config.vit_side)
        run = self.decoder.execution
        features = self.vit.features(run.constrain(patches, "batch"), ids, run=run)
        return run.constrain(self.connector(features) + self.vit_pos[...][ids], "batch")

    def picture_features(self, picture: UInt8[Array, "B H W 3"]) -> Float[Array, "B h w F"]:
        """The ViT's own patch features, before the connector."""
        height, width = self.vit_size(*picture.shape[1:3])
        patch = self.config.vit.patch
        patches = pixels.patchify(pixels.normalise(pixels.resize(picture, height, width)), patch).astype(self.decoder.embed.dtype)
        ids = positions.flattened_ids(height // patch, width // patch, self.config.vit_side)
        features = self.vit.features(patches, ids, run=self.decoder.execution)
        return features.reshape(features.shape[0], height // patch, width // patch, -1)

    @property
    def vae_dtype(self):
        return self.vae.dtype

    # Blocks of the context -------------------------------------------------------------------------------------------------------

    def embed(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        return self.decoder.embed[...][ids]

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Next-token scores in float32."""
        return self.decoder.lm_head(hidden).astype(jnp.float32)

    def markers(self, rows: int, variants: int) -> Float[Array, "B R 2 D"]:
        """Embeddings of the tokens that enclose a picture."""
        ids = jnp.asarray([self.config.tokens.image_start, self.config.tokens.image_end])
        return jnp.broadcast_to(self.embed(ids), (rows, variants, 2, self.config.decoder.width))

    def read_text(self, ids: Int[Array, "B R T"], *, valid: Bool[Array, "B R T"], start: Int[Array, "B R"], views: tuple[View, ...]):
        """A causal text segment; token i of a row stands at rotary position start + i. Returns hidden states and keys/values."""
        hidden, _, kv = self.decoder.block(self.embed(ids), None, **_causal(ids, valid, start), views=views)
        return hidden, kv

    def text_attention(
        self, ids: Int[Array, "B R T"], *, valid: Bool[Array, "B R T"], start: Int[Array, "B R"], view: View
    ) -> Float[Array, "N B R H T S+T"]:
        """Where the tokens of a text segment look as `read_text` reads it: the cache's slots, then the segment itself."""
        return self.decoder.attention(self.embed(ids), None, **_causal(ids, valid, start), view=view)

    def remember(
        self,
        cache: KVCache,
        k: Float[Array, "N B 1 K T d"],
        v: Float[Array, "N B 1 K T d"],
        *,
        valid: Bool[Array, "B T"],
        rope: Int[Array, "B"],
    ) -> KVCache:
        """The cache with what a block without variants leaves behind; see `kv_cache.write`."""
        return kv_cache.write(cache, k[:, :, 0], v[:, :, 0], valid=valid, rope=rope, layout=self.decoder.execution.layout)

    def append_text(self, cache: KVCache, ids: Int[Array, "B T"], count: Int[Array, "B"]) -> KVCache:
        """Reads `count` real tokens per row (the rest is padding) into the cache."""
        valid = jnp.arange(ids.shape[1]) < count[:, None]
        view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
        _, (k, v) = self.read_text(ids[:, None], valid=valid[:, None], start=cache.rope[:, None], views=(view,))
        return self.remember(cache, k, v, valid=valid, rope=cache.rope + count)

    def append_latents(self, cache: KVCache, tokens: Float[Array, "B L C"], grid: tuple[int, int]) -> KVCache:
        """Reads a clean latent picture: start marker, latents at time 0, end marker, all at one rotary position."""
        rows, length = tokens.shape[:2]
        ids = positions.flattened_ids(*grid, self.config.latent_side)
        gen = self.latent.embed(tokens[:, None], jnp.zeros((rows, 1), jnp.float32), ids)
        return self._append_picture(cache, self.markers(rows, 1), gen, length + 2)

    def append_seen(self, cache: KVCache, seen: Float[Array, "B P D"]) -> KVCache:
        """Reads a seen picture: start marker, ViT tokens, end marker, all at one rotary position."""
        markers = self.markers(seen.shape[0], 1)
        und = jnp.concatenate([markers[:, :, :1], seen[:, None].astype(markers.dtype), markers[:, :, 1:]], axis=2)
        return self._append_picture(cache, und, None, seen.shape[1] + 2)

    def perceive(self, picture: UInt8[Array, "B H W 3"]) -> PictureTokens:
        """What the decoder gets of a picture. Nothing that an adapter changes: a picture needs to be perceived once."""
        return PictureTokens(latents=self.encode(picture), seen=self.see(picture))

    def append_picture(self, cache: KVCache, picture: PictureTokens, size: tuple[int, int]) -> KVCache:
        """Reads a picture of this size (height, width) as the context sees it: latent block, then ViT block; two rotary positions."""
        return self.append_seen(self.append_latents(cache, picture.latents, self.latent_grid(*size)), picture.seen)

    def _append_picture(self, cache: KVCache, und, gen, tokens: int) -> KVCache:
        rows = und.shape[0]
        place = jnp.broadcast_to(cache.rope[:, None, None], (rows, 1, tokens))
        view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
        _, _, (k, v) = self.decoder.block(und, gen, positions=place, views=(view,))
        return self.remember(cache, k, v, valid=jnp.ones((rows, tokens), bool), rope=cache.rope + 1)

    def velocity(
        self,
        x: Float[Array, "B R L C"],
        t: Float[Array, "B R"],
        *,
        grid: tuple[int, int],
        start: Int[Array, "B R"],
        views: tuple[View, ...],
    ) -> Float[Array, "B R L C"]:
        """Rectified-flow velocity (noise - clean) of noisy latents, one per variant; `start` is the variants' rotary position."""
        und, gen, place = self._noisy(x, t, grid, start)
        _, hidden, _ = self.decoder.block(und, gen, positions=place, views=views)
        return self.latent.velocity(hidden)

    def latent_attention(
        self, x: Float[Array, "B R L C"], t: Float[Array, "B R"], *, grid: tuple[int, int], start: Int[Array, "B R"], view: View
    ) -> Float[Array, "N B R H L S+L+2"]:
        """Where noisy latents look as `velocity` moves them: the cache's slots, then start marker, latents, end marker."""
        und, gen, place = self._noisy(x, t, grid, start)
        return self.decoder.attention(und, gen, positions=place, view=view)[..., 1:-1, :]

    def _noisy(self, x, t, grid: tuple[int, int], start):
        """A block of noisy latents between its markers, and where it stands."""
        b, r, length, _ = x.shape
        ids = positions.flattened_ids(*grid, self.config.latent_side)
        place = jnp.broadcast_to(start[:, :, None], (b, r, length + 2))
        return self.markers(b, r), self.latent.embed(x, t, ids), place


def _causal(ids, valid, start) -> dict[str, Any]:
    """Positions and mask of a text segment."""
    place = start[:, :, None] + jnp.arange(ids.shape[2], dtype=jnp.int32)
    return {"positions": place, "mask": InOrder(valid=valid)}


def empty_cache(config: BagelConfig, *, rows: int, capacity: int, dtype=jnp.float32) -> KVCache:
    """A cache of this model's shape with room for `capacity` tokens."""
    c = config.decoder
    return kv_cache.empty(layers=c.layers, rows=rows, capacity=capacity, kv_heads=c.kv_heads, head_dim=c.head_dim, dtype=dtype)


def abstract(config: BagelConfig, dtype=jnp.float32) -> Bagel:
    """The model's shapes without its memory: target of a conversion or of a plan."""
    return nnx.eval_shape(lambda: Bagel(config, rngs=nnx.Rngs(0), dtype=dtype))


def create(config: BagelConfig, *, key: jax.Array, dtype=jnp.float32) -> Bagel:
    """A model with random weights, made in one compiled call."""
    graph, state = nnx.split(abstract(config, dtype))
    make = jax.jit(lambda k: nnx.state(Bagel(config, rngs=nnx.Rngs(params=k), dtype=dtype)))
    return nnx.merge(graph, make(key))
