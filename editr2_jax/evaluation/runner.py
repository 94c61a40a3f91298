"""Held-out play: sessions without noise, scored turn by turn. Letters: B rows of a batch, T turns.

Every session starts from initial noise of its own that depends on the seed and its place in the data set alone, so two models, or one model
before and after training, play the same sessions from the same start and can be compared in pairs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from editr2_jax.data.pipeline import Batch
from editr2_jax.evaluation import pictures, tables
from editr2_jax.records import Sample
from editr2_jax.rewards.panel import Asked, Panel
from editr2_jax.rewards.suite import Pending, Scores, Suite
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import keys, workdir
from editr2_jax.runtime.hosts import Hosts

Keep = Callable[[Sample, np.ndarray, Sequence[str | None]], None]  # (session, outputs uint8 [T, H, W, 3], intents) of one that was played
_FILLER = 1 << 30  # beyond any session's number


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How held-out sessions are played."""

    sessions: int = 256  # the first of the split; 0 plays all
    rows: int = 64  # sessions in one compiled pass
    strips: int = 12  # sessions whose pictures are kept for the report
    every: int = 0  # steps between evaluations during training; 0: before the first and after the last step only
    before: bool = True  # whether there is one before the first step
    turns: int = 0  # turns played at most; 0: as many as in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was played and how it scored."""

    records: list[dict[str, Any]]  # one per (session, turn), as tables.summarise reads them
    shown: list[tuple[Sample, np.ndarray, tuple[str | None, ...]]]  # session, outputs uint8 [T, H, W, 3], intents


