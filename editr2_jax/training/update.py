"""One step's learning of Edit-R2: what was drawn and written is asked about again, and learned from in a few updates.

A step's rollouts are cut into chunks of sessions of one shape; a chunk is what one compiled pass holds in memory. Where a step has several
updates, old log-probabilities come from the pass that the loss makes, so the first has ratio one. Gradients of an update's chunks add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt32

from editr2_jax.models import logical_axes
from editr2_jax.models.network import Network
from editr2_jax.objectives import joint_objective
from editr2_jax.objectives.joint_objective import Lesson, ObjectiveConfig
from editr2_jax.policies import dialogue
from editr2_jax.policies.dialogue import Played, PolicyConfig, Replay, Script
from editr2_jax.rl import reductions, sampler_mismatch
from editr2_jax.rollouts.player import Weights
from editr2_jax.runtime import keys
from editr2_jax.training import state as states
from editr2_jax.training.state import TrainState
from editr2_jax.training.train_batch import Credit

LogProbs = tuple[Float[Array, "B T W"], Float[Array, "B T K"]]  # of the drawn steps, and of the written tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rollouts of one shape and what they teach."""

    played: Played
    credit: Credit
    group: UInt32[np.ndarray, "B"]  # number of the session, and of the rollout in its group: they name the rows' random streams
    member: UInt32[np.ndarray, "B"]

    @property
    def rows(self) -> int:
        return self.played.step.shape[0]

    @property
    def turns(self) -> int:
        return self.played.step.shape[1]

    @property
    def tokens(self) -> np.ndarray:
        """Tokens that teach, [B, T]."""
        teaches = self.credit.text_mask[:, : self.turns]
        return np.where(teaches, np.asarray(self.played.intent_count), 0)


class Slope(NamedTuple):
    """What one update follows."""

    gradient: nnx.State  # of the trainable weights, over all chunks of the update
    loss: float
    metrics: dict[str, float]
    divergence: dict[int, Float[np.ndarray, "B T"]]  # to the reference, by id of the chunk; 0 where masked


class Learned(NamedTuple):
    """What a step's updates made."""

    state: TrainState
    metrics: dict[str, float]
    divergence: dict[int, Float[np.ndarray, "B T"]]  # to the reference, by id of the chunk, as its update found it; 0 where masked


def _go_on() -> None:
    """No pause."""


