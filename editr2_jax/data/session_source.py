"""Session folders: `DIR/SPLIT_metadata.jsonl`, one editing dialogue per line, and its pictures below DIR.

DIR may be an address such as gs://bucket/folder; its pictures may be files or lie in shards (data/shards.py). The published layout of
MICE-Bench is taken as it is: a folder `cm` holds memory sessions, `cu` understanding sessions, and the folder above is both together.

Loading is strict. Whatever is wrong with a line is told by file and line, all lines at once, before anything runs. Lines of another kind
are sound as records but cannot be scored, such as a text edit whose new text is empty: their annotation is invalid, so they are left out
of training and kept, and counted, in evaluation. Source of the rules: the MICE-Bench record schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.data import images, instruction_grammar, quality_flags, shards
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.data.pictures import Loose, Pictures, Several
from editr2_jax.data.quality_flags import Flag, QualityFlag
from editr2_jax.data.session_record import NAMES, TEXTS, Complaints, Kind, Limits, Problem, nearest, parse_json, session_of, short
from editr2_jax.records import FREE_FORM, SUBSETS, Session
from editr2_jax.runtime import places

_SUFFIX = "_metadata.jsonl"
_PUBLISHED = {"cm": "memory", "cu": "understanding"}  # folders of MICE-Bench -> the subset of their sessions
_SHOWN = 20
_LIMITS = Limits()


class BadSessions(ValueError):
    """Sessions that cannot be loaded; `problems` has every bad line. all_told: what lists them where the message shows the first few."""

    def __init__(self, problems: list[Problem], *, all_told: str = "`data check DIR` lists them all"):
        self.problems = tuple(problems)
        lines = len({(problem.file, problem.line) for problem in problems})
        shown = [f"  {problem}" for problem in problems[:_SHOWN]]
        more = [f"  ... and {len(problems) - _SHOWN} more; {all_told}"] if len(problems) > _SHOWN else []
        head = f"{len(problems)} problem{'s' * (len(problems) > 1)} in {lines} line{'s' * (lines > 1)}; correct or remove them:"
        super().__init__(str(problems[0]) if len(problems) == 1 else "\n".join([head, *shown, *more]))


Read = Callable[[str], np.ndarray]  # path of a picture -> uint8 [H, W, 3]


class SessionFolder:
    """The sessions of one split, in the order of the file. `folder[i]` is a session and the function that reads its pictures.

    invalid: session id -> why some turn of it cannot be scored. flags: session id -> what is odd about it (data/quality_flags.py).
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        subset_default: str | None = None,
        drop_invalid: bool | None = None,
        pictures: bool = True,
        limits: Limits = _LIMITS,
    ):
        """Loads `path/SPLIT_metadata.jsonl`, or those of `path/cm` and `path/cu`.

        subset_default: subset of the records that name none; None: that of a published folder, else plain. drop_invalid: leave out
        sessions with an invalid annotation; by default they are left out of "train" alone. pictures: also refuse records whose pictures
        are missing; False for a folder of text alone. Raises BadSessions with every bad line.
        """
        self.path, self.split = _absolute(path), split
        entries, problems = _read_split(self.path, split, subset_default, limits)
        if not problems:
            self._pictures = _pictures(self.path, split, entries) if pictures else Loose()
        if pictures and not problems:
            problems = [problem for entry in entries for problem in entry.missing(self._pictures)]
        if problems:
            raise BadSessions(_in_order(problems))
        drop = split == "train" if drop_invalid is None else drop_invalid
        self.sessions: tuple[Session, ...] = tuple(entry.session for entry in entries if not (drop and entry.invalid))
        self.invalid: Mapping[str, tuple[Problem, ...]] = {entry.session.id: entry.invalid for entry in entries if entry.invalid}
        self.flags: Mapping[str, tuple[QualityFlag, ...]] = {entry.session.id: entry.flags for entry in entries if entry.flags}
        self.dropped = len(entries) - len(self.sessions)
        self._limits = limits
        if not self.sessions:
            raise ValueError(f"{entries[0].file}: no session is left of {len(entries)}; give a folder with sessions.")

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: int) -> tuple[Session, Read]:
        return self.sessions[index], self.read

    def read(self, path: str) -> np.ndarray:
        """One of the pictures, uint8 [H, W, 3]. Raises ValueError naming it where it is missing, damaged or too large."""
        return images.read_picture(path, max_pixels=self._limits.pixels, encoded=self._pictures.encoded(path))

    def size(self, path: str) -> tuple[int, int]:
        """(height, width) of one of the pictures, from its header alone."""
        return images.picture_size(path, max_pixels=self._limits.pixels, encoded=self._pictures.encoded(path))

    def encoded(self, path: str) -> bytes:
        """The file of one of the pictures as it is; raises ValueError as `read` does, so the whole of it is known to be sound."""
        found = self._pictures.encoded(path)
        images.verify_picture(path, max_pixels=self._limits.pixels, encoded=found)
        return Path(path).read_bytes() if found is None else found