def play(
    player: Player,
    weights: Weights,
    batches: Iterable[Batch],
    *,
    suite: Suite,
    tokenizer,
    seed: int,
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda done: None,
    hosts: Hosts | None = None,
    keep: Keep = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Plays and scores sessions, each once (`pipeline.once`); `progress` is told how many have been played.

    Raises Interrupted when `should_stop`, the same on all hosts, says so after a turn, or while judges are waited for.
    On several hosts all records are the same on each; what is shown, and handed to `keep`, are sessions that lie with it.
    """
    records, shown, panel = [], [], Panel(suite, hosts, should_stop=should_stop)
    waiting: list[tuple[Rollout, list[Pending], int]] = []
    done = 0
    for batch in batches:
        turns: list[Pending] = []
        on_turn = lambda t, episodes, turns=turns, real=batch.real: turns.append(panel.submit(episodes[:real]))  # noqa: E731
        key = keys.at(seed, "evaluate")
        with contextlib.nullcontext() if hosts is None else hosts.phase("play", session=done):
            rollout = collect.play(
                player, weights, _apart(batch.samples), key=key, tokenizer=tokenizer, on_turn=on_turn, should_stop=should_stop
            )
        waiting.append((rollout, turns, batch.real))
        room = max(config.strips - len(shown), 0)
        mine = np.flatnonzero(rollout.here[: batch.real])
        for i in mine:
            keep(batch.samples[i], rollout.pictures[i], rollout.intents[i])
        mine = mine[:room]
        shown += [(batch.samples[i], rollout.pictures[i], rollout.intents[i]) for i in mine]
        done += batch.real
        progress(done)
    asked = [Asked(rollout.samples[:real], turns, rollout.here[:real]) for rollout, turns, real in waiting]
    for (rollout, _, real), scores in zip(waiting, panel.collect(asked), strict=True):
        records += score_records(rollout, scores, moved(rollout, real, hosts))
    return Outcome(records=records, shown=shown)


def draw(
    player: Player,
    weights: Weights,
    batches: Iterable[Batch],
    *,
    tokenizer,
    seed: int,
    keep: Keep,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Plays sessions as `play` does, bit for bit, and scores nothing."""
    done = 0
    for batch in batches:
        rollout = collect.play(player, weights, _apart(batch.samples), key=keys.at(seed, "evaluate"), tokenizer=tokenizer)
        for i in range(batch.real):
            keep(batch.samples[i], rollout.pictures[i], rollout.intents[i])
        done += batch.real
        progress(done)


def write(directory: Path, outcome: Outcome, *, judge: Mapping[str, float] | None = None) -> dict[str, Any]:
    """eval/STEP: scores.jsonl, strips.json with its pictures, and last summary.json, whose presence says that all is there.

    judge: what the services behind the rewards have counted (requests, cache hits, failures); the summary keeps it.
    """
    strips = []
    for i, (sample, outputs, intents) in enumerate(outcome.shown):
        scores = {r["turn"]: r["scores"] for r in outcome.records if r["session"] == sample.session.id}
        folder = directory / f"s{i}"
        pictures.save(folder / "source.png", sample.picture)
        turns = []
        for t, output in enumerate(outputs):
            pictures.save(folder / f"t{t}.png", output)
            turn = sample.session.turns[t]
            turns.append({"instruction": turn.instruction, "intent": intents[t], "picture": f"s{i}/t{t}.png", "scores": scores[t]})
        strips.append({"id": sample.session.id, "source": f"s{i}/source.png", "turns": turns})
    directory.mkdir(parents=True, exist_ok=True)
    workdir.write_json(directory / "strips.json", tables.plain({"sessions": strips}))
    return tables.write(directory, outcome.records, judge=judge)


def score_records(rollout: Rollout, scores: Scores, moved: Float[np.ndarray, "B T"]) -> list[dict[str, Any]]:
    """One JSON-ready record per (session, turn) of the first rows of a rollout that were scored; see `moved`."""
    records = []
    for row in range(scores.combined.shape[0]):
        session = rollout.samples[row].session
        for t in range(scores.combined.shape[1]):
            verdicts = {name: table[row][t] for name, table in scores.verdicts.items()}
            records.append(
                {
                    "session": session.id,
                    "subset": session.subset,
                    "turn": t,
                    "task_type": session.turns[t].task_type,
                    "bg_consistency": session.turns[t].bg_consistency,
                    "instruction": session.turns[t].instruction,
                    "intent": rollout.intents[row][t],
                    "scores": {name: number(verdict.value) for name, verdict in verdicts.items()},
                    "status": {name: verdict.status.value for name, verdict in verdicts.items()},
                    "reward": number(scores.combined[row, t]),
                    "detail": {name: dict(verdict.detail) for name, verdict in verdicts.items()},
                    "changed": float(moved[row, t]),
                }
            )
    return records


def moved(rollout: Rollout, rows: int, hosts: Hosts | None = None) -> Float[np.ndarray, "B T"]:
    """`changed` of every turn of the first rows, on several hosts told by those that hold the pictures."""
    turns = rollout.pictures.shape[1]
    here = [[changed(rollout, row, t) if rollout.here[row] else 0.0 for t in range(turns)] for row in range(rows)]
    table = np.asarray(here, np.float64).reshape(rows, turns)
    return table if hosts is None or hosts.count == 1 else hosts.gather(table).sum(axis=0)


def changed(rollout: Rollout, row: int, turn: int) -> float:
    """How far a turn's picture is from the one that it edits: the source, then what the turn before drew."""
    edited = rollout.pictures[row, turn - 1] if turn else rollout.samples[row].picture
    return pictures.changed(edited, rollout.pictures[row, turn])


def _apart(samples: Sequence[Sample]) -> list[Sample]:
    """Samples as groups of one; those that fill a batch up repeat a session and need numbers of their own to be told apart."""
    seen: set[int] = set()
    apart = []
    for sample in samples:
        apart.append(sample if sample.group not in seen else dataclasses.replace(sample, group=_FILLER + len(apart)))
        seen.add(sample.group)
    return apart


def number(value: float) -> float | None:
    """A JSON number; None for NaN."""
    return None if np.isnan(value) else float(value)
