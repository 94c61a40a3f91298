"""From score records to tables: per turn, per subset, per task type; alone, or after against before.

A score record is one line of eval/STEP/scores.jsonl, about one turn of one session:
    {"session": id, "subset": str, "turn": int, "task_type": str, "instruction": str, "intent": str | null,
     "scores": {"if": float | null, ...}, "status": {"if": "ok", ...}, "reward": float | null, "detail": {...},
     "changed": float}  (mean |difference| to the turn's input picture, in [0, 1]; records of older runs have none)
null is a missing verdict, and `status` says why. Beside the scores, tables show what follows from them: `if_so_far` (every turn so far
has IF 1), `ga_so_far` (the lowest GA so far) and `full_success` (every turn of the dialogue has IF 1).

A cell is an interval as in statistics.py, as plain JSON: {"mean", "low", "high", "n", "sessions"}, and "before", "after" where two
evaluations meet (mean, low and high are then those of the difference). A table is {"key": what its rows are, "columns": [name], "rows":
[{"name": str, "cells": {column: cell}}]}; a summary or a comparison holds several, under "tables". Letters: N sessions, T turns.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from editr2_jax.evaluation import statistics
from editr2_jax.records import SUBSETS, TASK_TYPES, Status
from editr2_jax.runtime import workdir

SCORES, SUMMARY = "scores.jsonl", "summary.json"
FORMAT = 1  # raised when the meaning of a file changes
FIELDS = ("session", "subset", "turn", "task_type", "instruction", "scores", "status", "reward")  # what tables need
LABELS = {"if": "IF", "cc": "CC", "ga": "GA", "if_so_far": "IF so far", "ga_so_far": "GA so far", "full_success": "full dialogue"}

Record = Mapping[str, Any]
Cell = dict[str, Any]
Table = dict[str, Any]
Cells = Callable[[str, Bool[np.ndarray, "N T"]], Cell]  # (column, which turns) -> cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Records laid out as arrays; sessions in the order of their first record."""

    sessions: tuple[str, ...]  # N
    subsets: np.ndarray  # str [N]
    task_types: np.ndarray  # str [N, T], "" where a session has no such turn
    scores: tuple[str, ...]  # names of the rewards
    values: Mapping[str, Float[np.ndarray, "N T"]]  # the scores, "reward", and what follows from them; NaN for none

    @property
    def session_rewards(self) -> Float[np.ndarray, " N"]:
        """Mean reward over the turns of each session that have one."""
        return statistics.row_means(self.values["reward"])


def summarise(
    records: Sequence[Record], *, level: float = statistics.LEVEL, draws: int = statistics.DRAWS, seed: int = 0
) -> dict[str, Any]:
    """The tables of one evaluation: summary.json. "reward" is the mean session reward, "statuses" counts the verdicts of every kind."""
    grid = layout(records)

    def cells(column: str, mask: Bool[np.ndarray, "N T"]) -> Cell:
        values = grid.values.get(column, np.nan)  # without IF no dialogue can be told to have succeeded
        return statistics.mean_interval(np.where(mask, values, np.nan), level=level, draws=draws, seed=seed).json()

    statuses = {name: collections.Counter(str(record["status"].get(name, "absent")) for record in records) for name in grid.scores}
    return _head(grid, level) | {
        "reward": statistics.mean_interval(grid.session_rewards, level=level, draws=draws, seed=seed).json(),
        "full_success": cells("full_success", np.ones(grid.task_types.shape, bool)),
        "tables": _tables(grid, cells),
        "statuses": {name: dict(sorted(counts.items())) for name, counts in statuses.items()},
    }


