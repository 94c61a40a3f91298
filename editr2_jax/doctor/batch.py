"""The arithmetic of one step as a table, and settings of it that contradict each other.

Letters: P sessions, G rollouts of each, T turns, W stochastic steps (or points of the path) a picture.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from editr2_jax import assemble
from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.objectives.joint_objective import ObjectiveConfig
from editr2_jax.policies import context as contexts
from editr2_jax.rollouts.player import RolloutConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How much of everything one step holds."""

    sessions: int  # P
    group: int  # G
    turns: int  # T at most
    steps: int  # of a picture
    branches: int  # of guidance
    window: int  # stochastic steps of a picture
    passes: int  # W: over which a picture is learned from
    later: int  # turns with an intent
    updates: int
    rows: int  # in one compiled pass

    @classmethod
    def of(cls, config: Any, rollout: RolloutConfig, objective: ObjectiveConfig) -> Arithmetic:
        window = rollout.window.count
        return cls(
            sessions=config.data.sessions,
            group=config.data.group,
            turns=rollout.turns,
            steps=rollout.policy.flow.steps,
            branches=rollout.policy.flow.branches,
            window=window,
            passes=objective.image.passes(window) if objective.image.weight else 0,
            later=rollout.turns - 1 if rollout.reconstruct and objective.intent.weight else 0,
            updates=config.step.updates,
            rows=config.step.rows,
        )

    @property
    def rollouts(self) -> int:
        return self.sessions * self.group

    @property
    def pictures(self) -> int:
        return self.rollouts * self.turns

    @property
    def image_gradients(self) -> int:
        return self.pictures * self.passes

    @property
    def text_sequences(self) -> int:
        return self.rollouts * self.later

    @property
    def batches(self) -> int:
        """Compiled passes that a step's rollouts take, if all pictures have one size."""
        return -(-self.sessions // max(self.rows // self.group, 1))

    def table(self) -> list[tuple[str, str, str]]:
        """What, how many, and how that comes about."""
        evaluations = self.pictures * self.steps * self.branches
        return [
            ("one step", "number", "is"),
            ("sessions", str(self.sessions), "P, data.sessions"),
            ("rollouts", str(self.rollouts), f"{self.sessions} sessions x group of {self.group}"),
            ("pictures", str(self.pictures), f"{self.rollouts} rollouts x {self.turns} turns"),
            ("velocities to draw them", str(evaluations), f"{self.pictures} pictures x {self.steps} steps x {self.branches} branches"),
            ("image gradients", str(self.image_gradients), f"{self.pictures} pictures x {self.passes} passes ({self._passes()})"),
            ("text sequences", str(self.text_sequences), f"{self.rollouts} rollouts x {self.later} later turns"),
            ("updates", str(self.updates), f"of {self.rollouts / self.updates:g} rollouts each"),
            ("batches", str(self.batches), f"of at most {self.rows} rollouts, step.rows"),
        ]

    def _passes(self) -> str:
        return f"{self.window} of {self.steps} steps stochastic" if self.window else "points of the path"


def batch(subject: Subject) -> Finding:
    """One step's numbers, and what in the config cannot be meant."""
    config, rollout, objective = subject.config, subject.player.config, subject.updater.objective
    numbers = Arithmetic.of(config, rollout, objective)
    fail, warn = contradictions(config, numbers, objective), doubts(config, numbers, len(subject.sessions))
    rows = numbers.table()
    if subject.samples:
        rows += tokens(subject.model.config, rollout, subject.samples[0].picture.shape[:2])
    return finding.judged(
        f"{numbers.sessions} sessions x {numbers.group} = {numbers.rollouts} rollouts, {numbers.pictures} pictures, "
        f"{numbers.image_gradients} image gradients + {numbers.text_sequences} text sequences, {numbers.updates} update(s)",
        fail=fail,
        warn=warn,
        advice="Change the named settings until the table says what is meant.",
        details=[line.rstrip() for line in _aligned(rows)],
    )


def contradictions(config: Any, numbers: Arithmetic, objective: ObjectiveConfig) -> list[str]:
    """Settings that cannot all hold."""
    found = []
    try:
        assemble.refuse_contradictions(config)
    except ValueError as error:
        found.append(str(error).rstrip("."))
    if numbers.group < 2:
        found.append(f"data.group is {numbers.group}: a rollout without others to compare with has no advantage")
    if not objective.image.weight and not objective.intent.weight:
        found.append("objective.image.weight and objective.intent.weight are both 0: nothing is learned")
    return found


def doubts(config: Any, numbers: Arithmetic, sessions: int) -> list[str]:
    """Settings that hold, but are hardly meant."""
    found, updates = [], config.loop.steps * numbers.updates
    if numbers.rows % numbers.group:
        found.append(
            f"step.rows={numbers.rows} is no multiple of data.group={numbers.group}: {numbers.rows % numbers.group} rows stay empty"
        )
    if numbers.batches % numbers.updates:
        found.append(f"{numbers.batches} batches make {numbers.updates} updates of different size")
    if 0 < sessions < numbers.sessions:
        found.append(f"data.sessions={numbers.sessions}, but there are {sessions} training sessions: a step holds some of them twice")
    if config.optimizer.warmup_steps >= updates:
        found.append(f"optimizer.warmup_steps={config.optimizer.warmup_steps} outlasts all {updates} updates of the run")
    if 0 < config.optimizer.decay_steps < updates:
        found.append(
            f"optimizer.decay_steps={config.optimizer.decay_steps}: the last {updates - config.optimizer.decay_steps} updates do nothing"
        )
    return found


def tokens(model: BagelConfig, rollout: RolloutConfig, size: tuple[int, int]) -> list[tuple[str, str, str]]:
    """What a row of the caches holds, for pictures of one size."""
    slots, (height, width) = rollout.policy.slots, size
    full, text = slots.capacity(model, turns=rollout.turns, height=height, width=width)
    latents = (height // model.token_pixels) * (width // model.token_pixels)
    return [
        ("latent tokens", str(latents), f"of a picture of {width}x{height}; it takes {contexts.picture_slots(model, height, width)} slots"),
        ("slots of a dialogue", str(full), f"{slots.scratch} of them to think in; {text} more without pictures"),
    ]


def _aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return [f"{name.ljust(first)}  {number.rjust(second)}  {how}" for name, number, how in rows]
