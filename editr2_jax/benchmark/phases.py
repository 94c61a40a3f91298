"""The phases of play and learning, each as a call that can be timed and a count of the FLOPs it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.benchmark import timing
from editr2_jax.benchmark.cases import Stage, Words
from editr2_jax.objectives.joint_objective import ObjectiveConfig
from editr2_jax.policies import flops, image_policy, intent_policy
from editr2_jax.policies.flops import Dialogue
from editr2_jax.rollouts import collect
from editr2_jax.training import state as states
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.update import Chunk, Updater

Call = Callable[[], Any]
_NEVER = -1  # an end token that no model writes, so that every row writes to the limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What a call does, in units of which a session has `units` per call, each needing `flops`."""

    unit: str
    prepare: Callable[[Stage], Call]
    flops: Callable[[Dialogue], float]
    units: Callable[[Dialogue], int] = lambda d: 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One phase at one batch; seconds and FLOPs are of one unit, all sessions of the batch together."""

    size: str
    phase: str
    unit: str
    batch: int
    seconds: float
    median_seconds: float
    compile_seconds: float
    flops: float
    matrix_rate: float  # GFLOP/s of the yardstick

    @property
    def milliseconds(self) -> float:
        """Of one unit and the whole batch."""
        return 1e3 * self.seconds

    @property
    def milliseconds_per_session(self) -> float:
        return self.milliseconds / self.batch

    @property
    def rate(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9

    @property
    def share(self) -> float:
        """Of the machine's matrix-product rate."""
        return self.rate / self.matrix_rate

    def as_json(self) -> dict[str, Any]:
        derived = ("milliseconds", "milliseconds_per_session", "rate", "share")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def run(size: str, stage: Stage, names: Sequence[str], *, repeats: int, matrix_rate: float) -> Iterator[Measurement]:
    """Measures the phases one by one, each as it is asked for."""
    for name in names:
        phase, d = PHASES[name], stage.dialogue
        taken, units = timing.measure(phase.prepare(stage), repeats=repeats), phase.units(d)
        yield Measurement(
            size=size,
            phase=name,
            unit=phase.unit,
            batch=stage.batch,
            seconds=taken.best / units,
            median_seconds=taken.median / units,
            compile_seconds=taken.first,
            flops=stage.batch * phase.flops(d),
            matrix_rate=matrix_rate,
        )


# Play ---------------------------------------------------------------------------------------------------------------------------------


def _encode(stage: Stage) -> Call:
    network, weights = stage.bare
    encode = jax.jit(lambda weights, picture: network.policy(weights.trainable, weights.frozen).encode(picture))
    picture = jnp.asarray(stage.pictures[:, 0])
    return lambda: encode(weights, picture)


def _decode(stage: Stage) -> Call:
    network, weights = stage.bare
    decode = jax.jit(lambda weights, latent: network.policy(weights.trainable, weights.frozen).decode(latent, *stage.size))
    latent = jnp.asarray(stage.latents)
    return lambda: decode(weights, latent)


def _context(stage: Stage) -> Call:
    player, (_, weights), turns = stage.player, stage.bare, stage.dialogue.turns
    pictures, instruction = jnp.asarray(stage.pictures), stage.segment(stage.dialogue.instruction)

    def call():
        context = player.open(weights, pictures[:, 0], group=1, turns=turns)
        for turn in range(turns):
            if turn:
                context = player.look(weights, context, pictures[:, turn])
            context = player.instruct(weights, context, *instruction)
        return context

    return call


def _denoise(stage: Stage) -> Call:
    """The loop as `Player.draw` runs it, without the picture's decoding."""
    network, weights = stage.bare
    noise, context, flow = jnp.asarray(stage.latents), stage.context, stage.policy.flow

    steps = jnp.broadcast_to(jnp.arange(stage.dialogue.window), (stage.batch, stage.dialogue.window))

    def loop(weights, context, noise):
        model, scratch = network.policy(weights.trainable, weights.frozen), stage.policy.slots.scratch
        return image_policy.sample(
            model, context, flow=flow, size=stage.size, noise=noise, steps=steps, step_noise=lambda step: noise, scratch=scratch
        )

    compiled = jax.jit(loop)
    return lambda: compiled(weights, context, noise)


def _ask(stage: Stage) -> Call:
    network, weights = stage.bare
    d, cache = stage.dialogue, dataclasses.replace(stage.asked, length=jnp.int32(stage.dialogue.before(stage.dialogue.turns - 1)))
    segments = stage.segment(d.system), stage.segment(d.question)
    ask = jax.jit(lambda weights, cache, segments: intent_policy.ask(network.policy(weights.trainable, weights.frozen), cache, segments))
    return lambda: ask(weights, cache, segments)


def _token(stage: Stage) -> Call:
    network, weights = stage.bare
    cache, keys = stage.asked, jax.random.split(jax.random.key(0), stage.batch)
    limit, temperature = stage.dialogue.intent, stage.policy.temperature

    def write(weights, cache, keys):
        model = network.policy(weights.trainable, weights.frozen)
        return intent_policy.sample(model, cache, keys=keys, limit=limit, temperature=temperature, end=_NEVER)[0]

    compiled = jax.jit(write)
    return lambda: compiled(weights, cache, keys)


def _session(stage: Stage) -> Call:
    words, (_, weights) = Words(stage.dialogue.config), stage.bare
    return lambda: collect.play(stage.player, weights, stage.samples, key=jax.random.key(0), tokenizer=words).played.clean


# Learning -----------------------------------------------------------------------------------------------------------------------------


def _updater(stage: Stage) -> Updater:
    return Updater(stage.adapted[0], ObjectiveConfig(), stage.policy, OptimizerConfig().build())


def _recall(stage: Stage) -> Call:
    updater, weights = _updater(stage), stage.adapted[1]
    return lambda: updater.ask_again(weights, stage.played)


def _update(stage: Stage) -> Call:
    updater, weights = _updater(stage), stage.adapted[1]
    rows = np.arange(stage.played.step.shape[0])
    chunk = Chunk(played=stage.played, credit=stage.credit, group=rows, member=np.zeros_like(rows))
    old = {id(chunk): (stage.played.image_log_prob, stage.played.intent_log_prob)}
    state = states.create(jax.tree.map(jnp.copy, weights.trainable), updater.optimizer)

    def call():
        nonlocal state  # its buffers are given away to the next state
        state, *_ = updater.step(state, weights.frozen, [[chunk]], old=old, key=jax.random.key(0))
        return state.trainable

    return call


PHASES = {
    "encode": Phase(unit="picture encoded (VAE)", prepare=_encode, flops=flops.encode),
    "decode": Phase(unit="picture decoded (VAE)", prepare=_decode, flops=flops.decode),
    "context": Phase(unit="contexts of all turns", prepare=_context, flops=flops.context),
    "denoise": Phase(unit="guided denoising step", prepare=_denoise, flops=flops.denoise, units=lambda d: d.steps),
    "ask": Phase(unit="question read", prepare=_ask, flops=flops.ask),
    "token": Phase(unit="token decoded", prepare=_token, flops=flops.token, units=lambda d: d.intent),
    "session": Phase(unit="session of all turns", prepare=_session, flops=flops.session),
    "recall": Phase(unit="old log-probabilities", prepare=_recall, flops=flops.recall),
    "update": Phase(unit="update with KL reference", prepare=_update, flops=flops.update),
}