def compare(
    before: Sequence[Record],
    after: Sequence[Record],
    *,
    level: float = statistics.LEVEL,
    draws: int = statistics.DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The same tables of differences, paired by (session, turn). Sessions that only one side has are left out and counted in "unpaired".

    Raises ValueError when no turn is in both, or when a turn in both does not have the same instruction.
    """
    old, new = _keyed(before), _keyed(after)
    both = [key for key in old if key in new]
    if not both:
        raise ValueError("compare: no turn is in both evaluations; evaluate the same held-out sessions before and after.")
    for session, turn in both:
        if old[session, turn]["instruction"] != new[session, turn]["instruction"]:
            raise ValueError(f"compare: session {session!r} turn {turn} has another instruction after than before; pair the same sessions.")
    was, now = layout([old[key] for key in both]), layout([new[key] for key in both])

    def paired(left: np.ndarray, right: np.ndarray) -> Cell:
        return statistics.paired_interval(left, right, level=level, draws=draws, seed=seed).json()

    def cells(column: str, mask: Bool[np.ndarray, "N T"]) -> Cell:
        return paired(*(np.where(mask, grid.values.get(column, np.nan), np.nan) for grid in (was, now)))

    two_rewards = ~np.isnan(was.values["reward"] + now.values["reward"])  # [N, T] a session's mean is over the same turns on both sides
    paired_sessions = set(was.sessions)
    return _head(was, level) | {
        "unpaired": {side: len({session for session, _ in keyed} - paired_sessions) for side, keyed in (("before", old), ("after", new))},
        "reward": paired(*(statistics.row_means(np.where(two_rewards, grid.values["reward"], np.nan)) for grid in (was, now))),
        "full_success": cells("full_success", np.ones(was.task_types.shape, bool)),
        "tables": _tables(was, cells),
    }


def layout(records: Sequence[Record]) -> Grid:
    """Records as arrays. Raises ValueError for no records, a field that is missing or unfit, or a turn that is there twice."""
    keyed = _keyed(records)
    rows = {session: row for row, session in enumerate(dict.fromkeys(session for session, _ in keyed))}
    shape = (len(rows), 1 + max(turn for _, turn in keyed))
    scores = tuple(dict.fromkeys(name for record in records for name in record["scores"]))
    values = {name: np.full(shape, np.nan) for name in ("reward", *scores)}
    counts = {name: np.zeros(shape, bool) for name in scores}  # where a verdict is due
    task_types, subsets = np.full(shape, "", object), np.full(len(rows), "", object)
    for (session, turn), record in keyed.items():
        at = rows[session], turn
        task_types[at], subsets[at[0]] = record["task_type"], record["subset"]
        values["reward"][at] = number(record["reward"])
        for name in scores:
            values[name][at] = number(record["scores"].get(name))
            counts[name][at] = record["status"].get(name, Status.NOT_APPLICABLE) != Status.NOT_APPLICABLE
    return Grid(sessions=tuple(rows), subsets=subsets, task_types=task_types, scores=scores, values=_derived(values, counts))


def markdown(table: Table, *, title: str = "") -> str:
    """A table in Markdown: mean [low, high] (verdicts) in each cell; before → after, difference [low, high] (verdicts) in a comparison."""
    head = [table["key"], *(LABELS.get(column, column) for column in table["columns"])]
    lines = [head, ["---"] * len(head)]
    lines += [[row["name"], *(cell_text(row["cells"].get(column)) for column in table["columns"])] for row in table["rows"]]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"### {title}\n\n{text}\n" if title else text + "\n"


def cell_text(cell: Cell | None) -> str:
    """A cell as one line of text; – where no verdict is."""
    if not cell or cell["mean"] is None:
        return "–"
    if "before" in cell:
        spread = "" if cell["low"] is None else f" [{signed(cell['low'])}, {signed(cell['high'])}]"
        return f"{cell['before']:.3f} → {cell['after']:.3f}, {signed(cell['mean'])}{spread} ({cell['n']})"
    spread = "" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['mean']:.3f}{spread} ({cell['n']})"


def headline(comparison: Mapping[str, Any]) -> str:
    """The result of a run in one line."""
    cell = comparison["reward"]
    if cell["mean"] is None:
        return "no session has a reward both before and after"
    line = f"mean session reward {cell['before']:.3f} → {cell['after']:.3f} ({signed(cell['mean'])}"
    if cell["low"] is not None:
        line += f", paired {comparison['level']:.0%} interval {signed(cell['low'])} to {signed(cell['high'])}"
    return f"{line}) on {cell['sessions']} held-out dialogues"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def write(
    directory: str | os.PathLike, records: Sequence[Record], *, judge: Mapping[str, float] | None = None, **options: Any
) -> dict[str, Any]:
    """Write scores.jsonl and summary.json into eval/STEP; returns the summary. NaN is written as null. options: as for `summarise`.

    judge: counts of requests, answers, cache hits and failures, kept under "judge".
    """
    folder = workdir.writable(directory)
    records = [plain(record) for record in records]
    summary = summarise(records, **options) | ({"judge": dict(sorted(judge.items()))} if judge else {})
    workdir.replace_text(folder / SCORES, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    workdir.write_json(folder / SUMMARY, summary)
    return summary


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a scores.jsonl; raises ValueError where there is none, and naming the line that breaks."""
    if not path.is_file():
        raise ValueError(f"{path}: not found; evaluate or score again, or restore the file.")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not a score record ({error}); evaluate again, or restore the file.") from error
    return records


def _derived(values: dict[str, np.ndarray], counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "if" in values:
        values["if_so_far"] = statistics.success_so_far(values["if"], counts=counts["if"])
        values["full_success"] = np.full(values["if"].shape, np.nan)
        values["full_success"][:, 0] = statistics.full_success(values["if"], counts=counts["if"])  # once per session, whatever T is
    if "ga" in values:
        values["ga_so_far"] = statistics.cumulative_min(values["ga"], counts=counts["ga"])
    return values


def _tables(grid: Grid, cells: Cells) -> dict[str, Table]:
    """All tables: which turns make a row, and which columns it shows."""
    played = grid.task_types != ""  # [N, T]
    turns = [(f"turn {turn}", played & (np.arange(played.shape[1]) == turn)) for turn in range(played.shape[1])]
    subsets = [(name, played & (grid.subsets == name)[:, None]) for name in _in_order(grid.subsets, SUBSETS)]
    types = [(name, played & (grid.task_types == name)) for name in _in_order(grid.task_types[played], TASK_TYPES)]
    alone = [column for column in ("reward", *grid.scores) if column in grid.values]
    so_far = alone + [column for column in ("if_so_far", "ga_so_far") if column in grid.values]
    whole = alone + [column for column in ("full_success",) if column in grid.values]
    both = [(f"{subset}, {turn}", mask & other) for subset, mask in subsets for turn, other in turns if (mask & other).any()]
    return {
        "turn": _table("turn", turns, so_far, cells),
        "subset": _table("subset", [("all", played), *subsets], whole, cells),
        "subset_turn": _table("subset and turn", both, so_far, cells),
        "task_type": _table("task type", types, alone, cells),
    }


def _table(key: str, rows: Sequence[tuple[str, np.ndarray]], columns: list[str], cells: Cells) -> Table:
    return {"key": key, "columns": columns, "rows": [{"name": name, "cells": {c: cells(c, mask) for c in columns}} for name, mask in rows]}


def _head(grid: Grid, level: float) -> dict[str, Any]:
    return {"format": FORMAT, "level": level, "sessions": len(grid.sessions), "turns": int(grid.task_types.shape[1])}


def _in_order(found: np.ndarray, known: Sequence[str]) -> list[str]:
    """The known names that occur, in their usual order, then any other."""
    names = set(found.tolist())
    return [name for name in known if name in names] + sorted(names - set(known))


def _keyed(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    """(session, turn) -> record, checked."""
    if not records:
        raise ValueError("no score records; an evaluation has one for every turn of every session.")
    keyed: dict[tuple[str, int], Record] = {}
    for number, record in enumerate(records, start=1):
        absent = [name for name in FIELDS if name not in record]
        if absent:
            raise ValueError(f"score record {number}: {', '.join(absent)} missing; a record has {', '.join(FIELDS)}.")
        key = record["session"], record["turn"]
        if key in keyed:
            raise ValueError(f"score record {number}: session {key[0]!r} turn {key[1]} is there twice.")
        keyed[key] = record
    return keyed


def number(value: float | None) -> float:
    """A JSON number as a float; NaN for null."""
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """JSON values only: NaN and infinities are null, numpy numbers are Python's."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
