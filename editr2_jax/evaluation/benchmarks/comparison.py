"""Several evaluations of the same dialogues side by side; each against the first, paired by dialogue and turn.

A cell is {"runs": [cell, ...]}; that of every run but the first has "difference": {"mean", "low", "high", "n", "sessions"} against the
first, over the verdicts that both have. Means are over the dialogues that all runs have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.evaluation import statistics
from editr2_jax.evaluation import tables as score_tables
from editr2_jax.evaluation.benchmarks import leaderboard, measures
from editr2_jax.evaluation.benchmarks.measures import Board, Cell, Column, Measure, Selection

SCHEMA, VERSION = "editr2_jax.comparison", 1
FILE = "comparison.json"
MOST = 26  # runs at a time; each has a letter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One of the evaluations."""

    name: str
    board: Mapping[str, Any]  # its leaderboard.json
    records: Sequence[Mapping[str, Any]]  # its scores.jsonl


def make(runs: Sequence[Run], *, level: float = statistics.LEVEL, draws: int = statistics.DRAWS, seed: int = 0) -> dict[str, Any]:
    """The content of comparison.json. Raises ValueError for too few or many runs, other benchmarks, or dialogues that are not the same."""
    if not 2 <= len(runs) <= MOST:
        raise ValueError(f"a comparison wants 2 to {MOST} evaluations, got {len(runs)}.")
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise ValueError(f"two evaluations have the same name: {', '.join(names)}; give folders of different names.")
    benchmarks = {run.board["benchmark"] for run in runs}
    if len(benchmarks) > 1:
        raise ValueError(f"these are evaluations of {' and '.join(sorted(benchmarks))}; compare those of one benchmark.")
    common = _common(runs)
    boards = [measures.layout([record for record in run.records if (record["session"], record["turn"]) in common]) for run in runs]
    module = leaderboard.BENCHMARKS[runs[0].board["benchmark"]]
    shared = [name for name in boards[0].scores if all(name in board.scores for board in boards)]
    first = dataclasses.replace(boards[0], scores=tuple(shared))
    told = module.tables(first, _paired(boards, level=level, draws=draws, seed=seed))
    if len({board.single for board in boards}) > 1:
        told = [{**table, "note": ""} for table in told]  # notes tell how the first was drawn
    dialogues = {session for session, _ in common}
    about = [
        {
            "name": run.name,
            "model": run.board["model"],
            "date": run.board["date"],
            "pass": run.board["pass"],
            "judge": _judge(run.board),
            "hashes": run.board["hashes"],
            "sessions": run.board["data"]["sessions"],
            "unpaired": len({record["session"] for record in run.records} - dialogues),
            "unpaired_turns": sum(record["session"] in dialogues for record in run.records) - len(common),
        }
        for run in runs
    ]
    return score_tables.plain(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "benchmark": module.NAME,
            "title": module.TITLE,
            "level": level,
            "sessions": len(dialogues),
            "runs": about,
            "warnings": _warnings(runs, about),
            "tables": told,
        }
    )


def _common(runs: Sequence[Run]) -> set[tuple[str, int]]:
    """(session, turn) that all runs have, with the same words."""
    keyed = [{(record["session"], record["turn"]): record for record in run.records} for run in runs]
    common = set(keyed[0]).intersection(*keyed[1:])
    if not common:
        raise ValueError("no turn is in all evaluations; score the same sessions.")
    for key in sorted(common):
        for run, records in zip(runs, keyed, strict=True):
            if records[key]["instruction"] != keyed[0][key]["instruction"]:
                raise ValueError(
                    f"session {key[0]!r} turn {key[1] + 1} has another instruction in {run.name} than in {runs[0].name}; "
                    "the two are evaluations of different data."
                )
    return common


def _paired(boards: Sequence[Board], **options: Any) -> Measure:
    alone = [measures.measure(board, **options) for board in boards]

    def cell(column: Column, chosen: Selection) -> Cell:
        cells = [one(column, chosen) for one in alone]
        for number, other in enumerate(boards[1:], start=1):
            cells[number]["difference"] = _difference(boards[0], other, column, chosen, **options)
        return {"runs": cells}

    return cell


def _difference(before: Board, after: Board, column: Column, chosen: Selection, **options: Any) -> Cell:
    """after - before, over the verdicts that both have; every part is masked by its own pairs."""
    both = []
    for board in (before, after):
        mask = measures.turns_of(board, column, chosen)
        both.append([np.where(mask, board.values[name], np.nan) for name in column.parts])
    pairs = [(np.where(np.isnan(b), np.nan, a), np.where(np.isnan(a), np.nan, b)) for a, b in zip(*both, strict=True)]
    parts = [*(a for a, _ in pairs), *(b for _, b in pairs)]
    count = len(pairs)
    told = statistics.composite_interval(parts, lambda means: column.combine(means[count:]) - column.combine(means[:count]), **options)
    return told.json()


def _judge(board: Mapping[str, Any]) -> str:
    judge = board["judge"] or {}
    return str(judge.get("model") or judge.get("answerer") or "unknown")


def _warnings(runs: Sequence[Run], about: Sequence[Mapping[str, Any]]) -> list[str]:
    """What keeps numbers from being comparable."""
    found = []
    for what, told in (
        ("pass", [run["pass"] for run in about]),
        ("size of the pictures that are judged", [run.board["pictures"].get("size", "drawn") for run in runs]),
        ("judge's settings or prompts", [(run["hashes"]["rewards"], run["hashes"]["prompts"]) for run in about]),
    ):
        other = [run["name"] for run, value in zip(about, told, strict=True) if value != told[0]]
        if other:
            found.append(f"{', '.join(other)}: another {what} than {about[0]['name']}; differences are then not those of the models alone.")
    found += [f"{run['name']}: {run['unpaired']} of its dialogues are not in all runs, and left out." for run in about if run["unpaired"]]
    found += [
        f"{run['name']}: {run['unpaired_turns']} turns of dialogues that all runs have are not in all runs, and left out."
        for run in about
        if run["unpaired_turns"]
    ]
    return found + [f"{run.name}: {text}" for run in runs for text in run.board["warnings"]]
