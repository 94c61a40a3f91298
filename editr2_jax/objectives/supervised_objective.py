"""The supervised objective: flow matching on ground-truth pictures and next-token prediction on ground-truth intents.

    x_t = (1 - t) x0 + t e,   loss = mean (v(x_t, t, context) - (e - x0))^2  +  text_weight * mean -log p(intent token)

Letters: B rows, T turns, M draws of (noise, time) per turn, R = T * M, L latent tokens, C numbers in a token, X tokens of a thought.
A whole session is read once; every turn's pictures are drawn against what that turn saw, with gradients through the contexts. For
guidance to work later, a share of the draws sees no instruction, and a share of the rows sees no pictures. Source: BAGEL's training.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.flow import rectified_flow
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.policies import dialogue
from editr2_jax.policies.context import Slots
from editr2_jax.policies.dialogue import Script


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of the supervised objective."""

    draws: int = 2  # M
    shift: float = 3.0  # of the training times, as in the sampler's grid: more of them near the noise
    drop_instruction: float = 0.1  # share of draws without the instruction
    drop_pictures: float = 0.125  # share of rows that also learn to draw from instructions alone
    text_weight: float = 0.2
    text_share: float = 0.25  # share of rows whose intents are learned in a step; words are learned sooner than pictures

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"SupervisedConfig.draws is {self.draws}; draw at least one noise per turn.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lecture:
    """Ground-truth sessions as arrays."""

    script: Script  # pictures are the ground truth; instructions of later turns are the ground-truth intents
    thought: Int[Array, "B T X"]  # question, begin token and answer of a turn in one piece; empty for turn 0
    thought_count: Int[Array, "B T"]
    answer: Bool[Array, "B T X"]  # which tokens of the thought are to be predicted


def loss(
    model: Bagel, lecture: Lecture, *, key: jax.Array, config: SupervisedConfig, slots: Slots
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss and metrics of a batch of sessions."""
    slots = slots.without_scratch()
    replay = dialogue.replay(model, lecture.script, slots)
    flow = _flow_loss(model, replay, lecture.script, key, config, slots)
    metrics = {"supervised/flow": flow}
    if lecture.script.turns == 1 or not config.text_weight:
        return flow, metrics
    rows = max(1, int(lecture.thought.shape[0] * config.text_share))
    text, right = _text_loss(model, replay, lecture, slots, rows)
    return flow + config.text_weight * text, metrics | {"supervised/text": text, "supervised/token_accuracy": right}


def _flow_loss(model: Bagel, replay, script: Script, key, config: SupervisedConfig, slots: Slots) -> Float[Array, ""]:
    b, turns, height, width = script.pictures.shape[:4]
    m, keys = config.draws, jax.random.split(key, 3)
    clean = jax.lax.stop_gradient(model.encode(script.pictures.reshape(b * turns, height, width, 3)))
    clean = jnp.repeat(clean.reshape(b, turns, *clean.shape[1:]), m, axis=1)  # [B, R, L, C]
    u = jax.random.uniform(keys[0], clean.shape[:2])
    t = config.shift * u / (1 + (config.shift - 1) * u)
    noise = jax.random.normal(keys[1], clean.shape, jnp.float32)
    flat = (b * turns * m, *clean.shape[2:])
    x = rectified_flow.interpolate(clean.reshape(flat), noise.reshape(flat), t.reshape(-1)).reshape(clean.shape)
    wanted = rectified_flow.velocity(clean, noise)
    blind = jax.random.uniform(keys[2], clean.shape[:2]) < config.drop_instruction  # [B, R]
    seen = jax.tree.map(lambda leaf: jnp.repeat(jnp.swapaxes(leaf, 0, 1), m, axis=1), replay.drawing)  # leaves [B, R, ...]
    end = replay.context.full.capacity - slots.scratch
    visible = jnp.where(blind[:, :, None], seen.without_instruction, seen.full)[:, :, :end]
    start = jnp.where(blind, seen.start[:, :, 1], seen.start[:, :, 0])
    full, text, grid = replay.context.full, replay.context.text, model.latent_grid(height, width)
    view = View(k=full.k[:, :, :, :end], v=full.v[:, :, :, :end], visible=visible)
    error = jnp.square(model.velocity(x, t, grid=grid, start=start, views=(view,)) - wanted)
    few = int(b * config.drop_pictures)
    if not few:
        return error.mean()
    words = View(k=text.k[:, :few], v=text.v[:, :few], visible=seen.without_pictures[:few])
    alone = model.velocity(x[:few], t[:few], grid=grid, start=seen.start[:few, :, 2], views=(words,)) - wanted[:few]
    return (jnp.sum(error) + jnp.sum(jnp.square(alone))) / (error.size + alone.size)


def _text_loss(model: Bagel, replay, lecture: Lecture, slots: Slots, rows: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean negative log-likelihood and accuracy over the answer tokens of the later turns of the first `rows` rows."""
    full = replay.context.full
    visible, start = (jnp.swapaxes(leaf, 0, 1)[:rows, 1:] for leaf in (replay.thinking_visible, replay.thinking_rope))
    ids, count, answer = (leaf[:rows, 1:] for leaf in (lecture.thought, lecture.thought_count, lecture.answer))
    valid = jnp.arange(ids.shape[2]) < count[:, :, None]
    end = full.capacity - slots.scratch
    view = View(k=full.k[:, :rows, :, :end], v=full.v[:, :rows, :, :end], visible=visible[:, :, :end])
    hidden, _ = model.read_text(ids, valid=valid, start=start, views=(view,))
    logits = model.logits(hidden)[:, :, :-1]  # the logits at a token predict the next one
    wanted, here = ids[:, :, 1:], answer[:, :, 1:]
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
    total = jnp.maximum(here.sum(), 1)
    right = jnp.sum(jnp.where(here, jnp.argmax(logits, -1) == wanted, False))
    return -jnp.sum(jnp.where(here, likelihood, 0.0)) / total, right / total
