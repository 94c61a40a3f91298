"""What the readers of foreign formats find, and the session folder that it becomes.

A found session is a record of our schema and the pictures it names. It goes through the rules of every other record, so a bad row is told
by the file and line it came from. Pictures are copied byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from editr2_jax.data import session_record
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

    problems: rows that gave no session. Raises BadSessions with every bad row, unless `skip_bad` leaves those sessions out; then nothing is
    written, and nothing is where no session is sound.
    """
    problems, sound, seen = list(problems), [], {}
    for session in found:
        bad = Complaints(session.file, session.line)
        for path, source in session.pictures.items():
            if source is None:
                bad.problems.append(_missing(session, path))
        session_record.session_of(dict(session.record), Path("/"), split, "plain", Limits(), bad)
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


def _missing(session: Found, path: str) -> Problem:
    message = f"there is no picture for {path} below --images; put it there, or leave the session out with --skip-bad."
    return Problem(file=session.file, line=session.line, kind=Kind.PICTURE, message=message)
