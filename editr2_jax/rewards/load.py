"""How long the judges of a run take: its own suite, over the services that its config names, asked about made-up rollouts and timed.

    wait of a step  >=  max(J / passes / T,  J - play)      J seconds of judging for all rollouts of a step, T turns
The judges work while the chips draw; only the last turn of a step's last pass has nothing drawn beside it (the first bound), unless they
take longer for the whole step than the chips (the second). Every output is the source picture under a little noise: objects are found,
edits are not, and no two outputs are alike, so that little is answered from a memory. Where IF asks only after the boxes are right, a good
policy costs more questions than this.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from editr2_jax.records import Episode, Session, Status
from editr2_jax.rewards.suite import Suite

_NOISE = 3  # levels of 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What judging some rollouts took."""

    rollouts: int
    turns: int  # of a rollout
    seconds: float  # by the clock, all verdicts
    statuses: Mapping[str, int]  # verdicts by their status
    counts: Mapping[str, float]  # what the services counted: SERVICE/COUNT

    @property
    def a_rollout(self) -> float:
        """Seconds of judging for a rollout, with as many asked about at a time as the suite allows."""
        return self.seconds / self.rollouts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What a step asks of the judges."""

    judging: float  # seconds for all its rollouts
    last_turn: float  # seconds for what nothing is drawn beside
    wait: float  # seconds that the chips wait at least
    share: float  # of the step
    factor: float  # how many times the judges that share would have to be, to be `allowed`


def measure(suite: Suite, sources: Sequence[tuple[Session, np.ndarray]], *, turns: int, rollouts: int, seed: int = 0) -> Load:
    """Asks the suite about `rollouts` rollouts of `turns` turns, all at once.

    sources: (session, its source picture, uint8 [H, W, 3]), taken in turn. Raises ValueError for a session with fewer turns.
    """
    played = [rollout(*sources[row % len(sources)], turns=turns, seed=seed + row) for row in range(rollouts)]
    suite.counted()
    started = time.monotonic()
    scores = suite.score([[episode[t] for episode in played] for t in range(turns)])
    seconds = time.monotonic() - started
    told = [verdict.status for table in scores.verdicts.values() for row in table for verdict in row]
    statuses = {status.value: told.count(status) for status in Status if status in told}
    return Load(rollouts=rollouts, turns=turns, seconds=seconds, statuses=statuses, counts=suite.counted())


def rollout(session: Session, source: np.ndarray, *, turns: int, seed: int) -> list[Episode]:
    """The episodes after turns 0..turns-1 of a rollout that edits nothing. Raises ValueError for a session with fewer turns."""
    if len(session.turns) < turns:
        raise ValueError(f"session {session.id} has {len(session.turns)} turns; {turns} are to be played.")
    noise = np.random.default_rng(seed).integers(-_NOISE, _NOISE + 1, (turns, *source.shape))
    outputs = np.clip(source + noise, 0, 255).astype(np.uint8)
    return [Episode(session=session, pictures=(source, *outputs[: t + 1])) for t in range(turns)]


def need(load: Load, *, rollouts: int, passes: int, step_s: float, allowed: float) -> Need:
    """The bound above for a step of `rollouts` rollouts that takes `step_s` seconds without waiting. allowed: share of it, say 0.1."""
    judging = load.a_rollout * rollouts
    last_turn = judging / passes / load.turns
    wait = max(last_turn, judging - step_s)
    at_most = allowed * step_s
    factor = max(last_turn / at_most, judging / (step_s + at_most))
    return Need(judging=judging, last_turn=last_turn, wait=wait, share=wait / step_s, factor=max(factor, 1.0))


def whole(factor: float, servers: int) -> int:
    """Servers that `factor` times as many are; a rounding error is no server."""
    return math.ceil(factor * servers - 1e-9)
