"""A world small enough to be played, asked again and learned from in a test: the recorded tiny weights, two sessions, two turns.

Everything here is made once per process and shared by the tests; nobody changes it. What takes time is compilation, not arithmetic, so
compiled functions ask for little optimisation.
"""

import dataclasses
import functools
import zlib
from unittest import mock

import bagel_cases
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models import lora, network
from editr2_jax.objectives.joint_objective import Lesson, ObjectiveConfig
from editr2_jax.policies.context import Context, Slots
from editr2_jax.policies.dialogue import PolicyConfig
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.records import Sample, Session, Turn
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.rollouts.player import Player, RolloutConfig, Weights
from editr2_jax.runtime import quick
from editr2_jax.training import state as states
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.update import Updater

HEIGHT, WIDTH, TURNS = 32, 48, 2
SLOTS = Slots(instruction=8, later=6, system=3, question=14, intent=5)
POLICY = PolicyConfig(flow=FlowConfig(grid_points=4), slots=SLOTS)
WINDOW = WindowConfig(size=2, last=3)
PROMPT = IntentPrompt(system="Go.", question="{history} | {instruction} ?")
ROLLOUT = RolloutConfig(turns=TURNS, policy=POLICY, window=WINDOW, prompt=PROMPT)
LORA = lora.LoraConfig(rank=2, alpha=4.0)
GROUPS, MEMBERS = (5, 9), 2  # numbers of the sessions in their stream, and rollouts of each

# compilation -----------------------------------------------------------------------------------------------------------------------

_jit = jax.jit


def jit(function, **more):
    """jax.jit that compiles in a fraction of the time, to slower code; nothing happens before the first call."""
    made = functools.cache(lambda inside: _jit(function, compiler_options=None if inside else quick.options(), **more))

    def call(*args, **given):
        inside = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, given)))  # options are for the outermost alone
        return made(inside)(*args, **given)

    return call


def quickly(make, *args, **more):
    """What `make` constructs, its compiled functions made by `jit` above."""
    with mock.patch.object(jax, "jit", jit):
        return make(*args, **more)


def compiled(function, model=None):
    """function(model, *arrays), compiled, of the tiny model or a given one; weights are arguments, not constants."""

    @functools.cache
    def made():
        graph, state = nnx.split(model or world_model())
        return jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays)), state

    def call(*arrays):
        run, state = made()
        return run(state, *arrays)

    return call


# the model -------------------------------------------------------------------------------------------------------------------------


@functools.cache
def world_model():
    """The recorded model with a loud end token, so that of its random intents some end early and some never."""
    model = nnx.clone(bagel_cases.model())
    head = model.decoder.lm_head.w
    head[...] = head[...].at[:, model.config.tokens.eos].multiply(12.0)
    return model


@functools.cache
def parts():
    """(network, fresh adapter, frozen weights)."""
    return network.with_adapter(nnx.clone(world_model()), LORA, key=jax.random.key(1))


def net():
    return parts()[0]


def fresh() -> Weights:
    """Weights under an adapter that has learned nothing."""
    _, trainable, frozen = parts()
    return Weights(trainable=jax.tree.map(jnp.copy, trainable), frozen=frozen)


@functools.cache
def moved() -> Weights:
    """Weights under an adapter that changes what the model does."""
    _, trainable, frozen = parts()
    leaves, tree = jax.tree.flatten(trainable)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    far = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return Weights(trainable=tree.unflatten(far), frozen=frozen)


@functools.cache
def policy_model():
    """The model with the moved adapter, which played `rollout`."""
    return net().policy(moved().trainable, moved().frozen)


