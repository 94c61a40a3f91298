"""Pictures as arrays: sizes, resizing, ranges and patches. All of it runs inside a compiled program.

Resizing is Pillow's bicubic filter on uint8, bit for bit: integer coefficients of 22 fractional bits, columns first, then rows (or rows
first, where the height loses more than twice as many pixels as the width), rounded and clipped to uint8 after each; a side that keeps its
length is left alone. Source: Pillow 13, Resample.c; earlier ones always take columns first, which differs by a few levels.
Letters: B pictures, H W pixels (or latent positions), C channels, P side of a patch, N = (H/P) (W/P) patches.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

_FRACTION_BITS = 22  # 32 - 8 bits of a pixel - 2 bits of headroom
_BICUBIC_SUPPORT, _BICUBIC_A = 2.0, -0.5


def resize(pixels: UInt8[Array, "B H W C"], height: int, width: int) -> UInt8[Array, "B height width C"]:
    """Pillow's bicubic resize of uint8 pictures, equal to it in every bit. Accepts any number of leading axes.

    Raises ValueError for anything but uint8: the rounding between the two passes is part of the definition.
    """
    if pixels.dtype != jnp.uint8:
        raise ValueError(f"resize wants uint8 pictures, got {pixels.dtype}; make them with to_uint8.")
    lost_rows, lost_columns = pixels.shape[-3] - height, pixels.shape[-2] - width
    rows, columns = (pixels.ndim - 3, height), (pixels.ndim - 2, width)
    for axis, size in (rows, columns) if lost_rows > max(0, 2 * lost_columns) else (columns, rows):
        if pixels.shape[axis] != size:
            pixels = _resample(pixels, axis, size)
    return pixels


def _resample(pixels: UInt8[Array, "..."], axis: int, size: int) -> UInt8[Array, "..."]:
    """One pass along one axis: every output pixel is a weighted sum of a few neighbours."""
    start, weight = _bicubic_taps(pixels.shape[axis], size)
    last = pixels.shape[axis] - 1
    column = [1] * pixels.ndim
    column[axis] = size
    wide = pixels.astype(jnp.int32)
    total = jnp.int32(1 << (_FRACTION_BITS - 1))  # one half, so that the shift below rounds
    for tap in range(weight.shape[1]):
        neighbour = jnp.take(wide, np.minimum(start + tap, last), axis=axis)
        total = total + neighbour * weight[:, tap].reshape(column)
    return jnp.clip(total >> _FRACTION_BITS, 0, 255).astype(jnp.uint8)


@functools.lru_cache(maxsize=256)
def _bicubic_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """First neighbour [size_out] and integer weights [size_out, taps] of every output pixel; unused taps weigh 0."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # shrinking widens the filter, which keeps fine patterns from aliasing
    support = _BICUBIC_SUPPORT * stretch
    start = np.zeros(size_out, np.int32)
    weight = np.zeros((size_out, math.ceil(support) * 2 + 1), np.int32)
    for place in range(size_out):
        centre = (place + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        past = min(int(centre + support + 0.5), size_in)
        taps = [_bicubic((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, past)]
        total = 0.0
        for tap in taps:  # summed one by one, in the order of the original: the quotient decides a rounding
            total += tap
        start[place] = first
        for index, tap in enumerate(taps):
            share = tap / total * (1 << _FRACTION_BITS) if total else 0.0
            weight[place, index] = int(share - 0.5) if share < 0 else int(share + 0.5)
    used = np.flatnonzero(weight.any(axis=0))
    return start, weight[:, : used[-1] + 1]


def _bicubic(x: float) -> float:
    x, a = abs(x), _BICUBIC_A
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


def normalise(pixels: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """uint8 pictures to float32 in [-1, 1]: (x / 255 - 0.5) / 0.5, what VAE and ViT read."""
    return (to_unit(pixels) - 0.5) / 0.5


def to_unit(pixels: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """uint8 pictures to float32 in [0, 1]."""
    return jnp.asarray(pixels).astype(jnp.float32) / 255.0


def to_uint8(signed: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """What the VAE draws, about [-1, 1], to uint8: clipped, and truncated rather than rounded, as BAGEL stores pictures."""
    return unit_to_uint8(jnp.asarray(signed).astype(jnp.float32) * 0.5 + 0.5)


def unit_to_uint8(unit: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Float pictures in [0, 1] to uint8, clipped and truncated; gives back every uint8 value that to_unit was given."""
    return (jnp.clip(jnp.asarray(unit).astype(jnp.float32), 0.0, 1.0) * 255.0).astype(jnp.uint8)


def patchify(pictures: Float[Array, "... H W C"], patch: int) -> Float[Array, "... N P*P*C"]:
    """Cuts pictures or latents into patches, row by row; inside a patch the order is row, column, channel (channel fastest).

    Raises ValueError when a side is no multiple of the patch.
    """
    *lead, height, width, channels = pictures.shape
    if height % patch or width % patch:
        raise ValueError(f"A picture of {height}x{width} cannot be cut into patches of {patch}; resize it by a ResizeRule first.")
    rows, columns = height // patch, width // patch
    cut = pictures.reshape(*lead, rows, patch, columns, patch, channels)
    return jnp.swapaxes(cut, -4, -3).reshape(*lead, rows * columns, patch * patch * channels)


def unpatchify(tokens: Float[Array, "... N P*P*C"], rows: int, columns: int, patch: int) -> Float[Array, "... H W C"]:
    """The reverse of patchify for a picture of rows x columns patches."""
    *lead, count, numbers = tokens.shape
    if count != rows * columns or numbers % patch**2:
        raise ValueError(f"{count} tokens of {numbers} numbers are not {rows}x{columns} patches of side {patch}.")
    channels = numbers // patch**2
    cut = tokens.reshape(*lead, rows, columns, patch, patch, channels)
    return jnp.swapaxes(cut, -4, -3).reshape(*lead, rows * patch, columns * patch, channels)
