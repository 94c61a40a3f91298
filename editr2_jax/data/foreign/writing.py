"""What the readers of foreign formats find, and the session folder that it becomes.

A found session is a record of our schema and the pictures it names. It goes through the rules of every other record, so a bad row is told
by the file and line it came from. Pictures are copied byte for byte.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from editr2_jax.data import images, session_record
from editr2_jax.data.session_record import Complaints, Kind, Limits, Problem
from editr2_jax.data.session_source import BadSessions
from editr2_jax.records import FREE_FORM
from editr2_jax.runtime import places


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One session of a foreign file."""

    file: str
    line: int  # where it begins, from 1
    record: Mapping[str, Any]  # of our schema; its paths are keys of `pictures`
    pictures: Mapping[str, Path | None]  # path in the folder to be -> the file to copy; None where it was not found


def text_of(table: Path) -> str:
    """The text of a file. Raises ValueError naming file and line where it is not UTF-8."""
    content = table.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{table}:{line}: not UTF-8 at byte {error.start} of the file; save it as UTF-8.") from error


def rows_of(table: Path, columns: Sequence[str], whose: str, *, delimiter: str = ",") -> Iterator[tuple[Complaints, dict[str, str | None]]]:
    """The rows of a table by the names of its columns, each with the complaints about it, which know its first line.

    A row that lacks a cell or has one too many is complained about. Raises ValueError where a column of `columns` is not there.
    """
    reader = csv.reader(io.StringIO(text_of(table), newline=""), delimiter=delimiter)
    try:
        names = next(reader, [])
        lost = [column for column in columns if column not in names]
        if lost:
            raise ValueError(f"{table}:1: there is no column {lost[0]}; {whose}{', '.join(columns)}.")
        end = reader.line_num
        for cells in reader:
            bad, end = Complaints(str(table), end + 1), reader.line_num  # a cell may hold line breaks
            if not cells:
                continue
            if len(cells) != len(names):
                bad(f"the row has {len(cells)} cells, the head of the table {len(names)}; put cells with a delimiter in them in quotes.")
            yield bad, {**dict.fromkeys(names), **dict(zip(names, cells, strict=False))}
    except csv.Error as error:
        raise ValueError(f"{table}:{reader.line_num}: not a table: {error}.") from error


def free_form(instructions: Sequence[str]) -> dict[str, Any]:
    """The fields of turns that are words alone: no type, nothing known to stay, so that scores that need either do not apply."""
    count = len(instructions)
    empty = {name: [[] for _ in range(count)] for name in session_record.NAMES}
    words = {"instruction": list(instructions), "formatted_instruction": list(instructions)}
    return words | {"task_type": [FREE_FORM] * count, "bg_consistency": [False] * count, "turns": count} | empty


def first_file(*candidates: Path) -> Path | None:
    """The first of some places at which a picture lies."""
    return next((path for path in candidates if path.is_file()), None)


def inside(images: Path, path: str | PurePosixPath) -> list[Path]:
    """The path below the folder of pictures; none where it would lead out of it: what a file of others says is not trusted."""
    path = PurePosixPath(path)
    return [] if path.is_absolute() or ".." in path.parts else [images / path]


def write(
    found: Iterable[Found], problems: Iterable[Problem], out: str | Path, split: str, *, skip_bad: bool = False
) -> tuple[int, list[Problem]]:
    """Writes `out/SPLIT_metadata.jsonl` and the pictures; (sessions written, what was wrong with the others).

    problems: rows that gave no session. Every picture is decoded to its end before anything is written. Raises BadSessions with every bad
    row, unless `skip_bad` leaves those sessions out; then nothing is written, and nothing is where no session is sound.
    """
    session_record.check_split(split)
    problems, sound, seen = list(problems), [], {}
    for session in found:
        bad = Complaints(session.file, session.line)
        session_record.session_of(dict(session.record), Path("/"), split, "plain", Limits(), bad)
        for path, source in session.pictures.items():
            wrong = _wrong(path, source)
            if wrong:
                bad.problems.append(Problem(file=session.file, line=session.line, kind=Kind.PICTURE, message=wrong))
        first = seen.setdefault(session.record["id"], session.line)
        if first != session.line:
            bad(f"the session {session.record['id']} is already that of line {first}; every session has its own id.")
        problems += bad.problems
        sound += [] if bad.problems else [session]
    problems.sort(key=lambda problem: (problem.file, problem.line))
    if problems and (not skip_bad or not sound):
        raise BadSessions(problems, all_told="--skip-bad lists them all")
    if not sound:
        raise ValueError(f"{out}: there is no session to write; give a file that has some.")
    with places.whole_folder(out) as folder:
        for session in sound:
            for path, source in session.pictures.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as stream, target.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
        lines = [json.dumps(session.record, ensure_ascii=False) + "\n" for session in sound]
        (folder / f"{split}_metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(sound), problems


def _wrong(path: str, source: Path | None) -> str:
    """What is wrong with the picture that is to lie at a path; "" for a sound one."""
    if source is None:
        return f"there is no picture for {path} below --images; put it there, or leave the session out with --skip-bad."
    try:
        images.verify_picture(source)
    except ValueError as error:
        return str(error)
    return ""