# sessions --------------------------------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer of whole words. The token that the tiny weights like best reads as the tag that ends a thought."""

    bos, eos, tag = 311, 312, 184

    def encode(self, text: str) -> list[int]:
        return [int(word[1:]) if word[0] == "w" and word[1:].isdigit() else zlib.crc32(word.encode()) % 300 for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join("</think>" if i == self.tag else f"w{i}" for i in ids)


def turn(text: str, **more) -> Turn:
    """A turn in which nothing but the words matters."""
    objects = {"unchanged_objects": (), "available_objects": (), "all_objects": ()}
    return Turn(**{"instruction": text, "formatted_instruction": text, "task_type": "subject_add", "bg_consistency": True} | objects | more)


INSTRUCTIONS = (("paint it", "make it red", "undo"), ("move the small box", "up", "and down"))  # of unequal length


@functools.cache
def samples(turns: int = TURNS) -> tuple[Sample, ...]:
    """Two sessions with their pictures, each twice in a row."""
    made = []
    for number, texts in zip(GROUPS, INSTRUCTIONS, strict=True):
        session = Session(id=f"s{number}", image="none.png", turns=tuple(map(turn, texts[:turns])))
        picture = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        made += [Sample(session=session, picture=picture, group=number, member=member) for member in range(MEMBERS)]
    return tuple(made)


# play and learning -----------------------------------------------------------------------------------------------------------------


@functools.cache
def player() -> Player:
    return quickly(Player, net(), ROLLOUT)


@functools.cache
def still_player() -> Player:
    """As `player`, without noise; what the two have in common is compiled once."""
    return quickly(player().quiet)


def play(some=None, *, weights: Weights | None = None, by: Player | None = None, tokenizer=None, seed: int = 3, **more) -> collect.Rollout:
    """The two sessions, or `some` samples, played."""
    some, key = samples() if some is None else some, jax.random.key(seed)
    return collect.play(by or player(), weights or moved(), some, key=key, tokenizer=tokenizer or Words(), **more)


@functools.cache
def rollout() -> collect.Rollout:
    """The two sessions, played by the moved adapter."""
    return play()


@functools.cache
def stages(rows: tuple[int, ...] = (0, 1, 2, 3)) -> list[Context]:
    """The contexts of rows of the rollout as play makes them: the picture, the instruction, the picture drawn, the next instruction."""
    script, made, some = rollout().played.script, [], [samples()[row] for row in rows]
    group = sum(sample.group == some[0].group for sample in some)
    context = player().open(moved(), np.stack([sample.picture for sample in some[::group]]), group=group, turns=TURNS)
    pictures, words, counts = (np.asarray(x)[list(rows)] for x in (script.pictures, script.instruction, script.instruction_count))
    for t in range(TURNS):
        if t:
            context = player().look(moved(), context, pictures[:, t - 1])
        made.append(jax.tree.map(jnp.copy, context))  # the player takes over the one it is given
        context = player().instruct(moved(), context, words[:, t, : SLOTS.of_turn(t)], counts[:, t])
        made.append(jax.tree.map(jnp.copy, context))
    return made


@functools.cache
def updater() -> Updater:
    return quickly(Updater, net(), ObjectiveConfig(), POLICY, OptimizerConfig(learning_rate=1e-3, weight_decay=0.0).build())


@functools.cache
def asked() -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [B, T, W] and [B, T, K] of the rollout under the weights that played it, from the pass that the loss makes."""
    return jax.tree.map(np.asarray, updater().ask_again(moved(), rollout().played))


def state(weights: Weights | None = None) -> states.TrainState:
    """A training state of its own: an update gives its memory away."""
    trainable = jax.tree.map(jnp.copy, (weights or moved()).trainable)
    return states.create(trainable, updater().optimizer)


def lesson(advantage: float = 1.0, **changes) -> Lesson:
    """A lesson in which every turn of the rollout teaches; `changes` replace fields."""
    image, text = asked()
    worth, counts = np.full(image.shape[:2], advantage, np.float32), np.ones(image.shape[:2], bool)
    old = {"image_log_prob": image, "intent_log_prob": text}
    credit = {"image_advantage": worth, "text_advantage": worth, "image_mask": counts, "text_mask": counts, "reward": worth}
    tokens = np.asarray(rollout().played.intent_count)
    weight = {"image_weight": np.ones_like(worth), "token_weight": np.repeat((1 / np.maximum(tokens, 1))[:, :, None], text.shape[2], 2)}
    keys = jax.random.split(jax.random.key(0), 2 * len(worth))
    drawn = {"group_keys": keys[np.repeat(np.arange(len(GROUPS)), MEMBERS)], "member_keys": keys[len(worth) :]}
    return Lesson(**jax.tree.map(jnp.asarray, old | credit | weight | changes), **drawn)


def gradients(lesson_: Lesson, *, weights: Weights | None = None, played=None, rollouts: float | None = None):
    """(gradients, loss, metrics) of one chunk: the pass that an update compiles."""
    played = rollout().played if played is None else played
    n = played.step.shape[0] if rollouts is None else rollouts
    return updater()._gradients(weights or moved(), None, played, lesson_, jnp.float32(n))


def size_of(tree) -> float:
    """Largest absolute number of a tree; NaN if any is."""
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def assert_close(a, b, **tolerance) -> None:
    """Two trees of one structure, leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance)


def with_played(**changes):
    """The rollout's arrays, some replaced."""
    return dataclasses.replace(rollout().played, **changes)
