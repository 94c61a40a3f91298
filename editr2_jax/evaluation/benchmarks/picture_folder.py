"""A folder of pictures that some model drew for the sessions of a data set: what `score` reads, and any tool can write.

    DIR/ID/turn_1.png ... turn_T.png     the picture after each instruction; ID is the session's id (a / in it makes folders)
    DIR/meta.json                        optional: who drew it, and how; see `Meta`
    DIR/ID/words.json                    optional: {"intents": [text or null, one per turn]}, what a model understood before it drew

Pictures are PNG, RGB. Turns count from 1 here, as in the benchmarks' papers. In a folder of the pass "multi" every picture continues the
one before; in one of the pass "single" picture t was drawn from the source at once, from the instructions 1..t in one prompt.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from editr2_jax.data import images
from editr2_jax.evaluation import pictures
from editr2_jax.records import Session
from editr2_jax.runtime import workdir

META, WORDS = "meta.json", "words.json"
FORMAT = 1  # of the layout; raised when it changes
PASSES = ("multi", "single")
SIZES = ("drawn", "source")
_NAME = re.compile(r"turn_([1-9][0-9]*)\.png")
_ASPECT = 1.15  # a picture whose sides' ratio is off by more has been stretched or cut; resizing to multiples of 16 stays well below
_SHOWN = 20


class BadPictures(ValueError):
    """A folder that cannot be scored as it is; `problems` has all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem], *, partial_helps: bool):
        self.problems = tuple(problems)
        lines = [f"  {problem}" for problem in problems[:_SHOWN]]
        more = [f"  ... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        hint = ["  --partial scores what is there: a dialogue up to its first missing picture; the rest counts as no_picture."]
        head = f"{len(problems)} problem{'s' * (len(problems) > 1)} with the pictures:"
        super().__init__("\n".join([head, *lines, *more, *(hint if partial_helps else [])]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a folder."""

    kind: str  # missing, extra, misnamed, size, damaged
    file: str
    message: str  # what, and what to do
    turn: int | None = None  # from 0: the turn that has no picture because of it
    session: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """meta.json: who drew the pictures. All of it is optional, and all of it comes back in the leaderboard file."""

    drawn_in: str = "multi"  # "pass" in the file: one of PASSES
    model: str = ""  # as a leaderboard is to call it
    made_by: str = ""  # the tool
    seeds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training_judge: Mapping[str, Any] | None = None  # who judged while it was trained: answerer, model, urls; see judges.py
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # whatever else the maker wants to keep

    def json(self) -> dict[str, Any]:
        """As it stands in the file."""
        told = dataclasses.asdict(self)
        return {
            "format": FORMAT,
            "pass": told.pop("drawn_in"),
            **{name: value for name, value in told.items() if value not in ("", None, {})},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """The pictures of one session, as files."""

    session: Session
    paths: tuple[Path | None, ...]  # one per turn; None where it cannot be used
    why: tuple[str, ...]  # one per turn: what is wrong with a picture that cannot be used, else ""
    intents: tuple[str | None, ...]  # one per turn


def folder_of(root: Path, session: str) -> Path:
    """Where the pictures of a session lie. Raises ValueError for an id that is no relative path."""
    parts = PurePosixPath(session).parts
    if not parts or session.startswith("/") or any(part in ("..", ".") for part in session.split("/")) or "\0" in session:
        raise ValueError(f"the session id {session!r} cannot be the name of a folder; give sessions ids without '..' and a leading '/'.")
    return root.joinpath(*parts)


def picture_name(turn: int) -> str:
    """The file of a turn, counted from 0."""
    return f"turn_{turn + 1}.png"


def save(root: Path, session: Session, outputs: Sequence[np.ndarray], intents: Sequence[str | None] = (), *, first: int = 0) -> None:
    """Writes the pictures of a session, uint8 [H, W, 3] each, from turn `first` on; and intents, where there are any."""
    folder = folder_of(root, session.id)
    for turn, output in enumerate(outputs, start=first):
        pictures.save(folder / picture_name(turn), output)
    if any(intents):
        workdir.write_json(folder / WORDS, {"intents": list(intents)})


def save_meta(root: Path, meta: Meta) -> None:
    """Writes meta.json; last of all, where a folder is written."""
    root.mkdir(parents=True, exist_ok=True)
    workdir.write_json(root / META, meta.json())


def read_meta(root: Path) -> Meta:
    """meta.json, or its defaults where there is none. Raises ValueError naming what is wrong with it."""
    path = root / META
    if not path.is_file():
        return Meta()
    told = workdir.read_json(path)
    names = {"pass": "drawn_in", **{field.name: field.name for field in dataclasses.fields(Meta) if field.name != "drawn_in"}}
    if not isinstance(told, dict) or told.pop("format", FORMAT) != FORMAT:
        raise ValueError(f"{path}: wanted an object with format {FORMAT}; see the section on benchmarks in README.md, or remove the file.")
    if unknown := [name for name in told if name not in names]:
        raise ValueError(f'{path}: unknown field {unknown[0]!r}; put what is your own under "more". Known are {", ".join(names)}.')
    meta = Meta(**{names[name]: value for name, value in told.items()})
    if meta.drawn_in not in PASSES:
        raise ValueError(f'{path}: "pass" is {meta.drawn_in!r}; it is one of {", ".join(PASSES)}.')
    if not isinstance(meta.model, str) or not isinstance(meta.made_by, str) or not isinstance(meta.training_judge, dict | None):
        raise ValueError(f"{path}: model and made_by are texts, training_judge is an object.")
    if (judge := meta.training_judge) and not _tells_judge(judge):
        raise ValueError(f"{path}: of training_judge, answerer and model are texts, and urls is a list of texts.")
    if not isinstance(meta.seeds, dict) or not isinstance(meta.more, dict):
        raise ValueError(f"{path}: seeds and more are objects.")
    return meta


def _tells_judge(judge: Mapping[str, Any]) -> bool:
    urls = judge.get("urls", [])
    words = [judge.get("answerer", ""), judge.get("model", ""), *(urls if isinstance(urls, list) else [None])]
    return all(isinstance(word, str) for word in words)


def look(
    root: str | Path, sessions: Sequence[Session], sizes: Mapping[str, tuple[int, int]] | None, *, others: Sequence[Session] = ()
) -> tuple[list[Drawn], list[Problem]]:
    """The pictures of all sessions, and everything that is wrong with the folder; every picture is decoded to its end.

    sizes: (height, width) of each source, which the pictures have to agree with in shape; None takes any.
    others: sessions that are not looked at, and may have pictures all the same; of one that is, its later turns. Raises ValueError where
    there is no folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give one with ID/turn_1.png and so on, such as `evaluate` writes.")
    known = {folder_of(root, session.id): session for session in sessions}
    turns = {folder_of(root, session.id): len(session.turns) for session in (*sessions, *others)}
    drawn, problems = [], []
    for folder, session in known.items():
        found, wrong = _session(root, folder, session, None if sizes is None else sizes[session.id], turns[folder])
        drawn.append(found)
        problems += wrong
    problems += _extra(root, known, turns)
    problems.sort(key=lambda problem: problem.file)
    if not any(folder.is_dir() for folder in known):
        ids = ", ".join(repr(session.id) for session in sessions[:3])
        raise ValueError(
            f"{root}: none of the {len(sessions)} sessions has a picture here; folders are named by session ids, such as {ids}."
        )
    return drawn, problems


def _session(root: Path, folder: Path, session: Session, size: tuple[int, int] | None, turns: int) -> tuple[Drawn, list[Problem]]:
    """turns: those of the data, of which the session may hold the first alone."""
    count = len(session.turns)
    present = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    problems, paths, why, first = [], [], [], None
    for turn in range(count):
        path, message, kind = present.get(picture_name(turn)), "", ""
        name = str((folder / picture_name(turn)).relative_to(root))
        if path is None:
            kind, message = "missing", f"missing; draw the picture of instruction {turn + 1} of {count}."
        else:
            kind, message, shape = _fault(path, size, first)
            first = first or (None if message else shape)
        if message:
            problems.append(Problem(kind=kind, file=name, message=message, turn=turn, session=session.id))
        paths.append(None if message else path)
        why.append(f"{name}: {message}" if message else "")
    intents, wrong = _intents(folder, turns)
    problems += [Problem(kind="damaged", file=str((folder / WORDS).relative_to(root)), message=wrong, session=session.id)] if wrong else []
    return Drawn(session=session, paths=tuple(paths), why=tuple(why), intents=intents[:count]), problems


def _fault(path: Path, size: tuple[int, int] | None, first: tuple[int, int] | None) -> tuple[str, str, tuple[int, int] | None]:
    """(kind, message, (height, width)) of a picture; an empty message where nothing is wrong."""
    try:
        images.verify_picture(path)
        shape = images.picture_size(path)
    except ValueError as error:
        return "damaged", f"cannot be read ({str(error).partition(';')[0].replace(str(path), 'it')}); write it again, as PNG.", None
    told = f"{shape[1]}x{shape[0]} pixels"
    if size is not None and first is not None and shape != first:
        return "size", f"has {told}, the dialogue's first picture {first[1]}x{first[0]}; draw all of a dialogue at one size.", shape
    if size is not None:
        stretch = (shape[0] * size[1]) / (shape[1] * size[0])
        if not 1 / _ASPECT <= stretch <= _ASPECT:
            advice = "keep the source's shape, or give --size=source to have pictures stretched to it"
            return "size", f"has {told}, of another shape than its source of {size[1]}x{size[0]}; {advice}.", shape
    return "", "", shape


def _intents(folder: Path, count: int) -> tuple[tuple[str | None, ...], str]:
    """(what the model understood before each turn, what is wrong with the file)."""
    nothing = (None,) * count
    if not (folder / WORDS).is_file():
        return nothing, ""
    try:
        told = workdir.read_json(folder / WORDS)
    except ValueError as error:
        return nothing, str(error)
    intents = told.get("intents") if isinstance(told, dict) else None
    if not isinstance(intents, list) or len(intents) != count or not all(isinstance(text, str | None) for text in intents):
        return nothing, f'wanted {{"intents": [{count} texts or nulls]}}; correct or remove the file.'
    return tuple(intents), ""


def _extra(root: Path, known: Mapping[Path, Session], turns: Mapping[Path, int]) -> list[Problem]:
    """Files and folders that no session asks for; turns: how many every session of the data has."""
    problems, above = [], {parent for folder in turns for parent in folder.parents}
    ids = [session.id for session in known.values()]
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = str(path.relative_to(root))
            if path.name.startswith(".") or (path in turns and path not in known) or (folder == root and path.name == META):
                continue
            if path.is_dir() and (path in known or path in above):
                waiting.append(path)
            elif path.is_dir():
                near = difflib.get_close_matches(name, ids, n=1)
                told = f"no session of the data has this id{f' (the nearest is {near[0]!r})' if near else ''}; rename or remove the folder."
                problems.append(Problem(kind="extra", file=name, message=told))
            elif folder in known:
                problems += _stray(path, name, known[folder], turns[folder])
            else:
                problems.append(Problem(kind="extra", file=name, message="belongs to no session; remove it."))
    return problems


def _stray(path: Path, name: str, session: Session, count: int) -> list[Problem]:
    """What is wrong with a file in the folder of a session of `count` turns; nothing where it belongs there."""
    match = _NAME.fullmatch(path.name)
    if path.name == WORDS or (match and int(match[1]) <= count):
        return []
    if match:
        told = f"the session has {count} turns; remove it."
        return [Problem(kind="extra", file=name, message=told, session=session.id)]
    told = f"turns count from 1: turn_1.png to turn_{count}.png, lower case, PNG; rename or remove it."
    return [Problem(kind="misnamed", file=name, message=told, session=session.id)]
