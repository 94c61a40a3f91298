"""Runs rewards side by side in threads and puts their verdicts together.

    pending = [suite.submit(episodes after turn t) for t in ...]   # the judges look at turn t while turn t + 1 is drawn
    scores = suite.collect(pending)                               # or, of all batches of a step: suite.collect_all(batches)

    combined = sum of weight * score / sum of weight, over the rewards that count

A reward that does not apply counts nothing and its weight is shared by the others; that depends on the annotation (or, for UNMEASURABLE,
on every rollout of the session at once), so the members of a group always carry the same weights. Everything else that is not a score
makes the combined reward NaN: it masks the turn, it never becomes a number. Letters: B rollouts, T turns.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float

from editr2_jax.records import SUBSETS, Episode, Status, Verdict
from editr2_jax.rewards import base
from editr2_jax.rewards.base import Reward
from editr2_jax.rewards.questions import JudgeFormatError
from editr2_jax.rewards.verdict_store import FAILED, VerdictStore
from editr2_jax.rl import fusion

ERRORS = FAILED
_PATIENCE_S = 60.0  # with judges, at the end: a stopped run has twice as long on most platforms, and what it has paid for it wants to keep
EDIT_R2_WEIGHTS = {"if": 0.3, "cc": 0.3, "ga": 0.4}  # Edit-R2; without a global score the rest is renormalised to 0.5 and 0.5


class Service(Protocol):
    """What stands behind rewards and has to be let go of."""

    def close(self) -> None:
        """Lets go; called once. A reward that still asks gets an error."""
        ...

    def counters(self) -> Mapping[str, float]:
        """What it has counted since it was made; numbers that only grow."""
        ...


class TooManyErrors(RuntimeError):
    """More judges failed than a step may lose."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pending:
    """One turn being scored."""

    sessions: tuple[str, ...]  # B session ids
    subsets: tuple[str, ...]  # B
    futures: Mapping[str, tuple[concurrent.futures.Future[Verdict], ...]]  # reward name -> B
    stored: collections.deque[bool] = dataclasses.field(default_factory=collections.deque)  # of each verdict there: was it known before?


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """All verdicts of a batch of rollouts."""

    values: Mapping[str, Float[np.ndarray, "B T"]]  # reward name -> score in [0, 1] or NaN, float32
    verdicts: Mapping[str, tuple[tuple[Verdict, ...], ...]]  # reward name -> [B][T], status and detail
    weights: Mapping[str, Float[np.ndarray, "B T"]]  # reward name -> what it counts, 0 where it does not apply; alike within a group
    combined: Float[np.ndarray, "B T"]  # float32, NaN masks
    error_share: float  # failed verdicts among those that applied
    stored_share: float = 0.0  # verdicts that were given before, and were not asked for again

    def statuses(self, name: str) -> np.ndarray:
        """Status strings of one reward, [B, T]."""
        return np.array([[verdict.status.value for verdict in row] for row in self.verdicts[name]])

    def told(self, name: str, part: str) -> Float[np.ndarray, "B T"]:
        """A number that the detail of one reward's verdicts tells, [B, T]; NaN where it does not."""
        return np.array([[verdict.detail.get(part, np.nan) for verdict in row] for row in self.verdicts[name]], np.float32)


