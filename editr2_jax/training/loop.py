"""The training loop: sessions in, a recipe's step, metrics out; saving, looking and stopping in between."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax

from editr2_jax.records import Sample
from editr2_jax.runtime.metrics import MetricsWriter
from editr2_jax.runtime.signals import Interrupted
from editr2_jax.training import state as states
from editr2_jax.training.seeing import Seeing
from editr2_jax.training.state import TrainState


class Recipe(Protocol):
    """What happens in a step."""

    def step(self, state: TrainState, sessions: Sequence[Sample], step: int) -> tuple[TrainState, dict[str, float]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, and how often what happens."""

    steps: int
    save_every: int = 10
    log_every: int = 1  # metrics of the steps between are not fetched, so a fast accelerator is not kept waiting

    def __post_init__(self):
        for name in ("steps", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"LoopConfig.{name} is {getattr(self, name)}; give at least 1.")


def run(
    state: TrainState,
    stream: Iterator[Sequence[Sample]],
    *,
    recipe: Recipe,
    config: LoopConfig,
    out: MetricsWriter,
    save: Callable[[TrainState], None],
    look: Callable[[TrainState], None] = lambda state: None,
    stop_requested: Callable[[], bool] = lambda: False,
    seeing: Seeing | None = None,
) -> TrainState:
    """Trains from state.step to config.steps; returns early, saved, when asked to stop. `look` is called after every step's save.

    A recipe that is interrupted leaves its step for the next time, and so does a look.

    Raises NonFiniteLoss before a step whose loss or gradient is no number is saved.
    """
    seeing = seeing or Seeing()
    for step in range(int(state.step), config.steps):
        started = time.monotonic()
        try:
            with seeing.step(step):
                with seeing.phase("data"):
                    sessions = next(stream)
                state, metrics = recipe.step(state, sessions, step)
        except Interrupted as stop:  # the state is that before the step; what was drawn since is on disk
            save(state)
            out.say(f"step {step + 1} of {config.steps}: {stop} Saved; the same command goes on from there.")
            break
        state = states.at_step(state, step + 1)
        last, stopping = step + 1 == config.steps, stop_requested()
        due = last or stopping or (step + 1) % config.save_every == 0
        told = seeing.after(step, metrics, seconds=time.monotonic() - started, say=out.say)
        if due or step % config.log_every == 0:
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            states.refuse_non_finite(f"step {step}", {name: x for name, x in metrics.items() if name.startswith(("loss/", "optimizer/"))})
            out.write(step, metrics | told)
        if due:
            with seeing.phase("save"):
                save(state)
        try:
            look(state)
        except Interrupted as stop:
            save(state)
            out.say(f"after step {step + 1} of {config.steps}: {stop} Saved; the same command goes on from there.")
            break
        if stopping and not last:
            out.say(f"stopped after step {step + 1} of {config.steps}, saved; the same command goes on from here.")
            break
    return state
