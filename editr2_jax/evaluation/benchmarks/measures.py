"""From score records to the numbers of a benchmark: what a column means, which turns a row takes, and what stands behind a cell.

A `Board` is the records as arrays. A `Column` says how a number is made of them: the mean of one table of verdicts, or several means put
together. A row is a `Selection` of turns. A cell, as plain JSON:
    {"mean", "low", "high"}   a share in [0, 1] with its interval over dialogues; null where there is nothing to tell
    "n", "sessions"           turns (or dialogues) with a verdict, and the dialogues that they belong to
    "due", "missing"          how many ought to have one, and why those without it have none: {status: count}
    "parts"                   of a number made of several means: {name: {"mean", "n"}}
    "from"                    the records behind it, as a selection; see trace.py
Tables are {"name", "title", "key", "note", "columns": [{"name", "label"}], "rows": [{"name", "cells": {column: cell}}]}. Sessions are in
the order of their ids, so that no number depends on the order of the records. Letters: N sessions, T turns, P parts, D draws.
"""

from __future__ import annotations

import collections
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from editr2_jax.evaluation import statistics, tables
from editr2_jax.records import FREE_FORM, Status

RULE_APPLIES = ("subject_add", "subject_replace", "color_alter", "material_alter", "text_change", "count_change")  # spec of MICE-Bench, 3.1

Record = Mapping[str, Any]
Cell = dict[str, Any]
Table = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """Score records as arrays, sessions in the order of their ids."""

    sessions: tuple[str, ...]  # N
    subsets: np.ndarray  # str [N]
    task_types: np.ndarray  # str [N, T], "" where a session has no such turn
    scores: tuple[str, ...]  # names of the rewards
    values: Mapping[str, Float[np.ndarray, "N T"]]  # NaN for none; what there is: `layout`
    status: Mapping[str, np.ndarray]  # reward name -> str [N, T], "" where there is no turn
    kept: Bool[np.ndarray, "N T"]  # the background is to stay as it is in the source
    single: bool  # each picture was drawn at once, from all instructions so far

    @property
    def turns(self) -> int:
        return self.task_types.shape[1]

    @property
    def played(self) -> Bool[np.ndarray, "N T"]:
        return self.task_types != ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which turns make a row; None takes all."""

    subset: str | None = None
    turn: int | None = None
    task_types: tuple[str, ...] | None = None

    def mask(self, board: Board) -> Bool[np.ndarray, "N T"]:
        """True for the turns that it takes."""
        mask = board.played.copy()
        if self.subset is not None:
            mask &= (board.subsets == self.subset)[:, None]
        if self.turn is not None:
            mask &= np.arange(board.turns) == self.turn
        if self.task_types is not None:
            mask &= np.isin(board.task_types, self.task_types)
        return mask

    def json(self) -> dict[str, Any]:
        """What is not None."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items() if v is not None}


Combine = Callable[[Float[np.ndarray, "P D"]], Float[np.ndarray, " D"]]


def only(means: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " D"]:
    """The one part as it is."""
    return means[0]


def average(means: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " D"]:
    """Mean of the parts that there are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of no part at all, which gives NaN as it should
        return np.nanmean(means, axis=0)


def overall(means: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " D"]:
    """sqrt(IF x CC), of IF and the average of the parts of CC."""
    return np.sqrt(means[0] * average(means[1:]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A number, as a benchmark defines it."""

    name: str
    label: str
    about: str  # one line for the reader
    parts: tuple[str, ...]  # names in Board.values
    combine: Combine = only
    due: str = "if"  # the reward whose statuses say what ought to be there
    reach: str = "turn"  # records behind it: those of the turns, "so_far" those up to them, "dialogue" all of their sessions
    once: bool = False  # one value per dialogue, in the place of its first turn
    kept: bool = False  # of turns whose background is to stay alone


GRADE = Column(
    name="trajectory_grade", label="trajectory grade", about="a judge's grade, from 1 to 5 told as 0 to 1",
    parts=("trajectory_grade",), due="trajectory_grade",
)  # fmt: skip
Measure = Callable[[Column, Selection], Cell]


