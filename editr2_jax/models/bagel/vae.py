"""The autoencoder between pictures and latents (FLUX), channels last.

    latent = scale * (mean - shift)          mean, log variance = split(encoder(pixels))
    pixels = decoder(latent / scale + shift)

Letters: B pictures, H W pixels, h w latent positions (H / 8, W / 8 for the released sizes), Z latent channels, C channels of a layer.
Compute type follows the input; group norms and the attention's softmax run in float32. Source: the published FLUX / BAGEL autoencoder.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from editr2_jax.models.bagel.config import VaeConfig
from editr2_jax.models.lora import Linear

GROUPS, _EPS = 32, 1e-6


class Conv(nnx.Module):
    """A 3x3 convolution that keeps the size, or with `halve` one of stride 2 padded by a zero row below and a zero column right."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype, halve: bool = False):
        scale = jnp.asarray((9 * inputs) ** -0.5, dtype)
        self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 3, inputs, outputs), dtype) * scale)  # rows, columns, in, out
        self.b = nnx.Param(jnp.zeros((outputs,), dtype))
        self.stride, self.padding = (2, (0, 1)) if halve else (1, (1, 1))

    def __call__(self, x: Float[Array, "B H W i"]) -> Float[Array, "B H' W' o"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.w[...].astype(x.dtype),
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.b[...].astype(x.dtype)


class GroupNorm(nnx.Module):
    """Mean and variance over a picture and a group of channels, in float32."""

    def __init__(self, channels: int, *, dtype):
        self.scale = nnx.Param(jnp.ones((channels,), dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), dtype))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        wide = x.astype(jnp.float32)
        centred = wide - _group_mean(wide)
        normed = centred * jax.lax.rsqrt(_group_mean(centred * centred) + _EPS)
        return (normed * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


def _group_mean(x: Float[Array, "B H W C"]) -> Float[Array, "B 1 1 C"]:
    """Mean of every group, repeated for its channels; the picture is summed first, so that channels stay the fast axis."""
    batch, _, _, channels = x.shape
    grouped = jnp.mean(x, axis=(1, 2)).reshape(batch, GROUPS, channels // GROUPS).mean(axis=-1)  # [B, groups]
    return jnp.repeat(grouped, channels // GROUPS, axis=-1)[:, None, None, :]


class Residual(nnx.Module):
    """x + two convolutions, each after a norm and a swish."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype):
        self.norm_1 = GroupNorm(inputs, dtype=dtype)
        self.conv_1 = Conv(inputs, outputs, rngs=rngs, dtype=dtype)
        self.norm_2 = GroupNorm(outputs, dtype=dtype)
        self.conv_2 = Conv(outputs, outputs, rngs=rngs, dtype=dtype)
        changes = inputs != outputs
        self.shortcut = Linear(inputs, outputs, bias=True, rngs=rngs, dtype=dtype, std=inputs**-0.5) if changes else None

    def __call__(self, x: Float[Array, "B H W i"]) -> Float[Array, "B H W o"]:
        y = self.conv_1(jax.nn.swish(self.norm_1(x)))
        y = self.conv_2(jax.nn.swish(self.norm_2(y)))
        return y + (x if self.shortcut is None else _linear(self.shortcut, x))


class Attention(nnx.Module):
    """x + single-head attention of every latent position to all others."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype):
        self.norm = GroupNorm(channels, dtype=dtype)
        self.q, self.k, self.v, self.out = (
            Linear(channels, channels, bias=True, rngs=rngs, dtype=dtype, std=channels**-0.5) for _ in range(4)
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        batch, _, _, channels = x.shape
        y = self.norm(x).reshape(batch, -1, channels)  # [B, H*W, C]
        q, k, v = (_linear(layer, y) for layer in (self.q, self.k, self.v))
        score = jnp.einsum("bqc,bkc->bqk", q, k).astype(jnp.float32) * channels**-0.5
        seen = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(score, axis=-1).astype(x.dtype), v)
        return x + _linear(self.out, seen).reshape(x.shape)


class Middle(nnx.Module):
    """The coarsest level: residual, attention, residual."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype):
        self.before = Residual(channels, channels, rngs=rngs, dtype=dtype)
        self.attention = Attention(channels, rngs=rngs, dtype=dtype)
        self.after = Residual(channels, channels, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self.after(self.attention(self.before(x)))


class Level(nnx.Module):
    """Residual blocks at one resolution and the convolution that leads to the next one (none at the last)."""

    def __init__(self, inputs: int, outputs: int, *, blocks: int, resample: bool, halve: bool, rngs: nnx.Rngs, dtype):
        widths = [inputs] + [outputs] * blocks
        self.blocks = nnx.List([Residual(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, widths[1:], strict=False)])
        self.resample = Conv(outputs, outputs, rngs=rngs, dtype=dtype, halve=halve) if resample else None
        self.halve = halve

    def __call__(self, x: Float[Array, "B H W i"]) -> Float[Array, "B H' W' o"]:
        for block in self.blocks:
            x = block(x)
        if self.resample is None:
            return x
        return self.resample(x if self.halve else _double(x))


class Encoder(nnx.Module):
    """Pixels to the moments of the latent."""

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs, dtype):
        widths = [config.width] + [config.width * m for m in config.multipliers]
        last = len(config.multipliers) - 1
        self.enter = Conv(config.in_channels, config.width, rngs=rngs, dtype=dtype)
        self.levels = nnx.List(
            [
                Level(widths[i], widths[i + 1], blocks=config.blocks, resample=i != last, halve=True, rngs=rngs, dtype=dtype)
                for i in range(last + 1)
            ]
        )
        self.middle = Middle(widths[-1], rngs=rngs, dtype=dtype)
        self.norm = GroupNorm(widths[-1], dtype=dtype)
        self.leave = Conv(widths[-1], 2 * config.latent_channels, rngs=rngs, dtype=dtype)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w 2*Z"]:
        x = self.enter(pixels)
        for level in self.levels:
            x = level(x)
        return self.leave(jax.nn.swish(self.norm(self.middle(x))))


class Decoder(nnx.Module):
    """Latents to pixels. levels[0] is the finest, as in the encoder, so data passes them in reverse."""

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs, dtype):
        widths = [config.width * m for m in config.multipliers]
        coming = widths[1:] + widths[-1:]  # what the next coarser level, or the middle, hands over
        self.enter = Conv(config.latent_channels, widths[-1], rngs=rngs, dtype=dtype)
        self.middle = Middle(widths[-1], rngs=rngs, dtype=dtype)
        self.levels = nnx.List(
            [
                Level(coming[i], widths[i], blocks=config.blocks + 1, resample=i != 0, halve=False, rngs=rngs, dtype=dtype)
                for i in range(len(widths))
            ]
        )
        self.norm = GroupNorm(widths[0], dtype=dtype)
        self.leave = Conv(widths[0], config.out_channels, rngs=rngs, dtype=dtype)

    def __call__(self, latent: Float[Array, "B h w Z"]) -> Float[Array, "B H W 3"]:
        x = self.middle(self.enter(latent))
        for level in reversed(self.levels):
            x = level(x)
        return self.leave(jax.nn.swish(self.norm(x)))


class Autoencoder(nnx.Module):
    """Encoder, decoder, and the scale and shift that give latents about unit size."""

    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs, dtype=dtype)
        self.decoder = Decoder(config, rngs=rngs, dtype=dtype)

    @property
    def dtype(self):
        """The parameters' type."""
        return self.encoder.enter.w.dtype

    def moments(self, pixels: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B h w Z"], Float[Array, "B h w Z"]]:
        """Mean and log variance of the latent, neither scaled nor shifted. Raises ValueError for a size that does not divide."""
        height, width = pixels.shape[1:3]
        if height % self.config.downsample or width % self.config.downsample:
            unit = self.config.downsample
            raise ValueError(f"A picture of {height}x{width} pixels has no whole latent; make both sides multiples of {unit}.")
        return tuple(jnp.split(self.encoder(pixels), 2, axis=-1))

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w Z"]:
        """The latent's mean, scaled and shifted. Pixels in [-1, 1]."""
        mean, _ = self.moments(pixels)
        return self._scaled(mean)

    def sample(self, pixels: Float[Array, "B H W 3"], noise: Float[Array, "B h w Z"]) -> Float[Array, "B h w Z"]:
        """A draw of the latent, mean + std * noise, scaled and shifted."""
        mean, log_variance = self.moments(pixels)
        return self._scaled(mean + jnp.exp(0.5 * log_variance) * noise)

    def decode(self, latent: Float[Array, "B h w Z"]) -> Float[Array, "B H W 3"]:
        """The picture of a scaled and shifted latent, about [-1, 1], not clipped."""
        return self.decoder(latent / self.config.scale + self.config.shift)

    def _scaled(self, latent: Float[Array, "B h w Z"]) -> Float[Array, "B h w Z"]:
        return self.config.scale * (latent - self.config.shift)


def _linear(layer: Linear, x: Float[Array, "*B i"]) -> Float[Array, "*B o"]:
    """A 1x1 convolution in the input's type."""
    return layer(x).astype(x.dtype)


def _double(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Every pixel becomes a square of four."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
