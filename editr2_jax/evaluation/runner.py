"""Held-out play: sessions without noise, scored turn by turn. Letters: B rows of a batch, T turns.

Every session starts from initial noise of its own that depends on the seed and its place in the data set alone, so two models, or one model
before and after training, play the same sessions from the same start and can be compared in pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.evaluation import pictures, tables
from editr2_jax.records import Sample
from editr2_jax.rewards.suite import Pending, Scores, Suite
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import keys, workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How held-out sessions are played."""

    sessions: int = 256  # the first of the split; 0 plays all
    rows: int = 64  # sessions in one compiled pass
    strips: int = 12  # sessions whose pictures are kept for the report
    every: int = 0  # steps between evaluations during training; 0: before the first and after the last step only


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was played and how it scored."""

    records: list[dict[str, Any]]  # one per (session, turn), as tables.summarise reads them
    shown: list[tuple[Sample, np.ndarray, tuple[str | None, ...]]]  # session, outputs uint8 [T, H, W, 3], intents


def play(
    player: Player,
    weights: Weights,
    samples: Sequence[Sample],
    *,
    suite: Suite,
    tokenizer,
    seed: int,
    config: EvaluationConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Plays and scores sessions; `samples` holds each once, with `group` its place in the data set."""
    records, shown = [], []
    waiting: list[tuple[Rollout, list[Pending]]] = []
    done = 0
    for batch, real in _batches(samples, player.config.turns, config.rows):
        turns: list[Pending] = []
        on_turn = lambda t, episodes, turns=turns, real=real: turns.append(suite.submit(episodes[:real]))  # noqa: E731
        key = keys.at(seed, "evaluate")
        rollout = collect.play(player, weights, batch, key=key, tokenizer=tokenizer, on_turn=on_turn)
        waiting.append((rollout, turns))
        shown += [(batch[i], rollout.pictures[i], rollout.intents[i]) for i in range(min(real, config.strips - len(shown)))]
        done += real
        progress(done, len(samples))
    for rollout, turns in waiting:
        records += score_records(rollout, suite.collect(turns))
    return Outcome(records=records, shown=shown)


def write(directory: Path, outcome: Outcome) -> dict[str, Any]:
    """eval/STEP: scores.jsonl, strips.json with its pictures, and last summary.json, whose presence says that all is there."""
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
    return tables.write(directory, outcome.records)


def score_records(rollout: Rollout, scores: Scores) -> list[dict[str, Any]]:
    """One JSON-ready record per (session, turn) of the first rows of a rollout that were scored."""
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
                    "instruction": session.turns[t].instruction,
                    "intent": rollout.intents[row][t],
                    "scores": {name: number(verdict.value) for name, verdict in verdicts.items()},
                    "status": {name: verdict.status.value for name, verdict in verdicts.items()},
                    "reward": number(scores.combined[row, t]),
                    "detail": {name: dict(verdict.detail) for name, verdict in verdicts.items()},
                }
            )
    return records


def number(value: float) -> float | None:
    """A JSON number; None for NaN."""
    return None if np.isnan(value) else float(value)


def _batches(samples: Sequence[Sample], turns: int, rows: int) -> Iterator[tuple[list[Sample], int]]:
    """Batches of one shape and of `rows` rows each, the last of a shape filled up by repeating; and how many rows are real."""
    in_order = sorted(samples, key=lambda sample: collect.shape_of(sample, turns))
    for _, same in itertools.groupby(in_order, key=lambda sample: collect.shape_of(sample, turns)):
        group = list(same)
        size = min(rows, len(group))
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            fill = [dataclasses.replace(batch[-1], group=batch[-1].group, member=1 + i) for i in range(size - len(batch))]
            yield batch + fill, len(batch)
