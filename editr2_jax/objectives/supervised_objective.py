"""The supervised objective: flow matching on ground-truth pictures and next-token prediction on ground-truth intents and
captions.

    x_t = (1 - t) x0 + t e,   loss = mean (v(x_t, t, context) - (e - x0))^2  +  text_weight * mean -log p(answer token)

Letters: B rows, T turns, M draws of (noise, time) per turn, R = T * M, L latent tokens, C numbers in a token, X tokens of a thought.
A whole session is read once; every turn's pictures are drawn against what that turn saw, with gradients through the contexts. For
guidance to work later, a share of the draws sees no instruction, and a share of the rows no pictures. Source: BAGEL's training.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from editr2_jax.flow import rectified_flow
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.policies import one_pass
from editr2_jax.policies.context import Slots
from editr2_jax.policies.one_pass import Reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of the supervised objective."""

    draws: int = 2  # M
    shift: float = 3.0  # of the training times, as in the sampler's grid: more of them near the noise
    drop_instruction: float = 0.1  # share of draws without the instruction
    drop_pictures: float = 0.125  # share of rows that learn to draw from instructions alone
    text_weight: float = 0.2
    text_share: float = 0.25  # share of rows whose words are learned in a step; words are learned sooner than pictures
    repeat: float = 0.0  # share of later turns whose answer repeats the instruction; pictures are drawn from the intent all the same

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"SupervisedConfig.draws is {self.draws}; draw at least one noise per turn.")
        if not 0 <= self.repeat <= 1:
            raise ValueError(f"SupervisedConfig.repeat is {self.repeat}; a share lies between 0 and 1.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lecture:
    """Ground-truth sessions as arrays."""

    pictures: UInt8[Array, "B T H W 3"]  # what each turn starts from: the source, then the ground truth
    latents: Float[Array, "B T+1 L C"]  # of the source and of every turn's ground truth
    instruction: Int[Array, "B T Ti"]  # the instruction; in later turns the ground-truth intent
    instruction_count: Int[Array, "B T"]
    thought: Int[Array, "B T X"]  # question, begin token and answer in one piece: the source's caption in turn 0, then the turn's intent
    thought_count: Int[Array, "B T"]
    answer: Bool[Array, "B T X"]  # which tokens of the thought are to be predicted


def loss(
    model: Bagel, lecture: Lecture, *, key: jax.Array, config: SupervisedConfig, slots: Slots
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics of a batch of sessions. An accuracy over no tokens is 0, so the number of tokens stands beside it."""
    rows, turns, height, width = lecture.pictures.shape[:4]
    grid = model.latent_grid(height, width)
    seen = model.see(lecture.pictures.reshape(-1, height, width, 3)).reshape(rows, turns, -1, model.config.decoder.width)
    instructions = tuple(lecture.instruction[:, t, : slots.of_turn(t)] for t in range(turns))
    blind = int(rows * config.drop_pictures)
    sighted = jnp.arange(rows) >= blind
    reading = one_pass.read(model, lecture.latents[:, :-1], seen, instructions, lecture.instruction_count, grid=grid, sighted=sighted)
    flow = _flow_loss(model, reading, lecture.latents[:, 1:], key, config, grid)
    metrics = {"supervised/flow": flow}
    if not config.text_weight:
        return flow, metrics
    learned = max(1, min(int(rows * config.text_share), rows - blind))  # nobody describes what he did not see
    text, told = _text_loss(model, reading, lecture, learned)
    return flow + config.text_weight * text, metrics | told


def _flow_loss(
    model: Bagel, reading: Reading, clean: Float[Array, "B T L C"], key, config: SupervisedConfig, grid: tuple[int, int]
) -> Float[Array, ""]:
    m, keys = config.draws, jax.random.split(key, 3)
    each_draw = lambda x: jnp.repeat(x, m, axis=1)  # noqa: E731
    clean = each_draw(clean)  # [B, R, L, C]
    u = jax.random.uniform(keys[0], clean.shape[:2])
    t = config.shift * u / (1 + (config.shift - 1) * u)
    noise = jax.random.normal(keys[1], clean.shape, jnp.float32)
    rows = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    x = rectified_flow.interpolate(rows(clean), rows(noise), t.reshape(-1)).reshape(clean.shape)
    blind = jax.random.uniform(keys[2], clean.shape[:2]) < config.drop_instruction  # [B, R]
    visible = jnp.where(blind[:, :, None], each_draw(reading.before), each_draw(reading.after))
    start = jnp.where(blind, each_draw(reading.before_rope), each_draw(reading.after_rope))
    view = View(k=reading.k, v=reading.v, visible=visible)
    velocity = model.velocity(x, t, grid=grid, start=start, views=(view,))
    return jnp.mean(jnp.square(velocity - rectified_flow.velocity(clean, noise)))


def _text_loss(model: Bagel, reading: Reading, lecture: Lecture, rows: int) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean negative log-likelihood over the answer tokens of the last `rows` rows; what to report of it."""
    ids, count, answer = (leaf[-rows:] for leaf in (lecture.thought, lecture.thought_count, lecture.answer))
    valid = jnp.arange(ids.shape[2]) < count[:, :, None]
    view = View(k=reading.k[:, -rows:], v=reading.v[:, -rows:], visible=reading.before[-rows:])
    hidden, _ = model.read_text(ids, valid=valid, start=reading.before_rope[-rows:], views=(view,))
    logits = model.logits(hidden)[:, :, :-1]  # the logits at a token predict the next one
    wanted, here = ids[:, :, 1:], answer[:, :, 1:]
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
    right = here & (jnp.argmax(logits, -1) == wanted)
    mean = lambda values, part: values[:, part].sum() / jnp.maximum(here[:, part].sum(), 1)  # noqa: E731
    text = mean(jnp.where(here, -likelihood, 0.0), slice(None))
    metrics = {"supervised/text": text}
    for kind, part in (("caption", slice(0, 1)), ("intent", slice(1, None))):
        metrics |= {f"supervised/{kind}_accuracy": mean(right, part), f"supervised/{kind}_tokens": here[:, part].sum()}
    return text, metrics
