"""A whole dialogue put before the model again, after it has been played.

Letters: P sessions, G group, B = P * G rows, T turns, W stochastic steps, L latent tokens, C numbers in a token, K intent tokens.

Cached keys and values of earlier tokens never depend on later ones, so one pair of caches serves every turn: what a turn saw is a mask.
The update asks both policies against these caches, and the segments enter through the same functions and in the same order as in play.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from editr2_jax.models.bagel.bagel import Bagel, PictureTokens
from editr2_jax.models.execution import Execution
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.policies import context as contexts
from editr2_jax.policies import intent_policy
from editr2_jax.policies.context import Context, Sight, Slots
from editr2_jax.policies.image_policy import FlowConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What sampling and learning must agree on, or ratios would not be one."""

    flow: FlowConfig = FlowConfig()
    temperature: float = 0.7  # of the intent's tokens
    slots: Slots = Slots()

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"PolicyConfig.temperature is {self.temperature}; give a positive number (evaluation writes greedily anyway).")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """What was said and drawn, as the contexts saw it."""

    source: UInt8[Array, "P H W 3"]
    pictures: UInt8[Array, "B T H W 3"]  # output of every turn; the last one enters no context
    instruction: Int[Array, "B T Ti"]  # tokens that conditioned the picture: the instruction, or the intent in its place; turn 0's slots
    instruction_count: Int[Array, "B T"]
    question: tuple[tuple[Int[Array, "B T Tq"], Int[Array, "B T"]], ...]  # segments of the intent's question; count 0 where not asked
    perceived: PictureTokens | None = None  # [B, T]: what play read of the picture that each turn starts from; None: to be perceived again

    @property
    def turns(self) -> int:
        return self.instruction.shape[1]

    @property
    def group(self) -> int:
        return self.instruction.shape[0] // self.source.shape[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """The arrays of a rollout: all that the update needs to ask both policies again."""

    script: Script
    x: Float[Array, "B T W L C"]  # before each stochastic step
    x_next: Float[Array, "B T W L C"]  # and after it
    clean: Float[Array, "B T L C"]  # the final latent, at t = 0
    step: Int[Array, "B T W"]  # indices of the stochastic steps on the time grid; W may be 0
    image_log_prob: Float[Array, "B T W"]
    intent: Int[Array, "B T K"]
    intent_count: Int[Array, "B T"]  # 0 where no intent was asked for
    intent_log_prob: Float[Array, "B T K"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """The caches of a whole dialogue and, per turn, what was visible when the picture was drawn and when the intent was written."""

    context: Context
    drawing: Sight  # every leaf with a leading axis T
    thinking_visible: Bool[Array, "T B S"]
    thinking_rope: Int[Array, "T B"]

    def thinking(self, turn: Int[Array, ""], scratch: int) -> KVCache:
        """The full cache as it stood before the instruction of `turn`, its cursor on the scratch slots."""
        full = self.context.full
        return dataclasses.replace(
            full,
            valid=self.thinking_visible[turn],
            rope=self.thinking_rope[turn],
            length=jnp.asarray(full.capacity - scratch, jnp.int32),
        )


AXES = Replay(  # logical axes of its arrays
    context=contexts.AXES,
    drawing=Sight(full=(None, "batch"), without_instruction=(None, "batch"), without_pictures=(None, "batch"), start=(None, "batch")),
    thinking_visible=(None, "batch"),
    thinking_rope=(None, "batch"),
)


def placed(replayed: Replay, run: Execution) -> Replay:
    """The replay, told where its rows, heads and slots lie."""
    return jax.tree.map(lambda axes, leaf: run.constrain(leaf, *axes), AXES, replayed, is_leaf=lambda node: isinstance(node, tuple))


def asked(
    model: Bagel, played: Played, replayed: Replay, turn: Int[Array, ""], *, slots: Slots
) -> tuple[KVCache, Int[Array, "B K"], Int[Array, "B"]]:
    """The dialogue before `turn` followed by its question, and the intent's tokens that were written behind it."""
    question = tuple((ids[:, turn], count[:, turn]) for ids, count in played.script.question)
    cache = intent_policy.ask(model, replayed.thinking(turn, slots.scratch), question)
    return cache, played.intent[:, turn], played.intent_count[:, turn]


def replay(model: Bagel, script: Script, slots: Slots) -> Replay:
    """Reads a played dialogue into fresh caches. The caller decides whether gradients flow through them."""
    height, width = script.source.shape[1:3]
    capacity = slots.capacity(model.config, turns=script.turns, height=height, width=width)
    run = model.decoder.execution
    serves = contexts.served(run, script.source.shape[0], script.group)
    if script.perceived is None:
        source = model.perceive(jnp.repeat(script.source, script.group // serves, axis=0))
    else:
        source = jax.tree.map(lambda x: x[::serves, 0], script.perceived)
    context = contexts.of_sources(model, source, (height, width), serves=serves, capacity=capacity)
    thinking = [(context.full.valid[None], context.full.rope[None])]
    context = contexts.add_instruction(model, context, script.instruction[:, 0], script.instruction_count[:, 0])
    drawing = [jax.tree.map(lambda x: x[None], contexts.sight(context))]

    def turn(context, xs):
        picture, ids, count = xs
        picture = picture if isinstance(picture, PictureTokens) else model.perceive(picture)
        context = contexts.add_tokens(model, context, picture, (height, width))
        before = context.full.valid, context.full.rope
        context = contexts.placed(contexts.add_instruction(model, context, ids, count), run)
        return context, (before, contexts.sight(context))

    if script.turns > 1:
        by_turn = lambda x, part: jnp.swapaxes(x[:, part], 0, 1)  # noqa: E731
        later = slice(1, None)
        perceived = jax.tree.map(lambda x: by_turn(x, later), script.perceived)
        xs = (
            by_turn(script.pictures, slice(0, -1)) if perceived is None else perceived,
            by_turn(script.instruction[:, :, : slots.later], later),
            by_turn(script.instruction_count, later),
        )
        context, (before, seen) = jax.lax.scan(turn, context, xs)
        thinking.append(before)
        drawing.append(seen)
    join = lambda *parts: jnp.concatenate(parts, axis=0)  # noqa: E731
    visible, rope = jax.tree.map(join, *thinking)
    return Replay(context=context, drawing=jax.tree.map(join, *drawing), thinking_visible=visible, thinking_rope=rope)
