"""The state of a run: what learns, its moments, and the step. State goes in and comes out; the frozen weights stand beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx
from jaxtyping import Array, Int

from editr2_jax.models import logical_axes
from editr2_jax.rl import policy_average
from editr2_jax.rl.policy_average import Schedule
from editr2_jax.runtime.mesh import Layout


class NonFiniteLoss(FloatingPointError):
    """The loss or a gradient is not a number; the message names step and term."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon, with a warmup and a gradient clip that is part of the chain, so it cannot be forgotten."""

    name: str = "adamw"  # "muon": matrices of stacked layers take orthogonal steps of AdamW's size, the rest goes by NAdamW
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # of the global gradient norm; 0 does not clip
    warmup_steps: int = 0  # linear from 0, in optimizer updates
    decay_steps: int = 0  # cosine to 0 over this many updates in all; 0 keeps the rate

    def __post_init__(self):
        if self.name not in ("adamw", "muon"):
            raise ValueError(f"OptimizerConfig.name is {self.name!r}; choose adamw or muon.")

    def schedule(self) -> optax.Schedule:
        """Learning rate by optimizer update."""
        if self.decay_steps:
            return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup_steps, self.decay_steps)
        if self.warmup_steps:
            return optax.linear_schedule(self.learning_rate / (self.warmup_steps + 1), self.learning_rate, self.warmup_steps)
        return optax.constant_schedule(self.learning_rate)

    def build(self) -> optax.GradientTransformation:
        """The optimizer. Muon: Jordan 2024, at AdamW's step size as in arXiv 2502.16982."""
        if self.name == "muon":
            rule = optax.contrib.muon(
                self.schedule(),
                eps=self.epsilon,
                weight_decay=self.weight_decay,
                adam_b1=self.beta1,
                adam_b2=self.beta2,
                adam_weight_decay=self.weight_decay,
                muon_weight_dimension_numbers=_stacked_matrices,
                consistent_rms=0.2,
            )
        else:
            rule = optax.adamw(self.schedule(), self.beta1, self.beta2, self.epsilon, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), rule) if self.clip_norm else rule


def _stacked_matrices(trainable: nnx.State) -> nnx.State:
    """Which leaves Muon moves: [layer, in, out]. Embeddings, heads, norms, biases and convolutions are not for it."""
    spec = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda leaf: spec if leaf.ndim == 3 else None, trainable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averages:
    """Policies that follow the one that learns."""

    old: Schedule = Schedule()  # plays in its place (DiffusionNFT's old policy)
    ema: Schedule = Schedule()  # is evaluated, exported and edited with in its place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a checkpoint holds of the computation."""

    trainable: nnx.State
    moments: optax.OptState
    step: Int[Array, ""]  # finished steps
    old: nnx.State | None = None  # None: the policy that learns plays
    ema: nnx.State | None = None  # None: the policy that learns is shown

    @property
    def plays(self) -> nnx.State:
        """The weights that play training sessions."""
        return self.trainable if self.old is None else self.old

    @property
    def shown(self) -> nnx.State:
        """The weights that are evaluated and exported."""
        return self.trainable if self.ema is None else self.ema


def create(
    trainable: nnx.State, optimizer: optax.GradientTransformation, averages: Averages = Averages(), layout: Layout | None = None
) -> TrainState:
    """The state before the first step. Averages begin as the policy, each in memory of its own; moments lie where their weights do."""
    copy = lambda schedule: None if schedule.kind == "off" else jax.tree.map(jnp.copy, trainable)  # noqa: E731
    where = {} if layout is None else {"out_shardings": moment_shardings(trainable, optimizer, layout)}
    return TrainState(
        trainable=trainable,
        moments=jax.jit(optimizer.init, **where)(trainable),
        step=jnp.zeros((), jnp.int32) if layout is None else jax.device_put(np.int32(0), layout.sharding()),
        old=copy(averages.old),
        ema=copy(averages.ema),
    )


def moment_shardings(trainable: nnx.State, optimizer: optax.GradientTransformation, layout: Layout) -> Any:
    """Where the optimizer's moments lie: beside their weights; counters are whole. (`jit(init)` alone puts zeros on one device.)"""
    whole, masked = layout.sharding(), lambda leaf: isinstance(leaf, optax.MaskedNode)  # muon: of what its other half moves
    return optax.tree_utils.tree_map_params(
        optimizer,
        lambda leaf, where: leaf if masked(leaf) else where,
        jax.eval_shape(optimizer.init, trainable),
        logical_axes.shardings(trainable, layout),
        transform_non_params=lambda _: whole,
        is_leaf=masked,
    )


def at_step(state: TrainState, step: int) -> TrainState:
    """The state with another step, lying where the old one lay."""
    number = jax.device_put(np.int32(step), state.step.sharding) if state.step.committed else jnp.asarray(step, jnp.int32)
    return dataclasses.replace(state, step=number)


def follow(state: TrainState, averages: Averages, *, updates: int) -> tuple[TrainState, dict[str, float]]:
    """The averages after a finished step of `updates` optimizer updates, and their decays as metrics."""
    steps, moved, metrics = int(state.step) + 1, {}, {}
    for name, schedule in (("old", averages.old), ("ema", averages.ema)):
        if schedule.kind != "off":
            decay = schedule.at(steps * updates if schedule.clock == "updates" else steps)
            moved[name] = _mix(getattr(state, name), state.trainable, jnp.float32(decay))
            metrics[f"average/{name}_decay"] = decay
    return dataclasses.replace(state, **moved), metrics


@jax.jit
def _mix(average: nnx.State, policy: nnx.State, decay: Array) -> nnx.State:
    return policy_average.mix(average, policy, decay)


def apply(state: TrainState, gradients: nnx.State, optimizer: optax.GradientTransformation) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer update; the step counter is the loop's business."""
    updates, moments = optimizer.update(gradients, state.moments, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics = {"optimizer/gradient_norm": optax.tree.norm(gradients), "optimizer/update_norm": optax.tree.norm(updates)}
    return dataclasses.replace(state, trainable=trainable, moments=moments), metrics


def placed(state: TrainState, optimizer: optax.GradientTransformation, layout: Layout | None) -> TrainState:
    """Inside a compiled function: the state, told where its weights and moments lie; without a layout, as it is."""
    if layout is None:
        return state
    moments = jax.tree.map(jax.lax.with_sharding_constraint, state.moments, moment_shardings(state.trainable, optimizer, layout))
    return dataclasses.replace(state, trainable=logical_axes.constrain(state.trainable, layout), moments=moments)


def refuse_non_finite(place: str, values: Mapping[str, float]) -> None:
    """Raises NonFiniteLoss listing the values that are no numbers; `place` says which step, e.g. "step 12"."""
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteLoss(
            f"{place}: {', '.join(bad)}. The last checkpoint is sound, but the same command would end here again: lower "
            "optimizer.learning_rate, or look at the data and rewards of this step, and start in another --workdir."
        )
