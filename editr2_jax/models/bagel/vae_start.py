"""Where a fresh autoencoder starts: as a plain block transform, so that training begins with pictures instead of with noise.

    latents = the lowest cosine patterns of each block of pixels,    picture = the blocks' mean colours, smoothly enlarged

The layers are the published ones; only their first weights are chosen. Residual branches start at zero. Two facts shape the rest:

- A group norm divides by what its group holds, so a plain colour leaves only its sign. Where a signal y must pass, its group gets two more
  channels of constant +c and -c: the group's spread is then sqrt(2/3) c up to second order in y / c, and y comes out almost unchanged.
- swish bends little around a bias of 3, so a norm with that bias and the convolution after it are nearly linear and can be inverted.
"""

from __future__ import annotations

import itertools

import numpy as np
from flax import nnx

from editr2_jax.models.bagel.vae import GROUPS, Autoencoder, Conv, GroupNorm, Middle

_CONSTANT = 6.0  # c, in units of a signal's usual size
_BIAS = 3.0
_GAIN = 2.0  # latents are the patterns' shares of a block times this
_QUIET = 0.02  # share of their random start that the other weights of the last convolutions keep
_TENT = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])  # smooth doubling
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])  # brightness first, then what differs between channels


def start_as_blocks(vae: Autoencoder) -> None:
    """Sets the first weights in place. Raises ValueError for a size that has no room for the patterns or their constant channels."""
    config = vae.config
    halvings, width = len(config.multipliers) - 1, config.width
    unfolded = config.in_channels * 4 ** (halvings - 1)
    if config.in_channels != 3 or config.blocks or set(config.multipliers) != {1} or halvings < 1:
        raise ValueError(f"{config}: needs 3 colours, no residual blocks on the way down, one width for all levels, and a halving.")
    if width < 3 * GROUPS or width < unfolded or config.latent_channels > GROUPS:
        raise ValueError(f"{config}: needs a width of at least {max(3 * GROUPS, unfolded)} and at most {GROUPS} latent channels.")
    encoder, decoder = vae.encoder, vae.decoder
    for middle in (encoder.middle, decoder.middle):
        _silence(middle)
    for block in itertools.chain.from_iterable(level.blocks for level in decoder.levels):
        _set(block.conv_2.w, np.zeros(block.conv_2.w.shape))
    patterns, mean_colour = block_patterns(2**halvings, config.latent_channels)
    _encode(encoder, patterns, halvings)
    _let_through(encoder.norm, encoder.leave, outputs=config.latent_channels)
    bias = np.array(encoder.leave.b[...])
    bias[config.latent_channels :] = -8.0  # log variance: latents start almost without noise, which would hide them
    _set(encoder.leave.b, bias)
    _decode(decoder, mean_colour)
    _let_through(decoder.norm, decoder.leave, outputs=3)