class Updater:
    """Compiled gradient passes of one network under one objective. Nothing is remembered between calls."""

    def __init__(self, network: Network, objective: ObjectiveConfig, policy: PolicyConfig, optimizer: optax.GradientTransformation):
        self.network, self.objective, self.policy, self.optimizer = network, objective, policy, optimizer
        self.replay = jax.jit(self._replay)
        self.log_probs = jax.jit(self._log_probs, static_argnames=("as_loss",))
        self.gradient = jax.jit(self._gradient)
        self._size = jax.jit(optax.tree.norm)
        self._apply = jax.jit(self._apply_to, donate_argnums=(0,))

    @property
    def loss_guides(self) -> bool:
        """Whether the loss asks for the velocity that the sampler followed."""
        return self.objective.image.policy(self.policy) == self.policy

    def ask_again(self, weights: Weights, played: Played, *, as_loss: bool = True) -> LogProbs:
        """Log-probabilities of what was played; as the loss asks for them, or as the sampler did, which may differ in guidance."""
        return self.log_probs(weights, played, self.replay(weights, played.script), as_loss=as_loss)

    def _replay(self, weights: Weights, script: Script) -> Replay:
        """The dialogue as the policy reads it: a program of its own, which log-probabilities and gradients share."""
        return dialogue.placed(
            dialogue.replay(self.network.policy(weights.trainable, weights.frozen), script, self.policy.slots), self.network.execution
        )

    def _log_probs(self, weights: Weights, played: Played, replay: Replay, *, as_loss: bool = True) -> LogProbs:
        policy = self.objective.image.policy(self.policy) if as_loss else self.policy
        told = joint_objective.log_probs(self.network.policy(weights.trainable, weights.frozen), played, policy=policy, replay=replay)
        return self.network.execution.constrain(told)  # whole everywhere: hosts read them

    def _gradients(self, weights: Weights, behaviour: Any, played: Played, lesson: Lesson, rollouts: Array):
        return self.gradient(weights, behaviour, played, self.replay(weights, played.script), lesson, rollouts)

    def _gradient(self, weights: Weights, behaviour: Any, played: Played, replay: Replay, lesson: Lesson, rollouts: Array):
        run = self.network.execution
        gradients, loss, metrics = joint_objective.gradients(
            lambda trainable: self.network.policy(trainable, weights.frozen),
            weights.trainable,
            self.network.reference(weights.frozen) if self.objective.needs_reference else None,
            played,
            lesson,
            rollouts=rollouts,
            objective=self.objective,
            policy=self.policy,
            behaviour=behaviour,
            replay=replay,
            place=lambda gradient: logical_axes.constrain(gradient, run.layout),
        )
        return gradients, loss, run.constrain(metrics)

    def _apply_to(self, state: TrainState, gradients):
        state, sizes = states.apply(state, gradients, self.optimizer)
        return states.placed(state, self.optimizer, self.network.execution.layout), sizes

    def step(
        self,
        state: TrainState,
        frozen,
        chunks: Sequence[Sequence[Chunk]],
        *,
        old: dict[int, LogProbs],
        key: jax.Array,
        pause: Callable[[], None] = _go_on,
    ) -> Learned:
        """One optimizer update per entry of `chunks`; `old` holds the behaviour log-probabilities by id of the chunk. `pause` is called
        before each chunk of the first update: what it raises leaves the state as it was. (Later ones have given its buffers away.)

        Raises NonFiniteLoss, leaving the state as it was before the update that failed.
        """
        metrics: list[dict[str, float]] = []
        divergence: dict[int, Float[np.ndarray, "B T"]] = {}
        behaviour = self._behaviour(state, len(chunks))
        for number, update in enumerate(chunks):
            weights = Weights(trainable=state.trainable, frozen=frozen)
            slope = self.slope(weights, update, old=old, key=key, behaviour=behaviour, pause=_go_on if number else pause)
            divergence |= slope.divergence
            summary = {"loss/total": slope.loss} | slope.metrics
            size = float(self._size(slope.gradient))  # one program: leaf by leaf it would be hundreds, each asking all devices
            states.refuse_non_finite(f"step {int(state.step)}, update {number}", summary | {"gradient": size})
            state, sizes = self._apply(state, slope.gradient)
            metrics.append(summary | {name: float(value) for name, value in sizes.items()})
        return Learned(state, _over_updates(metrics), divergence)

    def slope(
        self,
        weights: Weights,
        update: Sequence[Chunk],
        *,
        old: dict[int, LogProbs],
        key: jax.Array,
        behaviour: Any = None,
        pause: Callable[[], None] = _go_on,
    ) -> Slope:
        """The gradient of one update, and what is told of it; nothing is changed. `old` and `key` are those of `step`.

        `behaviour` is the trainable part of the policy that played, where the objective needs it; None says that `weights` played.
        """
        turns_in_all = sum(chunk.rows * chunk.turns for chunk in update)
        gradients, total, parts, divergence = None, 0.0, [], {}
        for chunk, weight in zip(update, self._token_weights(update), strict=True):
            pause()
            taught = lesson(chunk, *old[id(chunk)], weight, key=key, mismatch_cap=self.objective.intent.mismatch_cap)
            one, value, part = self._gradients(weights, behaviour, chunk.played, taught, jnp.float32(turns_in_all / chunk.turns))
            gradients = one if gradients is None else jax.tree.map(jnp.add, gradients, one)
            total, parts = total + float(value), [*parts, part]
            if (by_row := part.get(f"image/kl{joint_objective.ROWS}")) is not None:
                divergence[id(chunk)] = np.asarray(by_row).reshape(chunk.turns, -1, chunk.rows).mean(axis=1).T
        return Slope(gradients, total, joint_objective.summarise(parts), divergence)

    def _behaviour(self, state: TrainState, updates: int) -> Any:
        """The policy that played, where the objective needs it and it is not the one that learns; a copy, for updates give memory away."""
        if not self.objective.image.needs_old or (state.old is None and updates == 1):
            return None
        return jax.tree.map(jnp.copy, state.plays)

    def _token_weights(self, update: Sequence[Chunk]) -> list[Float[np.ndarray, "B T"]]:
        """The reduction over tokens as a weight per row of every chunk: it may depend on all rows of the update, also on empty ones."""
        counts = [chunk.tokens[:, 1:].reshape(-1) for chunk in update]
        teaching = np.concatenate(counts)
        slots = update[0].played.intent.shape[2]
        given = reductions.row_weights(teaching, reduction=self.objective.intent.reduction, slots=slots).astype(np.float32)
        parts = np.split(given, np.cumsum([len(count) for count in counts])[:-1])
        return [np.pad(part.reshape(chunk.rows, chunk.turns - 1), ((0, 0), (1, 0))) for part, chunk in zip(parts, update, strict=True)]


def lesson(
    chunk: Chunk,
    image_log_prob: Array,
    intent_log_prob: Array,
    token_weight: Float[np.ndarray, "B T"],
    *,
    key: jax.Array,
    mismatch_cap: float = 0.0,
) -> Lesson:
    """What a chunk teaches, against the given behaviour log-probabilities."""
    credit, (rows, turns) = chunk.credit, chunk.played.step.shape[:2]
    weight = jnp.broadcast_to(token_weight[:, :, None], chunk.played.intent.shape) * credit.text_scale
    if mismatch_cap:
        weight = weight * sampler_mismatch.weights(intent_log_prob, chunk.played.intent_log_prob, cap=mismatch_cap)
    return Lesson(
        image_log_prob=image_log_prob,
        intent_log_prob=intent_log_prob,
        image_advantage=jnp.asarray(credit.image_advantage[:, :turns]),
        text_advantage=jnp.asarray(credit.text_advantage[:, :turns]),
        reward=jnp.nan_to_num(credit.reward[:, :turns]),  # a turn may teach without one; as a weight, a missing reward counts nothing
        image_mask=jnp.asarray(credit.image_mask[:, :turns]),
        text_mask=jnp.asarray(credit.text_mask[:, :turns]),
        image_weight=jnp.full((rows, turns), credit.image_scale, jnp.float32),
        token_weight=weight,
        group_keys=keys.for_rows(key, chunk.group),
        member_keys=keys.for_rows(key, chunk.group, chunk.member),
    )


def _over_updates(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Means over a step's updates (maxima stay maxima), and the first update's ratios, which must be one."""
    names = dict.fromkeys(name for part in metrics for name in part)
    merged = {name: (max if name.endswith("_max") else _mean)([part[name] for part in metrics if name in part]) for name in names}
    first = {f"{area}/first_log_ratio_max": metrics[0].get(f"{area}/log_ratio_max") for area in ("image", "intent")}
    return merged | {name: value for name, value in first.items() if value is not None}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