def splits(path: str | Path) -> list[str]:
    """Names of the splits of a session folder. Raises ValueError where there is none."""
    folder = places.place(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder}: {what}; give a folder with a SPLIT{_SUFFIX} file, such as `data make --out DIR` writes.")
    found = sorted({split for part in _parts(folder) for split in _own_splits(part)})
    if not found:
        raise ValueError(f"{folder}: no *{_SUFFIX} file in this folder; give a session folder, such as `data make --out DIR` writes.")
    return found


def check(
    path: str | Path, split: str, *, subset_default: str | None = None, pictures: bool = True, limits: Limits = _LIMITS
) -> tuple[list[Entry], list[Problem]]:
    """The sound lines of a split, and everything that is wrong with its lines and pictures, both in the order of the file.

    Every picture is decoded to its end, and the shards are compared with their digests, unless `pictures` is False.
    """
    folder = _absolute(path)
    entries, problems = _read_split(folder, split, subset_default, limits)
    sharded = [part for part in _parts_with(split, folder) if shards.is_sharded(part)] if pictures else []
    if sharded:
        problems += [problem for part in sharded for problem in shards.damage(part, split)]
        pictures = not problems
    store = _pictures(folder, split, entries) if pictures else Loose()
    for entry in entries:
        problems += entry.invalid
        if pictures:
            problems += entry.unreadable(store, limits.pixels)
    return entries, _in_order(problems)


def unread_flags(path: str | Path) -> dict[str, dict[str, int]]:
    """Flag file -> {what it calls a split: how many lines} of all that is no split of this folder, so that nothing reads them."""
    here: dict[Any, set[str]] = {}
    for part in _parts(_absolute(path)):
        file = _flag_file(part)
        if file is not None:
            here.setdefault(file, set()).update(name for split in _own_splits(part) for name in _names(part, split, file))
    unread = {}
    for file, known in here.items():
        counts = quality_flags.lines_by_split(_lines(file, _LIMITS.line_bytes))
        if strange := {split: count for split, count in counts.items() if split not in known}:
            unread[str(file)] = strange
    return unread