def block_patterns(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` lowest cosine patterns [count, side, side, 3], and the colour [count, 3] that each adds to a block's mean."""
    at = (np.arange(side) + 0.5) * np.pi / side
    wave = [np.ones(side)] + [np.sqrt(2) * np.cos(at * u) for u in range(1, side)]
    order = sorted(itertools.product(range(3), range(min(side, 4)), range(min(side, 4))), key=_coarseness)[:count]
    patterns = np.stack([np.einsum("a,b,c->abc", wave[u], wave[v], _COLOURS[c]) for c, u, v in order])
    return patterns, patterns.mean(axis=(1, 2))


def _coarseness(pattern: tuple[int, int, int]) -> float:
    colour, u, v = pattern
    return (u + v) * (2.2 if colour else 1.0)  # brightness carries more of a picture than colour does


def _encode(encoder, patterns: np.ndarray, halvings: int) -> None:
    """Each halving but the last unfolds 2x2 squares into channels; the last one takes the patterns of what is then a whole block."""
    enter = np.array(encoder.enter.w[...])
    enter[..., :3] = 0
    enter[1, 1, range(3), range(3)] = 1
    _set(encoder.enter.w, enter)
    for level in range(halvings - 1):
        unfold, inputs = np.array(encoder.levels[level].resample.w[...]), 3 * 4**level
        for row, column, channel in itertools.product(range(2), range(2), range(inputs)):
            output = (2 * row + column) * inputs + channel
            unfold[..., output] = 0
            unfold[row, column, channel, output] = 1
        _set(encoder.levels[level].resample.w, unfold)
    last = encoder.levels[halvings - 1].resample
    weight, group = np.array(last.w[...]), last.w.shape[-1] // GROUPS
    weight[..., : group * len(patterns)] = 0
    side = patterns.shape[1]
    for row, column in itertools.product(range(side), range(side)):
        bits = [(row >> level & 1, column >> level & 1) for level in range(halvings)]  # the finest square first
        channel = 0
        for level, (down, right) in enumerate(bits[:-1]):
            channel += (2 * down + right) * 3 * 4**level
        for colour in range(3):
            weight[*bits[-1], channel + colour, 0 : group * len(patterns) : group] = _GAIN * patterns[:, row, column, colour] / side**2
    _set(last.w, weight)
    _hold_constants(last, len(patterns))


def _decode(decoder, mean_colour: np.ndarray) -> None:
    """The latents' share of the mean colour goes in, is doubled smoothly, and meets its constants before the last norm."""
    enter = np.array(decoder.enter.w[...])
    enter[..., :3] = 0
    enter[1, 1, :, :3] = mean_colour / _GAIN
    _set(decoder.enter.w, enter)
    for index, level in enumerate(decoder.levels):
        if level.resample is None:
            continue
        weight, last = np.array(level.resample.w[...]), index == 1
        group = weight.shape[-1] // GROUPS if last else 1
        weight[..., : 3 * group] = 0
        for colour in range(3):
            weight[:, :, colour, colour * group] = _TENT
        _set(level.resample.w, weight)
        if last:
            _hold_constants(level.resample, 3)


def _hold_constants(conv: Conv, signals: int) -> None:
    """Channel 0 of each of the first `signals` groups is left alone; channels 1 and 2 become +c and -c."""
    weight, bias = np.array(conv.w[...]), np.array(conv.b[...])
    group = weight.shape[-1] // GROUPS
    for start in range(0, signals * group, group):
        weight[..., start + 1 : start + group] = 0
        bias[start + 1 : start + 3] = _CONSTANT, -_CONSTANT
    _set(conv.w, weight)
    _set(conv.b, bias)


def _let_through(norm: GroupNorm, leave: Conv, *, outputs: int) -> None:
    """The convolution gives back the signals of the first groups: y = spread * (u_0 - u_1) + c, where u is the norm of y and of c."""
    weight, bias, shift = np.array(leave.w[...]) * _QUIET, np.array(leave.b[...]), np.array(norm.bias[...])
    group, spread = weight.shape[2] // GROUPS, _CONSTANT * np.sqrt(2 / 3)
    high = _CONSTANT / spread  # where u_1 stays
    for output in range(outputs):
        start = output * group
        shift[start : start + 3] = _BIAS
        weight[..., output] = 0
        low_gain, high_gain = spread / _slope(_BIAS), spread / _slope(_BIAS + high)
        weight[1, 1, start, output], weight[1, 1, start + 1, output] = low_gain, -high_gain
        bias[output] = _CONSTANT - low_gain * _swish(_BIAS) + high_gain * _swish(_BIAS + high) - spread * high
    _set(norm.bias, shift)
    _set(leave.w, weight)
    _set(leave.b, bias)


def _silence(middle: Middle) -> None:
    for block in (middle.before, middle.after):
        _set(block.conv_2.w, np.zeros(block.conv_2.w.shape))
    _set(middle.attention.out.w, np.zeros(middle.attention.out.w.shape))


def _swish(x: float) -> float:
    return x / (1 + np.exp(-x))


def _slope(x: float) -> float:
    s = 1 / (1 + np.exp(-x))
    return s * (1 + x * (1 - s))


def _set(parameter: nnx.Param, value: np.ndarray) -> None:
    parameter[...] = value.astype(parameter[...].dtype)
