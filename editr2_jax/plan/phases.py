"""The phases of a run as programs to be compiled: the very functions that training calls, over shapes instead of arrays.

Letters: P sessions, G group, B rows of a pass, T turns, W stochastic steps, L latent tokens, C numbers in a token, K intent tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax import assemble
from editr2_jax.models import logical_axes
from editr2_jax.models.bagel.bagel import PictureTokens
from editr2_jax.objectives.joint_objective import Lesson
from editr2_jax.plan.topology import Topology
from editr2_jax.policies import context as contexts
from editr2_jax.policies import dialogue, flops
from editr2_jax.policies.context import Context
from editr2_jax.policies.dialogue import Played, Replay, Script
from editr2_jax.policies.flops import Dialogue
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import mesh as meshes
from editr2_jax.runtime.mesh import Layout, Layouts
from editr2_jax.training import state as states
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.update import Updater


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a step."""

    name: str
    trace: Callable[[], Any]  # -> jax.stages.Traced
    calls: float  # in one step; 0 for what happens elsewhere, such as an evaluation
    useful: float  # FLOPs that the method asks for in one call, all rows together (policies/flops.py)
    arguments: tuple[Any, ...]  # shapes with shardings, as they are traced with


class Subject:
    """A config on a topology: shapes, shardings, and the objects that training would be made of. No array is ever made."""

    def __init__(self, config, topology: Topology, *, size: tuple[int, int]):
        """`size`: height and width of the pictures. Raises ValueError for settings that the mesh does not divide."""
        if config.recipe != "edit_r2":
            raise ValueError(f"recipe is {config.recipe!r}; plan knows the phases of edit_r2 alone.")
        self.config, self.topology, self.size = config, topology, size
        self.layouts = _layouts(config, topology)
        self.network, self.trainable, self.frozen = assemble.abstract(config, self.layouts, platform=topology.platform)
        self.player = Player(self.network, assemble.rollout(config))
        self.optimizer = assemble.settings(OptimizerConfig, config.optimizer).build()
        self.updater = Updater(self.network, assemble.objective(config), assemble.policy(config), self.optimizer)
        self.averages = assemble.averages(config)
        self.rows, self.group, self.turns = config.step.rows, config.data.group, config.rollout.turns
        self.batches = config.data.sessions * config.data.group / config.step.rows
        self.sizes = assemble.sizes_of(config)
        assemble.refuse_indivisible(config, self.layouts, self.sizes)

    # Arrays -----------------------------------------------------------------------------------------------------------------------

    def like(self, tree: Any, *axes: str | None, layout: Layout | None = None) -> Any:
        """A tree of shapes (or arrays), lying where the layout of play puts these logical axes."""
        layout = layout or self.layouts.rollout
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.sharding(*axes)), tree)

    def shape(self, *shape: int, dtype=jnp.float32, axes: tuple[str | None, ...] = (), layout: Layout | None = None):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=(layout or self.layouts.rollout).sharding(*axes))

    def weights(self, layout: Layout) -> Weights:
        """The model's numbers in a layout."""
        trainable, frozen = (logical_axes.abstract(part, layout) for part in (self.trainable, self.frozen))
        return Weights(trainable=trainable, frozen=frozen)

    @property
    def play(self) -> Weights:
        return self.weights(self.layouts.rollout)

    @property
    def learn(self) -> Weights:
        return self.weights(self.layouts.train)

    def keys(self, rows: int):
        return self.like(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)))

    def sharers(self, phase: str) -> int:
        """How many devices share a phase's work outside of mapped regions. The others do it over again: along the sequence axis, which cuts
        slots alone, all of it; where rows are not cut along heads, also what has no heads to cut, autoencoder and vision transformer."""
        if phase.removeprefix("evaluation: ") in ("perceive", "decode"):
            return self.layouts.rollout.parts("batch")
        return self.layouts.train.mesh.size // self.layouts.train.parts("sequence")

    def words(self, rows: int, slots: int):
        """A text segment of every row."""
        return self.shape(rows, slots, dtype=jnp.int32), self.shape(rows, dtype=jnp.int32)

    def steps(self, rows: int):
        """The stochastic steps of every row."""
        return self.shape(rows, self.player.window.count, dtype=jnp.int32)

    @property
    def rank(self) -> int:
        """Of the adapter; 0 where the model learns itself."""
        return self.config.lora.rank if self.config.train == "lora" else 0

    def context(self, rows: int, group: int | None = None, turns: int = 0) -> Context:
        """A context of `rows` rollouts, with room for `turns` turns, by default those of training."""
        group, turns = group or self.group, turns or self.turns
        source = self.shape(rows // group, *self.size, 3, dtype=jnp.uint8)
        made = jax.eval_shape(lambda w, s: self.player.open(w, s, group=group, turns=turns), self.play, source)
        return jax.tree.map(lambda axes, leaf: self.like(leaf, *axes), contexts.AXES, made, is_leaf=lambda node: isinstance(node, tuple))

    def perceived(self, *rows: int) -> PictureTokens:
        """What play read of pictures."""
        d, width, dtype = self.dialogue(), self.sizes.decoder.width, assemble.dtype_of(self.config)
        return PictureTokens(
            latents=self.shape(*rows, d.latents, self.sizes.token_dim, axes=("batch",)),
            seen=self.shape(*rows, d.patches, width, dtype=dtype, axes=("batch",)),
        )

    def state(self) -> states.TrainState:
        """What a step changes."""
        layout, trainable = self.layouts.train, self.learn.trainable
        where = states.moment_shardings(trainable, self.optimizer, layout)
        lying = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)  # noqa: E731
        moments = jax.tree.map(lying, jax.eval_shape(self.optimizer.init, trainable), where)
        return states.TrainState(trainable=trainable, moments=moments, step=self.shape(dtype=jnp.int32, layout=layout))

    def played(self) -> Played:
        """A batch of rollouts as the update gets it."""
        policy, rows, turns = self.player.config.policy, self.rows, self.turns
        slots, window = policy.slots, self.player.window.count
        tokens = (self.size[0] // self.sizes.token_pixels) * (self.size[1] // self.sizes.token_pixels)
        token = (tokens, self.sizes.token_dim)
        cut = lambda *shape, dtype=jnp.float32: self.shape(*shape, dtype=dtype, axes=("batch",))  # noqa: E731
        words = lambda n: (self.shape(rows, turns, n, dtype=jnp.int32), self.shape(rows, turns, dtype=jnp.int32))  # noqa: E731
        ids, count = words(slots.instruction)
        intent, intent_count = words(slots.intent)
        return Played(
            script=Script(
                source=self.shape(rows // self.group, *self.size, 3, dtype=jnp.uint8),
                pictures=cut(rows, turns, *self.size, 3, dtype=jnp.uint8),
                instruction=ids,
                instruction_count=count,
                question=(words(slots.system), words(slots.question)),
                perceived=self.perceived(rows, turns),
            ),
            x=cut(rows, turns, window, *token),
            x_next=cut(rows, turns, window, *token),
            clean=cut(rows, turns, *token),
            step=self.shape(rows, turns, window, dtype=jnp.int32),
            image_log_prob=self.shape(rows, turns, window),
            intent=intent,
            intent_count=intent_count,
            intent_log_prob=self.shape(rows, turns, slots.intent),
        )

    def replay(self) -> Replay:
        """A batch of dialogues as the update reads them."""
        made = jax.eval_shape(self.updater.replay, self.learn, self.played().script)
        lying = lambda axes, leaf: self.like(leaf, *axes, layout=self.layouts.train)  # noqa: E731
        return jax.tree.map(lying, dialogue.AXES, made, is_leaf=lambda node: isinstance(node, tuple))

    def lesson(self) -> Lesson:
        """What a batch teaches, as the update gets it."""
        rows, turns = self.rows, self.turns
        window, intent = self.player.window.count, self.player.config.policy.slots.intent
        numbers, mask = self.shape(rows, turns), self.shape(rows, turns, dtype=jnp.bool_)
        return Lesson(
            image_log_prob=self.shape(rows, turns, window),
            intent_log_prob=self.shape(rows, turns, intent),
            image_advantage=numbers,
            text_advantage=numbers,
            reward=numbers,
            image_mask=mask,
            text_mask=mask,
            image_weight=numbers,
            token_weight=self.shape(rows, turns, intent),
            group_keys=self.keys(rows),
            member_keys=self.keys(rows),
        )

    def dialogue(self, *, rank: int = 0) -> Dialogue:
        """How much there is to do in one session: every slot of text filled."""
        policy = self.player.config.policy
        return Dialogue(
            config=self.sizes,
            height=self.size[0],
            width=self.size[1],
            turns=self.turns,
            instruction=policy.slots.instruction,
            system=policy.slots.system,
            question=policy.slots.question,
            intent=policy.slots.intent,
            steps=policy.flow.steps,
            window=self.player.window.count,
            branches=policy.flow.branches,
            rank=rank,
        )


def _layouts(config, topology: Topology) -> Layouts:
    settings = assemble.settings(meshes.MeshConfig, config.mesh)
    return meshes.choose(settings, meshes.make(settings, topology.devices))


def bytes_of(tree: Any) -> int:
    """Bytes per device of shapes with shardings."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def of_play(subject: Subject) -> list[Phase]:
    """Playing a batch of rollouts."""
    player, rows, turns, d = subject.player, subject.rows, subject.turns, subject.dialogue()
    policy, batches, decoder = player.config.policy, subject.batches, subject.sizes.decoder
    weights, context = subject.play, subject.context(rows)
    picture = subject.shape(rows, *subject.size, 3, dtype=jnp.uint8, axes=("batch",))
    latent = subject.shape(rows, d.latents, subject.sizes.token_dim, axes=("batch",))
    read = flops.encode(d) + flops.see(d)
    source = flops.block(decoder, d.latents + 2, 0) + flops.block(decoder, d.patches + 2, d.latents + 2)
    later = [flops.picture(d, turn) - read for turn in range(1, turns)]
    words = lambda turn: flops.block(decoder, d.instruction, d.before(turn)) + flops.block(decoder, d.instruction, turn * d.instruction)  # noqa: E731
    drawn = sum(d.steps * flops.denoise(d, turn) for turn in range(turns)) / turns
    serves = contexts.served(subject.network.for_play().execution, rows // subject.group, subject.group)
    opened = {"size": subject.size, "serves": serves, "turns": turns}
    phases = [
        _phase("perceive", player.perceive, turns * batches, rows * read, weights, picture),
        _phase("begin", player.begin, batches, rows // subject.group * source, weights, subject.perceived(rows // serves), **opened),
        _phase(
            "instruct", player.instruct, turns * batches, rows * sum(map(words, range(turns))) / turns,
            weights, context, *subject.words(rows, policy.slots.of_turn(0)),
        ),
        _phase(
            "denoise", player.denoise, turns * batches, rows * drawn,
            weights, context, subject.keys(rows), subject.keys(rows), subject.steps(rows), size=subject.size,
        ),
        _phase("decode", player.decode, turns * batches, rows * flops.decode(d), weights, latent, size=subject.size),
    ]  # fmt: skip
    if turns > 1:
        seen = rows * sum(later) / len(later)
        tokens = subject.perceived(rows)
        phases.insert(3, _phase("read", player.read, (turns - 1) * batches, seen, weights, context, tokens, size=subject.size))
        if player.config.reconstruct:
            phases.insert(4, _think(subject, player, (turns - 1) * batches, weights, context))
    return phases


def of_learning(subject: Subject) -> list[Phase]:
    """Asking again what was played, the gradient, and the update."""
    updater, rows, d = subject.updater, subject.rows, subject.dialogue(rank=subject.rank)
    weights, played, lesson = subject.learn, subject.played(), subject.lesson()
    state = subject.state()
    asks_again = subject.config.step.updates > 1 or not updater.loss_guides or updater.objective.intent.mismatch_cap > 0
    replay, context, perceived = subject.replay(), flops.context(d, subject.rank), flops.encode(d) + flops.see(d)  # perceived by play
    source = flops.picture(d, 0, subject.rank) - perceived  # read once for a group
    read = rows * (context - d.turns * perceived) - (rows - rows // subject.group) * source
    number = subject.shape(layout=subject.layouts.train)
    behaviour = weights.trainable if updater.objective.image.needs_old and (subject.config.step.updates > 1 or state.old) else None
    return [
        _phase("replay", updater.replay, (1 + asks_again) * subject.batches, read, weights, played.script),
        _phase("recall", updater.log_probs, subject.batches * asks_again, rows * (flops.recall(d) - context), weights, played, replay),
        _phase(
            "gradient", updater.gradient, subject.batches, rows * (flops.update(d) - context),
            weights, behaviour, played, replay, lesson, number,
        ),
        _phase("apply", updater._apply, subject.config.step.updates, 0.0, state, state.trainable),
    ]  # fmt: skip


def of_evaluation(subject: Subject) -> list[Phase]:
    """What held-out play does differently: no noise, greedy intents, groups of one, and as many turns and rows as it is told."""
    turns, rows, d = subject.config.evaluate.turns or subject.turns, subject.config.evaluate.rows, subject.dialogue()
    quiet, context, weights = subject.player.quiet(turns=turns), subject.context(rows, group=1, turns=turns), subject.play
    drawn = sum(d.steps * flops.denoise(d, turn) for turn in range(turns)) / turns
    none = subject.shape(rows, 0, dtype=jnp.int32)
    phases = [
        _phase(
            "evaluation: denoise", quiet.denoise, 0, rows * drawn,
            weights, context, subject.keys(rows), subject.keys(rows), none, size=subject.size,
        )
    ]  # fmt: skip
    if rows > subject.rows:
        latent = subject.shape(rows, d.latents, subject.sizes.token_dim, axes=("batch",))
        phases.append(_phase("evaluation: decode", quiet.decode, 0, rows * flops.decode(d), weights, latent, size=subject.size))
    if turns > 1 and quiet.config.reconstruct:
        phases.append(_think(subject, quiet, 0, weights, context, name="evaluation: intent"))
    return phases


def of(subject: Subject) -> list[Phase]:
    """All phases of a run, in the order of a step."""
    moved = []
    if subject.layouts.differ:
        places = logical_axes.shardings(subject.trainable, subject.layouts.rollout)
        move = jax.jit(lambda trainable: trainable, out_shardings=places)
        moved = [_phase("stage", move, 1, 0.0, subject.learn.trainable)]
    return [*moved, *of_play(subject), *of_learning(subject), *of_evaluation(subject)]


def _think(subject: Subject, player: Player, calls: float, weights: Weights, context: Context, name: str = "intent") -> Phase:
    rows, d, slots = context.rows, subject.dialogue(), player.config.policy.slots
    turns = range(1, player.config.turns)
    useful = sum(flops.ask(d, turn) + d.intent * flops.token(d, turn) for turn in turns) / len(turns)
    segments = (subject.words(rows, slots.system), subject.words(rows, slots.question))
    return _phase(name, player.think, calls, rows * useful, weights, context, segments, subject.keys(rows))


def _phase(name: str, function: Callable, calls: float, useful: float, *arguments: Any, **static: Any) -> Phase:
    return Phase(name=name, trace=lambda: function.trace(*arguments, **static), calls=calls, useful=useful, arguments=arguments)