def layout(records: Sequence[Record]) -> Board:
    """Records as a board. Raises ValueError as tables.layout does.

    values: the scores, "reward", and what follows from them:
        if_so_far, full_if            every turn so far has IF 1; every turn of the dialogue (once per dialogue)
        ga_so_far, full_ga            the lowest prefix verdict so far; that of the last turn (once per dialogue)
        if_asked                      mean IF of all instructions that the picture was asked for; in a multi pass IF itself
        object, background, cc_image  the parts of CC while the background is to stay, and their mean picture by picture
        edit, rule                    of the prefix judge's words on the latest edit: was it done; where it was, did it keep the rule
    """
    records = sorted(records, key=lambda record: (str(record.get("session")), record.get("turn", 0)))
    grid = tables.layout(records)
    shape = grid.task_types.shape
    at = {session: row for row, session in enumerate(grid.sessions)}
    single = any("each" in record for record in records)
    values = dict(grid.values)
    if single:
        values["if_so_far"] = np.full(shape, np.nan)  # of one picture each, not of the pictures before it
    more = {name: np.full(shape, np.nan) for name in ("object", "background", "cc_image", "edit", "rule", "if_asked")}
    status = {name: np.full(shape, "", object) for name in grid.scores}
    kept = _kept(grid.task_types)
    for record in records:
        place = at[record["session"]], record["turn"]
        kept[place] = bool(record.get("bg_consistency", kept[place]))
        for name in grid.scores:
            status[name][place] = str(record["status"].get(name, Status.NOT_APPLICABLE.value))
        detail = record.get("detail") or {}
        if kept[place]:
            parts = {name: tables.number(detail.get("cc", {}).get(name)) for name in ("object", "background")}
            for name, value in parts.items():
                more[name][place] = value
            more["cc_image"][place] = average(np.array(list(parts.values()))[:, None])[0]
        more["edit"][place], more["rule"][place] = _judged(detail.get("ga") or {}, record["turn"])
        if "each" in record:
            more["if_asked"][place] = statistics.row_means(np.array([[tables.number(one["score"]) for one in record["each"]]]))[0]
            values["if_so_far"][place] = _all_hold(record["each"])
    if "if" in grid.scores:
        more["if_asked"] = more["if_asked"] if single else values["if"]
        values["full_if"] = _last_known(values["if_so_far"], grid.task_types) if single else values["full_success"]
    if "ga" in grid.scores:
        values["full_ga"] = _last_known(values["ga_so_far"], grid.task_types)
    return Board(
        sessions=grid.sessions,
        subsets=grid.subsets,
        task_types=grid.task_types,
        scores=grid.scores,
        values=values | more,
        status=status,
        kept=kept,
        single=single,
    )


def measure(board: Board, **options: Any) -> Measure:
    """Cells of one board. options: level, draws and seed of the bootstrap."""

    def cell(column: Column, chosen: Selection) -> Cell:
        mask = turns_of(board, column, chosen)
        parts = [np.where(mask, board.values[name], np.nan) for name in column.parts]
        told = statistics.composite_interval(parts, column.combine, **options).json()
        told |= denominators(board, column, mask)
        if len(parts) > 1:
            told["parts"] = {name: _part(part) for name, part in zip(column.parts, parts, strict=True)}
        reach = "turn" if board.single and column.reach == "so_far" else column.reach  # a record of a single pass holds all it was asked
        kept = {"kept": True} if column.kept else {}
        return told | {"from": {"score": column.due, "reach": reach, **kept, **chosen.json()}}

    return cell


def turns_of(board: Board, column: Column, chosen: Selection) -> Bool[np.ndarray, "N T"]:
    """Where a column's values lie in a row's turns."""
    mask = chosen.mask(board)
    return _first(mask) if column.once else mask & board.kept if column.kept else mask


def denominators(board: Board, column: Column, mask: Bool[np.ndarray, "N T"]) -> dict[str, Any]:
    """{"due", "missing"}: how many verdicts a cell ought to have (dialogues, where it has one for each), and why others are not there.

    "undecided": the verdict is there, and what the column makes of it hangs on an earlier one that is missing. A part that a verdict does
    not have (no object to compare, no edit before it done) is not due.
    """
    status, values = board.status[column.due], [board.values[name] for name in column.parts]
    applies = (status != "") & (status != Status.NOT_APPLICABLE.value)
    if column.once:
        rows = applies.any(axis=1) & mask.any(axis=1)
        lost = int((rows & np.isnan(values[0][:, 0])).sum())
        return {"due": int(rows.sum()), "missing": {"undecided": lost} if lost else {}}
    known = ~np.isnan(values[:1] if column.combine is overall else values).all(axis=0)  # its IF decides; either part makes a CC
    why = np.where(status != Status.OK.value, status, "undecided" if column.reach == "so_far" else "")
    lacking = why[mask & applies & ~known & (why != "")].tolist()
    due = int((mask & applies & known).sum()) + len(lacking)
    return {"due": due, "missing": dict(sorted(collections.Counter(lacking).items()))}