def to_record(session: Session, folder: str | Path) -> dict[str, Any]:
    """The line of a session in the metadata file of `folder`, as a JSON object; loading it gives the session back."""
    root = f"{_absolute(folder)}/"

    def relative(path: str) -> str:
        if not path.startswith(root):
            raise ValueError(f"{path} does not lie below {root}; a session folder holds its own pictures.")
        return path.removeprefix(root)

    turns = session.turns
    record = {"id": session.id, "image": relative(session.image), "subset": session.subset, "turns": len(turns)}
    record |= {name: [getattr(turn, name) for turn in turns] for name in (*TEXTS, "bg_consistency")}
    record |= {name: [list(getattr(turn, name)) for turn in turns] for name in NAMES}
    if session.caption is not None:
        record["caption"] = session.caption
    if all(turn.intent is not None for turn in turns):
        record["intent"] = [turn.intent for turn in turns]
    if all(turn.target is not None for turn in turns):
        record["target"] = [relative(turn.target) for turn in turns]
    return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A sound line: what it says, and where it stands."""

    file: str
    line: int
    session: Session
    flags: tuple[QualityFlag, ...]
    invalid: tuple[Problem, ...]

    def _paths(self) -> Iterator[tuple[str, str]]:
        yield "image", self.session.image
        for turn in self.session.turns:
            if turn.target is not None:
                yield "target", turn.target

    def missing(self, pictures: Pictures) -> list[Problem]:
        return [
            self._problem(f"{field} {path} is missing; put the picture there or remove the line.")
            for field, path in self._paths()
            if not pictures.has(path)
        ]

    def unreadable(self, pictures: Pictures, max_pixels: int) -> list[Problem]:
        problems = self.missing(pictures)
        for field, path in self._paths() if not problems else ():
            try:
                images.verify_picture(path, max_pixels=max_pixels, encoded=pictures.encoded(path))
            except ValueError as error:
                problems.append(self._problem(f"{field} {error}"))
        return problems

    def _problem(self, message: str) -> Problem:
        return Problem(file=self.file, line=self.line, kind=Kind.PICTURE, message=message)


def _absolute(path: Any) -> Any:
    folder = places.place(path)
    return folder.absolute() if places.is_local(folder) else folder


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.file, problem.line))


def _own_splits(folder: Any) -> list[str]:
    return sorted(file.name.removesuffix(_SUFFIX) for file in folder.iterdir() if file.name.endswith(_SUFFIX))


def _parts(folder: Any) -> list[Any]:
    """The folder itself where it has metadata, else the published folders in it."""
    if _own_splits(folder):
        return [folder]
    return [folder / name for name in _PUBLISHED if (folder / name).is_dir()]


def _parts_with(split: str, folder: Any) -> list[Any]:
    return [part for part in _parts(folder) if split in _own_splits(part)]


def _pictures(folder: Any, split: str, entries: Sequence[Entry]) -> Pictures:
    """Those of the folder, or of each published folder in it: any of them may be in shards."""
    stores = {}
    for part in _parts_with(split, folder):
        sessions = [entry.session for entry in entries if entry.file == _metadata(part, split)]
        stores[str(part)] = shards.Sharded(part, split, sessions) if shards.is_sharded(part) else Loose()
    return Several(stores) if len(stores) > 1 else next(iter(stores.values()))


def _metadata(part: Any, split: str) -> str:
    return str(part / f"{split}{_SUFFIX}")


def _read_split(folder: Any, split: str, subset: str | None, limits: Limits) -> tuple[list[Entry], list[Problem]]:
    """All sound lines, and the problems of the others."""
    if split not in splits(folder):
        raise ValueError(f"{folder}: there is no split {split!r}; it has {', '.join(splits(folder))}.")
    if subset is not None and subset not in SUBSETS:
        raise ValueError(f"There is no subset {subset!r}{nearest(subset, SUBSETS)}; it is one of {', '.join(SUBSETS)}.")
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], tuple[str, int]] = {}  # (field, value) -> file and line that had it first
    for part in _parts_with(split, folder):
        found, wrong = _read_part(part, split, subset or _PUBLISHED.get(part.name, "plain"), limits, seen)
        entries, problems = entries + found, problems + wrong
    return entries, list(dict.fromkeys(problems))  # two published folders may share a flag file, and what is wrong with it


def _read_part(part: Any, split: str, subset: str, limits: Limits, seen: dict) -> tuple[list[Entry], list[Problem]]:
    """One metadata file and what the flag file beside it tells of its rows."""
    file = _metadata(part, split)
    told, flag_file, problems = _told_flags(part, split, limits)
    entries: list[Entry] = []
    rows = 0
    for line, text in _lines(part / f"{split}{_SUFFIX}", limits.line_bytes):
        bad, rows = Complaints(file, line), line
        record = parse_json(text, bad)
        session = None if record is None else session_of(record, part, split, subset, limits, bad)
        if session is not None:
            for field, value in (("image", session.image), ("id", session.id)):
                first = seen.setdefault((field, value), (file, line))
                if first != (file, line) and not bad.problems:
                    where = f"line {first[1]}" if first[0] == file else f"{first[0]}:{first[1]}"
                    bad(f"{field} {value!r} is already that of {where}; every session has its own.")
        problems += bad.problems
        if session is not None and not bad.problems:
            flag_line, flags = told.pop(line - 1, (0, ()))
            problems += _beyond(session, flags, flag_file, flag_line)
            entries.append(_entry(session, file, line, flag_file, flag_line, flags))
    for row, (line, _) in told.items():
        if row >= rows:  # a row of a line that does not load is no complaint about the flags
            message = f"row {row} of {split} is not there, {file} has {rows} lines; the flags are those of another file."
            problems.append(Problem(file=flag_file, line=line, kind=Kind.RECORD, message=message))
    if not entries and not problems:
        problems.append(Problem(file=file, line=0, kind=Kind.RECORD, message="the file has no line; write one session per line."))
    return entries, problems


def _entry(session: Session, file: str, line: int, flag_file: str, flag_line: int, told: tuple[QualityFlag, ...]) -> Entry:
    edits = [instruction_grammar.parse(turn.formatted_instruction, turn.task_type) for turn in session.turns]
    seen = quality_flags.of(session, edits)
    invalid = list(_invalid(session, edits, seen, file, line))
    known = {problem.turn for problem in invalid}
    for flag in told:
        if flag.name in quality_flags.INVALID and flag.turn not in known:
            turn = flag.turn if flag.turn >= 0 else None
            message = f"{session.id}{'' if turn is None else f', turn {turn}'} is flagged {flag.name}; repair it and remove the flag."
            invalid.append(Problem(file=flag_file, line=flag_line, kind=Kind.INVALID_ANNOTATION, message=message, turn=turn))
    return Entry(file=file, line=line, session=session, flags=tuple(sorted({*seen, *told})), invalid=tuple(invalid))


def _beyond(session: Session, told: Sequence[QualityFlag], flag_file: str, flag_line: int) -> list[Problem]:
    """Flags of turns that the session does not have."""
    count = len(session.turns)
    message = "{} is told of turn {}, but {} has {} turn{}; turns count from 1, and 0 is the whole session."
    return [
        Problem(
            file=flag_file,
            line=flag_line,
            kind=Kind.RECORD,
            message=message.format(flag.name, flag.turn + 1, session.id, count, "s" * (count > 1)),
        )
        for flag in told
        if flag.turn >= count
    ]


def _told_flags(part: Any, split: str, limits: Limits) -> tuple[dict[int, tuple], str, list[Problem]]:
    """What a flag file in the folder, or else in the one above a published folder, tells of a split; its name; what is wrong with it."""
    file = _flag_file(part)
    if file is None:
        return {}, "", []
    told, problems = quality_flags.read(_lines(file, limits.line_bytes), str(file), _names(part, split, file))
    return told, str(file), problems


def _flag_file(part: Any) -> Any:
    above = [part.parent] if part.name in _PUBLISHED else []
    return next((file for place in (part, *above) if (file := place / quality_flags.FILE).exists()), None)


def _names(part: Any, split: str, file: Any) -> tuple[str, ...]:
    """What a flag file may call a split: above the published folders, where every one has such a split, with the folder's name alone."""
    named = f"{part.name}/{split}"
    return (split, named) if file.parent == part else (named,)


