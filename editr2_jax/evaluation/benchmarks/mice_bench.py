"""MICE-Bench: sessions under a rule (content memory) and sessions with pronouns (content understanding), also together.

Reported per turn, per subset and per task type: IF, CC, and the verdict of the prefix judge, which is GA on memory and CU on understanding
sessions. That verdict is asked for afresh at every turn, so it may rise again; "so far" is the lowest one up to the turn, our addition.
Source: Edit-R2 (arXiv 2606.05950); the rule's own score is read off the judge's words.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.evaluation import statistics
from editr2_jax.evaluation.benchmarks import measures
from editr2_jax.evaluation.benchmarks.measures import GRADE, RULE_APPLIES, Board, Column, Measure, Selection, Table
from editr2_jax.records import SUBSETS, TASK_TYPES

NAME, TITLE = "mice_bench", "MICE-Bench"

IF = Column(name="if", label="IF", about="instruction of this turn followed", parts=("if",))
CC = Column(name="cc", label="CC", about="what no edit touched looks as in the source", parts=("cc",), due="cc")
JUDGE = Column(
    name="ga",
    label="GA / CU",
    about="all edits so far right, as judged at this turn; GA on memory, CU on understanding",
    parts=("ga",),
    due="ga",
)
JUDGE_SO_FAR = Column(
    name="ga_so_far", label="GA / CU so far", about="lowest verdict of the turns so far", parts=("ga_so_far",), due="ga", reach="so_far"
)
IF_SO_FAR = Column(name="if_so_far", label="IF so far", about="every turn so far has IF 1", parts=("if_so_far",), reach="so_far")
FULL_IF = Column(name="full_if", label="dialogue by IF", about="every turn has IF 1", parts=("full_if",), reach="dialogue", once=True)
FULL_GA = Column(
    name="full_ga", label="dialogue by GA / CU", about="lowest verdict of the dialogue", parts=("full_ga",), due="ga", reach="dialogue",
    once=True,
)  # fmt: skip
EDIT = Column(name="edit", label="edit done", about="judge: this edit was done (no failure before it)", parts=("edit",), due="ga")
RULE = Column(name="rule", label="rule kept", about="judge: of the edits that were done, the rule was kept", parts=("rule",), due="ga")


def tables(board: Board, cells: Measure) -> list[Table]:
    """Per turn, per subset, per type, and the rule."""
    subsets, turns = _subsets(board), range(board.turns)
    per_turn = [
        (f"{subset}, T{turn + 1}", Selection(subset=subset, turn=turn))
        for subset in subsets
        for turn in turns
        if Selection(subset=subset, turn=turn).mask(board).any()
    ]
    whole = [(subset, Selection(subset=subset)) for subset in subsets]
    found = [
        _table("turn", "By turn", "subset and turn", per_turn, (IF, CC, JUDGE, JUDGE_SO_FAR, IF_SO_FAR, GRADE), board, cells),
        _table("subset", "By subset", "subset", [*whole, ("all", Selection())], (IF, CC, JUDGE, FULL_IF, FULL_GA, GRADE), board, cells),
        _table("task_type", "By task type", "task type", _types(board, None), (IF, CC, JUDGE), board, cells),
        _table("type_turn", "IF by task type and turn", "task type and turn", _type_turns(board), (IF,), board, cells),
    ]
    if len(subsets) > 1:
        rows = [(f"{subset}, {name}", chosen) for subset in subsets for name, chosen in _types(board, subset)]
        found.append(_table("subset_type", "By subset and task type", "subset and task type", rows, (IF, CC, JUDGE), board, cells))
    if "memory" in subsets and "ga" in board.scores:
        found.append(_rule(board, cells))
    return found


def shifts(board: Board, train: Mapping[str, Sequence[str]], **options: Any) -> list[Table]:
    """The mix of first edits of every subset; train: subset -> types of the first turns of its training sessions."""
    return [shift(board, subset, train.get(subset), **options) for subset in _subsets(board)]


def shift(board: Board, subset: str, train: Sequence[str] | None, **options: Any) -> Table:
    """The first edit's type, here and in the training split, and IF of the first turn at the training split's mix.

    train: types of the first turns of the training sessions; None where they are not at hand. A type that was not tested is left out of the
    mix, and the others' shares are raised.
    """
    mine = collections.Counter(board.task_types[board.subsets == subset, 0].tolist())
    theirs = collections.Counter(train or ())
    names = [name for name in TASK_TYPES if mine[name] or theirs[name]] + sorted((mine.keys() | theirs.keys()) - set(TASK_TYPES))
    cells = measures.measure(board, **options)
    rows = []
    for name in names:
        told = {"test": _mix(mine, name)} | ({"train": _mix(theirs, name)} if train else {})
        if "if" in board.scores:
            told["if"] = cells(IF, Selection(subset=subset, turn=0, task_types=(name,)))
        rows.append({"name": name, "cells": told})
    if "if" in board.scores:
        rows.append({"name": "as tested", "cells": {"if": cells(IF, Selection(subset=subset, turn=0))}})
        if train:
            rows.append({"name": "at the train split's mix", "cells": {"if": _reweighted(board, subset, theirs, **options)}})
    columns = [("train", "train")] * bool(train) + [("test", "test")] + [("if", "IF T1")] * ("if" in board.scores)
    if train:
        far = sum(abs(mine[name] / mine.total() - theirs[name] / theirs.total()) for name in names) / 2
        note = f"Total variation distance between the two mixes: {far:.3f}."
        lost = sum(count for name, count in theirs.items() if not mine[name])
        note += f" {lost / theirs.total():.1%} of the train split open with a type that is not tested; its mix leaves them out." * bool(
            lost
        )
    else:
        note = "There are no such sessions in a train split beside this one to compare with."
    return {
        "name": f"shift_{subset}",
        "title": f"Type of the first edit, {subset}",
        "key": "task type",
        "note": note,
        "columns": [{"name": name, "label": label, "about": ""} for name, label in columns],
        "rows": rows,
    }


def _reweighted(board: Board, subset: str, mix: collections.Counter[str], **options: Any) -> measures.Cell:
    """sum over types of share x mean IF of the first turns of that type."""
    first = np.where(board.subsets == subset, board.values["if"][:, 0], np.nan)
    names = [name for name in mix if (~np.isnan(first[board.task_types[:, 0] == name])).any()]
    weights = np.array([mix[name] for name in names], float)

    def combine(means: np.ndarray) -> np.ndarray:
        known = weights[:, None] * ~np.isnan(means)
        total = known.sum(axis=0)
        return np.where(total > 0, np.nansum(known * np.nan_to_num(means), axis=0) / np.maximum(total, 1e-12), np.nan)

    column = Column(name="if_reweighted", label="", about="", parts=("if",))
    mask = Selection(subset=subset, turn=0).mask(board)
    if not names:
        return {"mean": None, "low": None, "high": None, "n": 0, "sessions": 0} | measures.denominators(board, column, mask)
    parts = [np.where(board.task_types[:, 0] == name, first, np.nan) for name in names]
    told = statistics.composite_interval(parts, combine, **options).json()
    return told | measures.denominators(board, column, mask) | {"from": {"score": "if", "reach": "turn", "subset": subset, "turn": 0}}


def _mix(counts: collections.Counter[str], name: str) -> measures.Cell:
    return {"share": counts[name] / counts.total(), "count": counts[name]}


def _rule(board: Board, cells: Measure) -> Table:
    rows = []
    for turn in range(board.turns):
        chosen = Selection(subset="memory", turn=turn, task_types=RULE_APPLIES)
        if chosen.mask(board).any():
            rows.append((f"T{turn + 1}, edits under the rule", chosen))
        rows.append((f"T{turn + 1}, all edits", Selection(subset="memory", turn=turn)))
    note = (
        "From the prefix judge's entry on the latest edit, where its vote finds no failure before that edit. Removing, moving and changing "
        "the background cannot break the rule; the first rows leave them out."
    )
    return _table("rule", "The rule of turn 1", "turn", rows, (EDIT, RULE), board, cells, note=note)


def _table(name, title, key, rows, columns, board: Board, cells: Measure, note: str = "") -> Table:
    return measures.table(name, title, key, rows, [column for column in columns if measures.has(board, column)], cells, note=note)


def _subsets(board: Board) -> list[str]:
    found = set(board.subsets.tolist())
    return [name for name in ("memory", "understanding", "plain") if name in found and name in SUBSETS]


def _types(board: Board, subset: str | None) -> list[tuple[str, Selection]]:
    every = sorted(set(board.task_types[board.played].tolist()), key=_order)
    chosen = [(name, Selection(subset=subset, task_types=(name,))) for name in every]
    return [(name, one) for name, one in chosen if one.mask(board).any()]


def _type_turns(board: Board) -> list[tuple[str, Selection]]:
    every = sorted(set(board.task_types[board.played].tolist()), key=_order)
    chosen = [(f"{name}, T{turn + 1}", Selection(turn=turn, task_types=(name,))) for name in every for turn in range(board.turns)]
    return [(name, one) for name, one in chosen if one.mask(board).any()]


def _order(name: str) -> tuple[int, str]:
    return TASK_TYPES.index(name) if name in TASK_TYPES else len(TASK_TYPES), name