class Suite:
    """Rewards, their weights and the threads that run them. Close it, or use it as a context manager."""

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Mapping[str, float] | Mapping[str, Mapping[str, float]] = EDIT_R2_WEIGHTS,
        *,
        workers: int = 8,
        min_valid_weight: float = 0.0,
        max_error_share: float = 0.05,
        store: VerdictStore | None = None,
        services: Mapping[str, Service] | None = None,
    ):
        """`weights` maps reward name -> weight, or subset -> (reward name -> weight). `min_valid_weight`: the share of the weight that
        applies to a turn that must have a score, else the turn is masked. `workers` bounds the calls in flight. `store` keeps what was
        given, and answers before a reward is asked; its owner closes it after the suite. `services`: by the name that their counts go by;
        closed with the suite."""
        names = [reward.name for reward in rewards]
        if len(set(names)) != len(names):
            raise ValueError(f"Suite: two rewards share a name: {names}; metrics are keyed by name.")
        self._rewards = tuple(rewards)
        self._weights = _per_subset(weights, names)
        self._min_valid_weight, self._max_error_share, self._store = min_valid_weight, max_error_share, store
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=workers, thread_name_prefix="reward")
        self._services, self._told = dict(services or {}), collections.Counter()
        self._lock = threading.Lock()
        self._asked: dict[str, concurrent.futures.Future[Verdict]] = {}  # what rewards are being asked at the moment, by the store's key

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Drops what has not started and waits for what has: for a minute, then services are let go of, which ends what hangs on them."""
        ending = threading.Thread(target=self._pool.shutdown, kwargs={"wait": True, "cancel_futures": True}, daemon=True)
        ending.start()
        ending.join(_PATIENCE_S)
        for service in self._services.values():
            service.close()
        ending.join()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in order."""
        return tuple(reward.name for reward in self._rewards)

    def parts(self, verdicts: Mapping[str, Verdict], subset: str) -> dict[str, float]:
        """What each score adds to a combined reward: weight * score / sum of weights, over the rewards with a score."""
        scored = {name: w for name, w in self._weights[subset].items() if w and verdicts[name].status is Status.OK}
        return {name: weight * verdicts[name].value / sum(scored.values()) for name, weight in scored.items()}

    def counted(self) -> dict[str, float]:
        """What the services have counted since the last call, as SERVICE/COUNT."""
        now = {f"{name}/{count}": n for name, service in self._services.items() for count, n in service.counters().items()}
        since = {name: count - self._told[name] for name, count in now.items()}
        self._told.update(since)
        return since

    def submit(self, episodes: Sequence[Episode]) -> Pending:
        """Starts scoring the latest turn of B episodes and returns at once."""
        # One task per reward and episode. A task waits at most for one that runs already and waits for none, so the pool cannot lock up.
        stored: collections.deque[bool] = collections.deque()
        futures = {
            reward.name: tuple(self._pool.submit(self._verdict, reward, episode, stored) for episode in episodes)
            for reward in self._rewards
        }
        return Pending(
            sessions=tuple(episode.session.id for episode in episodes),
            subsets=tuple(episode.session.subset for episode in episodes),
            futures=futures,
            stored=stored,
        )

    def collect(self, pending: Sequence[Pending]) -> Scores:
        """Waits for T turns of the same B rollouts, in order of turns. Raises TooManyErrors above `max_error_share`."""
        return self.collect_all([pending])[0]

    def collect_all(self, batches: Sequence[Sequence[Pending]]) -> list[Scores]:
        """Of several batches, each as `collect` takes it. Raises TooManyErrors above `max_error_share` of all verdicts together: a batch
        may be small, and one failure much of it."""
        scores = [self._put_together(pending) for pending in batches]
        self._refuse_failures(scores)
        return scores

    def score(self, turns: Sequence[Sequence[Episode]]) -> Scores:
        """Scores T turns of B episodes: turns[t][b] is the episode of rollout b after turn t."""
        return self.collect([self.submit(episodes) for episodes in turns])

    def _put_together(self, pending: Sequence[Pending]) -> Scores:
        if not pending or any(turn.sessions != pending[0].sessions for turn in pending):
            raise ValueError("Suite.collect wants the turns of one batch: at least one, all about the same sessions in the same order.")
        rows = range(len(pending[0].sessions))
        verdicts = {name: tuple(tuple(turn.futures[name][row].result() for turn in pending) for row in rows) for name in self.names}
        values = {name: np.array([[v.value for v in row] for row in table], np.float32) for name, table in verdicts.items()}
        table_of = lambda t: {name: [row[t] for row in table] for name, table in verdicts.items()}  # noqa: E731
        counts = [self._counts(table_of(t), turn) for t, turn in enumerate(pending)]
        weights = {name: np.stack([turn[name] for turn in counts], axis=1) for name in self.names}
        combined = np.asarray(fusion.of_rewards(values, weights, form="convex"))
        stored = [known for turn in pending for known in turn.stored]
        return Scores(
            values=values,
            verdicts=verdicts,
            weights=weights,
            combined=combined,
            error_share=_share(*_failures([verdicts])),
            stored_share=sum(stored) / max(len(stored), 1),
        )

    def _verdict(self, reward: Reward, episode: Episode, stored: collections.deque[bool]) -> Verdict:
        """From the store, or from whoever asks the same at this moment, or else from the reward, and then stored before anybody uses it."""
        if self._store is None:
            return verdict_of(reward, episode)
        key = self._store.key(reward, episode)
        with self._lock:
            known, asked = self._store.get(key), self._asked.get(key)
            if known is None and asked is None:
                mine = self._asked[key] = concurrent.futures.Future()
        stored.append(known is not None or asked is not None)
        if known is not None:
            return known
        if asked is not None:  # rollouts may be alike to the last pixel
            return asked.result()
        try:
            mine.set_result(self._store.put(key, verdict_of(reward, episode), reward=reward.name))
        except BaseException as error:
            mine.set_exception(error)
        with self._lock:
            del self._asked[key]
        return mine.result()

    def _refuse_failures(self, scores: Sequence[Scores]) -> None:
        failed, applicable = _failures([batch.verdicts for batch in scores])
        share = _share(failed, applicable)
        if share > self._max_error_share:
            counts = collections.Counter(f"{name}: {verdict.status.value}" for name, verdict in failed)
            reason = failed[0][1].detail.get("reason", "")
            raise TooManyErrors(
                f"{len(failed)} of {applicable} verdicts failed ({share:.1%}, the limit is {self._max_error_share:.1%}): "
                f"{dict(counts)}. The first says: {reason} Repair the judge or raise max_error_share."
            )

    def _counts(self, verdicts: Mapping[str, Sequence[Verdict]], turn: Pending) -> dict[str, Float[np.ndarray, " B"]]:
        """What every reward counts in one turn; all 0 where what can be seen is less than `min_valid_weight` of what applies."""
        counts = {name: np.zeros(len(turn.sessions), np.float32) for name in self.names}
        for row, (session, subset) in enumerate(zip(turn.sessions, turn.subsets, strict=True)):
            members = [other for other, id in enumerate(turn.sessions) if id == session]
            applies = {n: w for n, w in self._weights[subset].items() if verdicts[n][row].status is not Status.NOT_APPLICABLE}
            seen = {n: w for n, w in applies.items() if any(verdicts[n][m].status is not Status.UNMEASURABLE for m in members)}
            if sum(seen.values()) >= self._min_valid_weight * sum(applies.values()) - 1e-9:
                for name, weight in seen.items():
                    counts[name][row] = weight
        return counts


