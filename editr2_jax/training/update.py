"""One step's learning of Edit-R2: what was drawn and written is asked about again, and learned from in a few updates.

A step's rollouts are cut into chunks of sessions of one shape; a chunk is what one compiled pass holds in memory. Where a step has several
updates, old log-probabilities come from the pass that the loss makes, so the first has ratio one. Gradients of an update's chunks add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from editr2_jax.models.network import Network
from editr2_jax.objectives import joint_objective
from editr2_jax.objectives.joint_objective import Lesson, ObjectiveConfig
from editr2_jax.policies.dialogue import Played, PolicyConfig
from editr2_jax.rollouts.player import Weights
from editr2_jax.training import state as states
from editr2_jax.training.state import TrainState
from editr2_jax.training.train_batch import Credit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rollouts of one shape and what they teach."""

    played: Played
    credit: Credit

    @property
    def rows(self) -> int:
        return self.played.step.shape[0]


class Updater:
    """Compiled gradient passes of one network under one objective. Nothing is remembered between calls."""

    def __init__(self, network: Network, objective: ObjectiveConfig, policy: PolicyConfig, optimizer: optax.GradientTransformation):
        self.network, self.objective, self.policy, self.optimizer = network, objective, policy, optimizer
        self.ask_again = jax.jit(self._ask_again)
        self._gradients = jax.jit(self._gradients_of)
        self._apply = jax.jit(self._apply_to, donate_argnums=(0,))

    def _ask_again(self, weights: Weights, played: Played) -> tuple[Array, Array]:
        """Log-probabilities [B, T, W] of the drawn steps and [B, T, K] of the written tokens."""
        return joint_objective.log_probs(self.network.policy(weights.trainable, weights.frozen), played, policy=self.policy)

    def _gradients_of(self, weights: Weights, played: Played, lesson: Lesson, rollouts: Array):
        needs_reference = self.objective.image.kl_weight > 0 and self.objective.image.weight > 0
        reference = self.network.reference(weights.frozen) if needs_reference else None

        return joint_objective.gradients(
            lambda trainable: self.network.policy(trainable, weights.frozen),
            weights.trainable,
            reference,
            played,
            lesson,
            rollouts=rollouts,
            objective=self.objective,
            policy=self.policy,
        )

    def _apply_to(self, state: TrainState, gradients):
        return states.apply(state, gradients, self.optimizer)

    def step(
        self, state: TrainState, frozen, chunks: Sequence[Sequence[Chunk]], *, old: dict[int, tuple[Array, Array]]
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimizer update per entry of `chunks`; `old` holds the behaviour log-probabilities by id of the chunk.

        Raises NonFiniteLoss, leaving the state as it was before the update that failed.
        """
        metrics: list[dict[str, float]] = []
        for number, update in enumerate(chunks):
            rollouts = jnp.float32(sum(chunk.rows for chunk in update))
            gradients, total, parts = None, 0.0, []
            for chunk in update:
                one, value, part = self._gradients(
                    Weights(trainable=state.trainable, frozen=frozen), chunk.played, lesson(chunk, *old[id(chunk)]), rollouts
                )
                gradients = one if gradients is None else jax.tree.map(jnp.add, gradients, one)
                total, parts = total + float(value), [*parts, part]
            summary = {"loss/total": total} | joint_objective.summarise(parts)
            states.refuse_non_finite(f"step {int(state.step)}, update {number}", summary | {"gradient": float(optax.tree.norm(gradients))})
            state, sizes = self._apply(state, gradients)
            metrics.append(summary | {name: float(value) for name, value in sizes.items()})
        return state, _over_updates(metrics)


def lesson(chunk: Chunk, image_log_prob: Array, intent_log_prob: Array) -> Lesson:
    """What a chunk teaches, against the given behaviour log-probabilities."""
    credit, turns = chunk.credit, chunk.played.step.shape[1]
    return Lesson(
        image_log_prob=image_log_prob,
        intent_log_prob=intent_log_prob,
        image_advantage=jnp.asarray(credit.image_advantage[:, :turns]),
        text_advantage=jnp.asarray(credit.text_advantage[:, :turns]),
        image_mask=jnp.asarray(credit.image_mask[:, :turns]),
        text_mask=jnp.asarray(credit.text_mask[:, :turns]),
    )


def _over_updates(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Means over a step's updates (maxima stay maxima), and the first update's ratios, which must be one."""
    names = dict.fromkeys(name for part in metrics for name in part)
    merged = {name: (max if name.endswith("_max") else _mean)([part[name] for part in metrics if name in part]) for name in names}
    first = {f"{area}/first_log_ratio_max": metrics[0].get(f"{area}/log_ratio_max") for area in ("image", "intent")}
    return merged | {name: value for name, value in first.items() if value is not None}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