def has(board: Board, column: Column) -> bool:
    """Whether the rewards that a column speaks of were in use."""
    return column.due in board.scores and all(name in board.values for name in column.parts)


def table(
    name: str, title: str, key: str, rows: Sequence[tuple[str, Selection]], columns: Sequence[Column], cells: Measure, *, note: str = ""
) -> Table:
    """A table as plain JSON."""
    return {
        "name": name,
        "title": title,
        "key": key,
        "note": note,
        "columns": [{"name": column.name, "label": column.label, "about": column.about} for column in columns],
        "rows": [{"name": row, "cells": {column.name: cells(column, chosen) for column in columns}} for row, chosen in rows],
    }


def statuses(board: Board) -> Table:
    """How many verdicts of every reward, subset and turn have which status: the denominators of everything else."""
    kinds = [status.value for status in Status] + ["no_picture"]
    names = sorted(set(board.subsets.tolist()))
    found = {}
    for score in board.scores:
        for subset in names:
            for turn in range(board.turns):
                mask = Selection(subset=subset, turn=turn).mask(board)
                if mask.any():
                    found[f"{score}, {subset}, T{turn + 1}"] = collections.Counter(board.status[score][mask].tolist())
        found[f"{score}, all"] = collections.Counter(board.status[score][board.played].tolist())
    kinds = [kind for kind in kinds if any(count[kind] for count in found.values())]
    rows = [
        {"name": name, "cells": {"turns": {"count": count.total()}, **{kind: {"count": count[kind]} for kind in kinds}}}
        for name, count in found.items()
    ]
    columns = [{"name": name, "label": name.replace("_", " "), "about": ""} for name in ("turns", *kinds)]
    note = "A mean stands on the verdicts that are ok. What does not apply is not due; what is due and not ok is missing, and no number."
    return {"name": "statuses", "title": "Denominators", "key": "reward, subset, turn", "note": note, "columns": columns, "rows": rows}


def _kept(task_types: np.ndarray) -> Bool[np.ndarray, "N T"]:
    """True until the first edit that changes the background: what the annotation says, of records that do not repeat it."""
    return ~np.logical_or.accumulate(np.isin(task_types, ("background_change", FREE_FORM)), axis=1)


def _judged(detail: Record, turn: int) -> tuple[float, float]:
    """(share of votes that find the latest edit done, share of those that find its rule kept as well).

    A judge may stop at the first failure, and what it left out is read as false. An entry whose edit is true was surely made, so the rule
    is looked at there alone; the edit counts where the vote finds no failure before it.
    """
    looked = [
        (edits[turn], rules[turn])
        for edits, rules in zip(detail.get("edits") or (), detail.get("rules") or (), strict=False)
        if len(edits) > turn and len(rules) > turn and all(edits[:turn]) and all(rules[:turn])
    ]
    done = [rule for edit, rule in looked if edit]
    return _share([edit for edit, _ in looked]), _share(done)


def _share(held: Sequence[bool]) -> float:
    return sum(map(bool, held)) / len(held) if held else np.nan


def _all_hold(each: Sequence[Record]) -> float:
    """1 where every instruction holds in one picture, 0 where one does not, NaN where a missing verdict decides."""
    scores = np.array([[tables.number(one["score"]) for one in each]])
    counts = np.array([[one["status"] != Status.NOT_APPLICABLE.value for one in each]])
    return float(statistics.full_success(scores, counts=counts)[0])


def _last_known(values: Float[np.ndarray, "N T"], task_types: np.ndarray) -> Float[np.ndarray, "N T"]:
    """The value of every dialogue's last turn, in the place of its first."""
    last = (task_types != "").sum(axis=1) - 1
    out = np.full(values.shape, np.nan)
    out[:, 0] = values[np.arange(len(values)), last]
    return out


def _first(mask: Bool[np.ndarray, "N T"]) -> Bool[np.ndarray, "N T"]:
    """The first turn of every dialogue of which some turn is taken."""
    out = np.zeros(mask.shape, bool)
    out[:, 0] = mask.any(axis=1)
    return out


def _part(values: np.ndarray) -> dict[str, Any]:
    count = int((~np.isnan(values)).sum())
    return {"mean": float(np.nanmean(values)) if count else None, "n": count}