def verdict_of(reward: Reward, episode: Episode) -> Verdict:
    """The reward's verdict; what it raises becomes a status, never a score."""
    try:
        return reward.score(episode)
    except JudgeFormatError as error:
        return base.missing(Status.JUDGE_FORMAT_ERROR, str(error))
    except Exception as error:  # a judge may fail in any way; the run decides by the share of failures
        return base.missing(Status.SERVICE_ERROR, f"{reward.name}, session {episode.session.id}, turn {episode.turn}: {error!r}.")


def error_share(scores: Sequence[Scores]) -> float:
    """Failed verdicts among those that applied, over several batches."""
    return _share(*_failures([batch.verdicts for batch in scores]))


def _failures(tables: Sequence[Mapping[str, Sequence[Sequence[Verdict]]]]) -> tuple[list[tuple[str, Verdict]], int]:
    """The verdicts that failed, each with its reward's name, and how many applied."""
    flat = [(name, verdict) for verdicts in tables for name, table in verdicts.items() for row in table for verdict in row]
    applicable = sum(verdict.status is not Status.NOT_APPLICABLE for _, verdict in flat)
    return [(name, verdict) for name, verdict in flat if verdict.status in ERRORS], applicable


def _share(failed: Sequence[tuple[str, Verdict]], applicable: int) -> float:
    return len(failed) / max(applicable, 1)


def _per_subset(weights: Mapping, names: Sequence[str]) -> dict[str, dict[str, float]]:
    nested = bool(weights) and all(isinstance(value, Mapping) for value in weights.values())
    if not weights:
        raise ValueError(
            f"Suite weights: none of {', '.join(names)} has a weight, so no turn would have a reward; give rewards.weights one."
        )
    table = {subset: dict(weights.get(subset, {}) if nested else weights) for subset in SUBSETS}
    unknown = set(weights) - set(SUBSETS) if nested else set()
    if unknown:
        raise ValueError(f"Suite weights: unknown subset {sorted(unknown)}; the subsets are {', '.join(SUBSETS)}.")
    for subset, row in table.items():
        wrong = sorted(set(row) - set(names))
        if wrong:
            raise ValueError(f"Suite weights of subset {subset}: no reward is called {', '.join(wrong)}; there are {', '.join(names)}.")
        if any(weight < 0 for weight in row.values()) or (row and sum(row.values()) <= 0):
            raise ValueError(f"Suite weights of subset {subset}: {row}; weights are not negative and not all 0.")
    return table
