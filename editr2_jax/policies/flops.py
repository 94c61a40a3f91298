"""FLOPs that each phase of play and learning needs, per session.

    matrix product [m, k] x [k, n]     2 m k n
    convolution                        2 * 9 Ci Co per output position
    expert of one layer, per token     2 w,  w = D (H + 2K) d + H d D + 3 D I
    adapter of rank r, per token       2 a,  a = r * (inputs + outputs of the seven projections)
    attention, per token and layer     4 H d * (keys it sees)
    backward pass with a frozen base   2 w + 4 a and 4 H d * (cached keys + 2 * keys of the block): the cache is a constant

Counted is what the method asks for: real tokens, visible keys, every pass once. Recomputed activations, padding, masked slots and
elementwise work are not, so a share of the machine's rate says how near a program is to having nothing but the necessary products.
Letters: N layers, D width, I inner width, H query heads, K key-value heads, d head width, L latent tokens, P ViT tokens.
"""

from __future__ import annotations

import dataclasses
import functools

from editr2_jax.models.bagel.config import BagelConfig, DecoderConfig
from editr2_jax.models.bagel.latent_tokens import TIME_CHANNELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialogue:
    """How much there is to read, to draw and to write in one session; text segments include their begin and end tokens."""

    config: BagelConfig
    height: int  # pixels
    width: int
    turns: int = 3
    instruction: int = 26  # tokens
    system: int = 16
    question: int = 74  # before the last turn; an earlier turn's is shorter by an instruction, which is neglected
    intent: int = 24  # tokens written
    steps: int = 14  # per picture
    window: int = 2  # stochastic steps per picture: what an update learns from
    branches: int = 3  # of guidance
    rank: int = 0  # of the adapter in the update; 0 leaves the adapter's own products out
    reference: bool = True  # whether learning from a picture also asks the reference

    @functools.cached_property
    def latents(self) -> int:
        """Latent tokens of a picture."""
        return (self.height // self.config.token_pixels) * (self.width // self.config.token_pixels)

    @functools.cached_property
    def patches(self) -> int:
        """ViT tokens of a picture."""
        width, height = self.config.vit_transform.shape(self.width, self.height)
        return (height // self.config.vit.patch) * (width // self.config.vit.patch)

    @property
    def picture(self) -> int:
        """Tokens of a picture in the context: latents and ViT tokens, two markers each."""
        return self.latents + 2 + self.patches + 2

    def before(self, turn: int) -> int:
        """Tokens in the full context before the instruction of a turn."""
        return turn * (self.picture + self.instruction) + self.picture

    def visible(self, turn: int) -> tuple[int, ...]:
        """Context tokens that each guidance branch sees while the picture of a turn is drawn."""
        texts = (turn + 1) * self.instruction
        return (self.before(turn) + self.instruction, self.before(turn), texts)[: self.branches]


# The decoder --------------------------------------------------------------------------------------------------------------------------


def expert_weights(c: DecoderConfig) -> int:
    """w: weights that one token meets in one layer."""
    return c.width * (c.heads + 2 * c.kv_heads) * c.head_dim + c.heads * c.head_dim * c.width + 3 * c.width * c.inner


def adapter_weights(c: DecoderConfig, rank: int) -> int:
    """a: weights of the adapters that one token meets in one layer."""
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return rank * (2 * (c.width + query) + 2 * (c.width + key) + 3 * (c.width + c.inner))


def block(c: DecoderConfig, tokens: int, cached: float, rank: int = 0) -> float:
    """Forward pass of a block of tokens that see `cached` keys and each other."""
    attention = 4 * c.heads * c.head_dim * (cached + tokens)
    return c.layers * tokens * (2 * expert_weights(c) + 2 * adapter_weights(c, rank) + attention)


def block_backward(c: DecoderConfig, tokens: int, cached: float, rank: int) -> float:
    """Gradients of the adapters, through frozen weights and over constant cached keys."""
    attention = 4 * c.heads * c.head_dim * (cached + 2 * tokens)
    return c.layers * tokens * (2 * expert_weights(c) + 4 * adapter_weights(c, rank) + attention)


# Pictures -----------------------------------------------------------------------------------------------------------------------------


def encode(d: Dialogue) -> float:
    """The autoencoder's encoder on one picture."""
    vae, (height, width) = d.config.vae, (d.height, d.width)
    total, channels = _conv(height, width, vae.in_channels, vae.width), vae.width
    for i, multiplier in enumerate(vae.multipliers):
        for _ in range(vae.blocks):
            total += _residual(height, width, channels, vae.width * multiplier)
            channels = vae.width * multiplier
        if i + 1 < len(vae.multipliers):
            height, width = height // 2, width // 2
            total += _conv(height, width, channels, channels)
    return total + _middle(height, width, channels) + _conv(height, width, channels, 2 * vae.latent_channels)


def decode(d: Dialogue) -> float:
    """The autoencoder's decoder on one picture."""
    vae = d.config.vae
    height, width, channels = d.height // vae.downsample, d.width // vae.downsample, vae.width * vae.multipliers[-1]
    total = _conv(height, width, vae.latent_channels, channels) + _middle(height, width, channels)
    for i, multiplier in reversed(list(enumerate(vae.multipliers))):
        for _ in range(vae.blocks + 1):
            total += _residual(height, width, channels, vae.width * multiplier)
            channels = vae.width * multiplier
        if i:
            height, width = 2 * height, 2 * width
            total += _conv(height, width, channels, channels)
    return total + _conv(height, width, channels, vae.out_channels)


def see(d: Dialogue) -> float:
    """The vision transformer and the connector on one picture."""
    vit, width = d.config.vit, d.config.decoder.width
    layer = 2 * (4 * vit.width**2 + 2 * vit.width * vit.inner) + 4 * vit.width * d.patches
    return d.patches * (2 * vit.patch_dim * vit.width + vit.layers * layer + 2 * (vit.width * width + width**2))


def _conv(height: int, width: int, inputs: int, outputs: int) -> int:
    return 2 * 9 * inputs * outputs * height * width


def _residual(height: int, width: int, inputs: int, outputs: int) -> int:
    shortcut = 2 * inputs * outputs * height * width if inputs != outputs else 0
    return _conv(height, width, inputs, outputs) + _conv(height, width, outputs, outputs) + shortcut


def _middle(height: int, width: int, channels: int) -> int:
    positions = height * width
    attention = positions * (2 * 4 * channels**2 + 4 * channels * positions)
    return 2 * _residual(height, width, channels, channels) + attention


# Phases -------------------------------------------------------------------------------------------------------------------------------


def picture(d: Dialogue, turn: int, rank: int = 0) -> float:
    """Perceiving the picture before a turn and reading it behind the dialogue so far."""
    c, before = d.config.decoder, d.before(turn) - d.picture
    latents = encode(d) + _latents_in(d) + block(c, d.latents + 2, before, rank)
    return latents + see(d) + block(c, d.patches + 2, before + d.latents + 2, rank)


def context(d: Dialogue, rank: int = 0) -> float:
    """Reading a whole dialogue: every picture before every turn, and the instructions into both caches."""
    c, total = d.config.decoder, 0.0
    for turn in range(d.turns):
        words = block(c, d.instruction, d.before(turn), rank) + block(c, d.instruction, turn * d.instruction, rank)
        total += picture(d, turn, rank) + words
    return total


def denoise(d: Dialogue, turn: int | None = None, rank: int = 0) -> float:
    """One guided denoising step of a turn, by default the last."""
    turn = d.turns - 1 if turn is None else turn
    branches = (block(d.config.decoder, d.latents + 2, seen, rank) for seen in d.visible(turn))
    return sum(branches) + d.branches * (_latents_in(d) + _latents_out(d))


def ask(d: Dialogue, turn: int | None = None, rank: int = 0) -> float:
    """Reading the system prompt and the question before a turn, by default the last."""
    before = d.before(d.turns - 1 if turn is None else turn)
    c = d.config.decoder
    return block(c, d.system, before, rank) + block(c, d.question, before + d.system, rank)


def token(d: Dialogue, turn: int | None = None, rank: int = 0) -> float:
    """One decoded token of an intent, on average over its tokens."""
    c = d.config.decoder
    before = d.before(d.turns - 1 if turn is None else turn) + d.system + d.question
    return block(c, 1, before + (d.intent - 1) / 2, rank) + 2 * c.width * c.vocab


def session(d: Dialogue) -> float:
    """Playing a whole session: contexts, intents, denoising, pictures."""
    thinking = sum(ask(d, turn) + d.intent * token(d, turn) for turn in range(1, d.turns))
    return context(d) + thinking + sum(d.steps * denoise(d, turn) + decode(d) for turn in range(d.turns))


def learning_step(d: Dialogue, turn: int | None = None) -> float:
    """Learning from one stochastic step of a turn: guided velocity of policy and reference, where there is one, and the way back."""
    turn = d.turns - 1 if turn is None else turn
    back = sum(block_backward(d.config.decoder, d.latents + 2, seen, d.rank) for seen in d.visible(turn))
    return d.reference * denoise(d, turn) + denoise(d, turn, d.rank) + back + d.branches * _latents_out(d)


def words(d: Dialogue, turn: int | None = None) -> float:
    """Learning from the intent of a turn: its question, its log-probabilities, and the way back."""
    c, turn = d.config.decoder, d.turns - 1 if turn is None else turn
    before = d.before(turn) + d.system + d.question
    both_ways = block(c, d.intent, before, d.rank) + block_backward(c, d.intent, before, d.rank)
    return ask(d, turn, d.rank) + both_ways + 2 * 2 * d.intent * c.width * c.vocab


def update(d: Dialogue) -> float:
    """One update: contexts once, every stochastic step of every turn, every intent."""
    steps = sum(d.window * learning_step(d, turn) for turn in range(d.turns))
    return context(d, d.rank) + steps + sum(words(d, turn) for turn in range(1, d.turns))


def recall(d: Dialogue) -> float:
    """Log-probabilities of everything drawn and written, under the policy."""
    c, total = d.config.decoder, context(d, d.rank)
    for turn in range(d.turns):
        total += d.window * denoise(d, turn, d.rank)
        if turn:
            before = d.before(turn) + d.system + d.question
            total += ask(d, turn, d.rank) + block(c, d.intent, before, d.rank) + 2 * d.intent * c.width * c.vocab
    return total


def _latents_in(d: Dialogue) -> int:
    """Projection of a picture's latents and of their time."""
    width = d.config.decoder.width
    return 2 * d.latents * d.config.token_dim * width + 2 * (TIME_CHANNELS * width + width**2)


def _latents_out(d: Dialogue) -> int:
    return 2 * d.latents * d.config.token_dim * d.config.decoder.width
