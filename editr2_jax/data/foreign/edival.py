"""EdiVal-Bench: a CSV with one row per prefix of a dialogue, and pictures `INDEX_input_raw.jpg` or `.png`.

Columns: image_index, turns (length t of the prefix), and as Python lists task_type, instructions, format_instructions (of turns 1..t),
unchanged_objects, available_objects, all_objects (after turn t); bg_consistency (after turn t) is True or False. Some texts carry a pair of
double quotes around the whole, and some formatted ones a full stop behind the last bracket; both are taken off, nothing else is touched.
Source: the EdiVal repository, oai_instruction_generation_output.csv.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editr2_jax.data.foreign.writing import Found, first_file, rows_of
from editr2_jax.data.session_record import Complaints, Problem

_PREFIXES = {"task_type": "task_type", "instructions": "instruction", "format_instructions": "formatted_instruction"}  # theirs -> ours
_POOLS = ("unchanged_objects", "available_objects", "all_objects")
_COLUMNS = ("image_index", "turns", *_PREFIXES, "bg_consistency", *_POOLS)
_SUFFIXES = (".jpg", ".png", ".jpeg")


def read(table: Path, images: Path, split: str) -> tuple[list[Found], list[Problem]]:
    """The dialogues of a CSV, in its order, and what is wrong with its rows. Raises ValueError where the columns are others."""
    rows, problems = _rows(table)
    found = []
    for index, prefixes in rows.items():
        bad = Complaints(str(table), prefixes[0][0])
        record = _record(index, prefixes, bad)
        if record is not None:
            source = first_file(*(images / f"{index}_input_raw{suffix}" for suffix in _SUFFIXES))
            name = f"images/{index}_input_raw{source.suffix if source else _SUFFIXES[0]}"
            record = {"id": f"{split}/{index}", "image": name} | record
            found.append(Found(file=str(table), line=prefixes[0][0], record=record, pictures={name: source}))
        problems += bad.problems
    return found, problems


def _rows(table: Path) -> tuple[dict[str, list[tuple[int, dict[str, Any]]]], list[Problem]]:
    """image_index -> its readable rows, with their lines; and the others."""
    rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    problems: list[Problem] = []
    broken = set()  # images that have lost a row: what is left of them is no dialogue
    for bad, cells in rows_of(table, _COLUMNS, "EdiVal's CSV has "):
        row = {column: _list(cells[column], column, bad) for column in (*_PREFIXES, *_POOLS)}
        row |= {"turns": cells["turns"], "bg_consistency": cells["bg_consistency"]}
        if not (cells["image_index"] or "").isdecimal() or not (cells["turns"] or "").isdecimal():
            bad(f"image_index {cells['image_index']!r}, turns {cells['turns']!r}: both are whole numbers.")
        if row["bg_consistency"] not in ("True", "False"):
            bad(f"bg_consistency is {row['bg_consistency']!r}; it is True or False.")
        rows.setdefault(cells["image_index"], []).append((bad.line, row))
        broken |= {cells["image_index"]} if bad.problems else set()
        problems += bad.problems
    return {index: prefixes for index, prefixes in rows.items() if index not in broken}, problems


def _list(cell: str | None, column: str, bad: Complaints) -> list[str]:
    try:
        value = ast.literal_eval(cell or "")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    bad(f"{column} is {cell!r:.80}; it is a Python list of texts.")
    return []


def _record(index: str, prefixes: Sequence[tuple[int, dict[str, Any]]], bad: Complaints) -> dict[str, Any] | None:
    """Our fields of one dialogue; None where its rows are not the prefixes 1, 2, ... of one another."""
    for t, (line, row) in enumerate(prefixes):
        at = Complaints(bad.file, line)
        if row["turns"] != str(t + 1):
            at(f"image {index}: turns is {row['turns']} where the prefix of length {t + 1} is due; give its rows in order, none left out.")
        for column in _PREFIXES:
            if len(row[column]) != t + 1:
                at(f"image {index}: {column} has {len(row[column])} entries in the prefix of length {t + 1}.")
            elif t and row[column][:-1] != prefixes[t - 1][1][column]:
                at(f"image {index}: {column} does not go on from the row before, line {prefixes[t - 1][0]}.")
        bad.problems += at.problems
    if bad.problems:
        return None
    last, rows = prefixes[-1][1], [row for _, row in prefixes]
    record = {ours: list(last[theirs]) for theirs, ours in _PREFIXES.items()}
    record["instruction"] = [_unquoted(text) for text in record["instruction"]]
    record["formatted_instruction"] = [_unquoted(text).removesuffix(".") for text in record["formatted_instruction"]]
    record["bg_consistency"] = [row["bg_consistency"] == "True" for row in rows]
    return record | {pool: [row[pool] for row in rows] for pool in _POOLS} | {"turns": len(rows), "subset": "plain"}


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
