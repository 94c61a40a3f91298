"""MagicBrush: sessions of edits in words, each turn with the picture that people made of it.

    edit_sessions.json   {"IMG_ID": [{"input": name, "output": name, "instruction": text, ...}, ...], ...}; pictures IMAGES/IMG_ID/name
    a .tsv file          columns img_id, turn_index (from 1), source_img, instruction, target_img: the fields of the other release, rows of
                         a session in a row; pictures IMAGES/name or IMAGES/IMG_ID/name

A session tells no types and no objects, so its turns are free-form. Source: the MagicBrush repository and data set card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from editr2_jax.data.foreign.writing import Found, first_file, free_form, inside, rows_of, text_of
from editr2_jax.data.session_record import Complaints, Problem

_FIELDS = {"source": "input", "target": "output", "instruction": "instruction"}  # ours -> those of a turn in the JSON file
_COLUMNS = {"source": "source_img", "target": "target_img", "instruction": "instruction"}
_Turns = list[tuple[int, dict[str, Any]]]  # line, and what stands there


def read(table: Path, images: Path, split: str) -> tuple[list[Found], list[Problem]]:
    """The sessions of a file, in its order, and what is wrong with the others. Raises ValueError for a file of another kind."""
    names, sessions, problems = (_COLUMNS, *_of_tsv(table)) if table.suffix == ".tsv" else (_FIELDS, *_of_json(table))
    found = []
    for img_id, turns in sessions.items():
        bad = Complaints(str(table), turns[0][0])
        told = _told(turns, names, bad)
        if not bad.problems:
            found.append(_found(img_id, told, images, split, bad))
        problems += bad.problems
    return found, problems


def _found(img_id: str, turns: Sequence[dict[str, str]], images: Path, split: str, bad: Complaints) -> Found:
    named = [turns[0]["source"], *(turn["target"] for turn in turns)]
    paths = [str(PurePosixPath("images", img_id, name)) for name in named]  # not their last parts, which two of them may share
    places = [(*inside(images / img_id, name), *inside(images, name)) for name in named]
    pictures = {path: first_file(*candidates) for path, candidates in zip(paths, places, strict=True)}
    record = {"id": f"{split}/{img_id}", "image": paths[0], "subset": "plain", "target": paths[1:]}
    return Found(file=bad.file, line=bad.line, record=record | free_form([turn["instruction"] for turn in turns]), pictures=pictures)


def _told(turns: _Turns, names: dict[str, str], bad: Complaints) -> list[dict[str, str]]:
    """Source, target and instruction of every turn; complains where one is no text, or a turn does not begin where the last one ended."""
    told = []
    for t, (line, turn) in enumerate(turns):
        at = Complaints(bad.file, line)
        values = {ours: turn.get(theirs) if isinstance(turn, dict) else None for ours, theirs in names.items()}
        for ours, value in values.items():
            if not isinstance(value, str) or not value.strip():
                at(f"turn {t}: {names[ours]} is {value!r:.80}; give a text.")
        if t and not at.problems and told and values["source"] != told[-1]["target"]:
            at(f"turn {t} starts from {values['source']}, not from {told[-1]['target']}, which turn {t - 1} made; it is another session.")
        bad.problems += at.problems
        told.append(values)
    return told


def _of_json(table: Path) -> tuple[dict[str, _Turns], list[Problem]]:
    text = text_of(table)
    try:
        told = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}:{error.lineno}: not JSON: {error.msg} at column {error.colno}.") from error
    except RecursionError as error:
        raise ValueError(f"{table}: not sessions by img_id: JSON nested too deep.") from error
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{table}: a {type(told).__name__}, not sessions by img_id; give edit_sessions.json, or a .tsv file.")
    lines, line, end = {}, 1, 0
    for key in re.finditer(r'"([^"\\]*)"\s*:\s*\[', text):
        line, end = line + text.count("\n", end, key.start()), key.start()
        lines.setdefault(key[1], line)
    sessions, problems = {}, []
    for img_id, turns in told.items():
        bad = Complaints(str(table), lines.get(img_id, 0))
        if not isinstance(turns, list) or not turns:
            bad(f"session {img_id}: {turns!r:.80} is no list of turns.")
        elif "/" in img_id or img_id in ("", ".", ".."):
            bad(f"session {img_id!r}: the id names a folder of pictures, so it has no slash and is no dot.")
        else:
            sessions[img_id] = [(bad.line, turn) for turn in turns]
        problems += bad.problems
    return sessions, problems


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose entries replaces another."""
    told = {}
    for name, value in pairs:
        if name in told:
            raise ValueError(f"{name!r} is there twice; give every session and every field once.")
        told[name] = value
    return told


def _of_tsv(table: Path) -> tuple[dict[str, _Turns], list[Problem]]:
    sessions: dict[str, _Turns] = {}
    problems: list[Problem] = []
    broken = set()  # sessions that have lost a row: what is left of them is no session
    last = None
    for bad, row in rows_of(table, ("img_id", "turn_index", *_COLUMNS.values()), "give, with tabs between, ", delimiter="\t"):
        img_id = row["img_id"] or ""
        due = len(sessions.get(img_id, ())) + 1
        if not img_id or "/" in img_id or img_id in (".", ".."):
            bad(f"img_id is {img_id!r}; it names a folder of pictures.")
        elif row["turn_index"] != str(due) or (due > 1 and img_id != last):
            bad(f"session {img_id}: turn_index is {row['turn_index']} where {due} is due; give the rows of a session in a row, from 1.")
        else:
            sessions.setdefault(img_id, []).append((bad.line, row))
        last = img_id
        broken |= {img_id} if bad.problems else set()
        problems += bad.problems
    return {img_id: turns for img_id, turns in sessions.items() if img_id not in broken}, problems