def _lines(file: Any, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines that are not blank, without reading an endless one; None in place of a line over the limit."""
    with file.open("rb") as stream:
        number = 0
        while text := stream.readline(limit + 1):
            number += 1
            whole = text.endswith(b"\n") or len(text) <= limit
            while text and not text.endswith(b"\n") and not whole:
                text = stream.readline(limit + 1)
            if not whole or text.strip():
                yield number, text if whole else None


def _invalid(session: Session, edits: Sequence[Edit | None], flags: Sequence[QualityFlag], file: str, line: int) -> Iterator[Problem]:
    """Turns that no reward can read."""
    for t, (turn, edit) in enumerate(zip(session.turns, edits, strict=True)):
        text = turn.formatted_instruction
        if turn.task_type == FREE_FORM:
            continue
        if QualityFlag(t, Flag.EMPTY_TEXT_TARGET) in flags:
            message = f"turn {t}: the new text of {text!r} is empty; give the text that is to appear."
        elif edit is None:
            message = f"turn {t}: {short(text)} is no {turn.task_type}; write it in the grammar, with its slots in [brackets]."
        elif QualityFlag(t, Flag.LEAKED_GENERATOR_TEXT) in flags:
            message = f"turn {t}: {short(text)} has several lines: words of its generator stand in it; write the edit alone."
        else:
            continue
        yield Problem(file=file, line=line, kind=Kind.INVALID_ANNOTATION, message=message, turn=t)
