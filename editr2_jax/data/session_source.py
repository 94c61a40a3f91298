"""Session folders: `DIR/SPLIT_metadata.jsonl`, one editing dialogue per line, and its pictures below DIR.

Loading is strict. Whatever is wrong with a line is told by file and line, all lines at once, before anything runs. Lines of another
kind are sound as records but cannot be scored, such as a text edit whose new text is empty: their annotation is invalid, so they are left
out of training and kept, and counted, in evaluation. Source of the rules: the MICE-Bench record schema.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from editr2_jax.data import images, instruction_grammar
from editr2_jax.records import SUBSETS, TASK_TYPES, Session, Turn

_SUFFIX = "_metadata.jsonl"
_TEXTS = ("instruction", "task_type", "formatted_instruction")  # one string per turn
_NAMES = ("unchanged_objects", "available_objects", "all_objects")  # one list of names per turn
_REQUIRED = ("image", *_TEXTS, "bg_consistency", *_NAMES)
_FIELDS = (*_REQUIRED, "turns", "id", "subset", "caption", "intent", "target")
_EMPTY_TEXT = re.compile(r"(?:with|Add text) '\[?\s*\]?'")  # the new text of a text_change, in quotes
_SHOWN = 20


class Kind(enum.StrEnum):
    """What a problem means for its line."""

    RECORD = "record"  # breaks the schema: nothing can be loaded
    PICTURE = "picture"  # a picture is missing or unreadable
    INVALID_ANNOTATION = "invalid_annotation"  # a sound record that cannot be scored in some turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    line: int  # counted from 1; 0 for the file as a whole
    kind: Kind
    message: str  # what, and what to do
    turn: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class BadSessions(ValueError):
    """A session folder that cannot be loaded; `problems` has every bad line."""

    def __init__(self, problems: list[Problem]):
        self.problems = tuple(problems)
        lines = len({(problem.file, problem.line) for problem in problems})
        shown = [f"  {problem}" for problem in problems[:_SHOWN]]
        more = [f"  ... and {len(problems) - _SHOWN} more; `data check DIR` lists them all"] if len(problems) > _SHOWN else []
        head = f"{len(problems)} problem{'s' * (len(problems) > 1)} in {lines} line{'s' * (lines > 1)}; correct or remove them:"
        super().__init__(str(problems[0]) if len(problems) == 1 else "\n".join([head, *shown, *more]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is taken from outside."""

    line_bytes: int = 1 << 20  # the longest line of the public data has 10 kB
    turns: int = 64
    pixels: int = images.MAX_PIXELS  # of one picture


Read = Callable[[str], np.ndarray]  # path of a picture -> uint8 [H, W, 3]


class SessionFolder:
    """The sessions of one split, in the order of the file. `folder[i]` is a session and the function that reads its pictures.

    invalid: session id -> why some turn of it cannot be scored.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        subset_default: str = "plain",
        drop_invalid: bool | None = None,
        pictures: bool = True,
        limits: Limits = Limits(),
    ):
        """Loads `path/SPLIT_metadata.jsonl`.

        subset_default: subset of the records that name none. drop_invalid: leave out sessions with an invalid annotation; by default they
        are left out of "train" alone. pictures: also refuse records whose pictures are missing; False for a folder of text alone.
        Raises BadSessions with every bad line.
        """
        entries, problems = _read_split(Path(path), split, subset_default, limits)
        if pictures:
            problems += [problem for entry in entries for problem in entry.missing()]
        if problems:
            raise BadSessions(sorted(problems, key=lambda problem: problem.line))
        self.path, self.split = Path(path).absolute(), split
        drop = split == "train" if drop_invalid is None else drop_invalid
        self.sessions: tuple[Session, ...] = tuple(entry.session for entry in entries if not (drop and entry.invalid))
        self.invalid: Mapping[str, tuple[Problem, ...]] = {entry.session.id: entry.invalid for entry in entries if entry.invalid}
        self.dropped = len(entries) - len(self.sessions)
        self._read = functools.partial(images.read_picture, max_pixels=limits.pixels)
        if not self.sessions:
            raise ValueError(f"{_file(self.path, split)}: no session is left of {len(entries)}; give a folder with sessions.")

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: int) -> tuple[Session, Read]:
        return self.sessions[index], self._read


def splits(path: str | Path) -> list[str]:
    """Names of the splits of a session folder. Raises ValueError where there is none."""
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder}: {what}; give a folder with a SPLIT{_SUFFIX} file, such as `data make --out DIR` writes.")
    found = sorted(file.name.removesuffix(_SUFFIX) for file in folder.glob(f"*{_SUFFIX}"))
    if not found:
        raise ValueError(f"{folder}: no *{_SUFFIX} file in this folder; give a session folder, such as `data make --out DIR` writes.")
    return found


def check(
    path: str | Path, split: str, *, subset_default: str = "plain", pictures: bool = True, limits: Limits = Limits()
) -> tuple[list[Session], list[Problem]]:
    """The sessions of a split that are sound records, and everything that is wrong with its lines and pictures, in the order of the file.

    Every picture is decoded to its end unless `pictures` is False.
    """
    entries, problems = _read_split(Path(path), split, subset_default, limits)
    for entry in entries:
        problems += entry.invalid
        if pictures:
            problems += entry.unreadable(limits.pixels)
    return [entry.session for entry in entries], sorted(problems, key=lambda problem: problem.line)


def to_record(session: Session, folder: str | Path) -> dict[str, Any]:
    """The line of a session in the metadata file of `folder`, as a JSON object; loading it gives the session back."""

    def relative(path: str) -> str:
        return Path(path).relative_to(Path(folder).absolute()).as_posix()

    turns = session.turns
    record = {"id": session.id, "image": relative(session.image), "subset": session.subset, "turns": len(turns)}
    record |= {name: [getattr(turn, name) for turn in turns] for name in (*_TEXTS, "bg_consistency")}
    record |= {name: [list(getattr(turn, name)) for turn in turns] for name in _NAMES}
    if session.caption is not None:
        record["caption"] = session.caption
    if all(turn.intent is not None for turn in turns):
        record["intent"] = [turn.intent for turn in turns]
    if all(turn.target is not None for turn in turns):
        record["target"] = [relative(turn.target) for turn in turns]
    return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """A sound line."""

    file: str
    line: int
    session: Session
    invalid: tuple[Problem, ...]

    def _pictures(self) -> Iterator[tuple[str, str]]:
        yield "image", self.session.image
        for turn in self.session.turns:
            if turn.target is not None:
                yield "target", turn.target

    def missing(self) -> list[Problem]:
        return [
            self._problem(f"{field} {path} is missing; put the picture there or remove the line.")
            for field, path in self._pictures()
            if not Path(path).is_file()
        ]

    def unreadable(self, max_pixels: int) -> list[Problem]:
        problems = self.missing()
        for field, path in self._pictures() if not problems else ():
            try:
                images.verify_picture(path, max_pixels=max_pixels)
            except ValueError as error:
                problems.append(self._problem(f"{field} {error}"))
        return problems

    def _problem(self, message: str) -> Problem:
        return Problem(file=self.file, line=self.line, kind=Kind.PICTURE, message=message)


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}{_SUFFIX}"


def _read_split(folder: Path, split: str, subset: str, limits: Limits) -> tuple[list[_Entry], list[Problem]]:
    """All sound lines, and the problems of the others."""
    if split not in splits(folder):
        raise ValueError(f"{folder}: there is no split {split!r}; it has {', '.join(splits(folder))}.")
    if subset not in SUBSETS:
        raise ValueError(f"There is no subset {subset!r}{_nearest(subset, SUBSETS)}; it is one of {', '.join(SUBSETS)}.")
    folder, file = folder.absolute(), str(_file(folder, split))
    entries: list[_Entry] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], int] = {}  # (field, value) -> first line
    for line, text in _lines(_file(folder, split), limits.line_bytes):
        bad = _Complaints(file, line)
        record = _parse_json(text, bad)
        session = None if record is None else _session(record, folder, split, subset, limits, bad)
        if session is not None:
            for field, value in (("image", session.image), ("id", session.id)):
                first = seen.setdefault((field, value), line)
                if first != line and not bad.problems:
                    bad(f"{field} {value!r} is already that of line {first}; every session has its own.")
        problems += bad.problems
        if session is not None and not bad.problems:
            entries.append(_Entry(file=file, line=line, session=session, invalid=tuple(_invalid(session, file, line))))
    if not entries and not problems:
        problems.append(Problem(file=file, line=0, kind=Kind.RECORD, message="the file has no line; write one session per line."))
    return entries, problems


def _lines(file: Path, limit: int) -> Iterator[tuple[int, bytes | None]]:
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


class _Complaints:
    """Collects what is wrong with one line."""

    def __init__(self, file: str, line: int):
        self.file, self.line, self.problems = file, line, []

    def __call__(self, message: str, turn: int | None = None) -> None:
        self.problems.append(Problem(file=self.file, line=self.line, kind=Kind.RECORD, message=message, turn=turn))


def _parse_json(text: bytes | None, bad: _Complaints) -> dict[str, Any] | None:
    def constant(name):
        raise ValueError(f"{name} is no JSON value")

    def once(pairs):
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the field {twice!r} is there twice")
        return dict(pairs)

    if text is None:
        bad("the line is longer than the limit (Limits.line_bytes); a session is one short line of JSON.")
        return None
    try:
        record = json.loads(text.decode("utf-8-sig"), parse_constant=constant, object_pairs_hook=once)
        json.dumps(record, ensure_ascii=False).encode()  # an escape such as \ud800 alone is no character
    except UnicodeDecodeError as error:
        bad(f"not UTF-8 at byte {error.start}; save the file as UTF-8.")
    except UnicodeEncodeError:
        bad("not text: it has half of a surrogate pair, such as \\ud800; write the character itself.")
    except RecursionError:
        bad("not a session: JSON nested too deep.")
    except json.JSONDecodeError as error:
        bad(f"not JSON: {error.msg} at column {error.colno}; write one JSON object per line.")
    except ValueError as error:
        bad(f"not JSON: {error}; write one JSON object per line.")
    else:
        if isinstance(record, dict):
            return record
        bad(f"a {type(record).__name__}, not a session; write one JSON object per line.")
    return None


def _session(record: dict[str, Any], folder: Path, split: str, subset: str, limits: Limits, bad: _Complaints) -> Session | None:
    """The session of a record; None after complaints."""
    for name in record:
        if name not in _FIELDS:
            bad(f"unknown field {name!r}{_nearest(name, _FIELDS)}; remove it.")
    for name in _REQUIRED:
        if name not in record:
            bad(f"the field {name!r} is missing.")
    fields = _per_turn(record, limits, bad)
    if bad.problems or fields is None:
        return None
    count = len(fields["instruction"])
    image = _path(record["image"], folder, "image", bad)
    targets = [_path(target, folder, f"target of turn {t}", bad) for t, target in enumerate(fields.get("target", ()))]
    name = record.get("id", f"{split}/{PurePosixPath(record['image']).stem}" if image else "")
    if not isinstance(name, str) or (image and not name.strip()):
        bad(f"id is {name!r}; give a non-empty text, or leave it out.")
    if record.get("subset", subset) not in SUBSETS:
        bad(f"subset is {record['subset']!r}{_nearest(record['subset'], SUBSETS)}; it is one of {', '.join(SUBSETS)}.")
    if "caption" in record and not (isinstance(record["caption"], str) and record["caption"].strip()):
        bad(f"caption is {_short(record['caption'])}; give what the source picture shows as a text, or leave it out.")
    _check_turns(fields, bad)
    if bad.problems:
        return None
    names = {name: [tuple(turn) for turn in fields[name]] for name in _NAMES}
    turns = tuple(
        Turn(
            **{name: fields[name][t] for name in (*_TEXTS, "bg_consistency")},
            **{name: names[name][t] for name in _NAMES},
            intent=fields["intent"][t] if "intent" in fields else None,
            target=targets[t] if targets else None,
        )
        for t in range(count)
    )
    return Session(id=name, image=image, turns=turns, subset=record.get("subset", subset), caption=record.get("caption"))


def _per_turn(record: dict[str, Any], limits: Limits, bad: _Complaints) -> dict[str, list] | None:
    """The fields that have one entry per turn, as lists: the single-turn form has the bare entries."""
    single = isinstance(record.get("instruction"), str)
    fields = {}
    for name in (*_TEXTS, "bg_consistency", *_NAMES, "intent", "target"):
        if name not in record:
            continue
        value = record[name]
        bare = not isinstance(value, list) or (name in _NAMES and not any(isinstance(inner, list) for inner in value))
        fields[name] = [value] if single and bare else value
        if not isinstance(fields[name], list):
            bad(f"{name} is {_short(value)}; give a list with one entry per turn.")
            return None
    turns = record.get("turns", 1 if single else None)
    if not isinstance(turns, int) or isinstance(turns, bool) or not 1 <= turns <= limits.turns:
        bad(f"turns is {_short(turns)}; give the number of turns, 1 to {limits.turns}.")
        return None
    if "instruction" not in fields:
        return None  # has been complained about
    count = len(fields["instruction"])
    if count != turns:
        bad(f"{count} instruction{'s' * (count != 1)} but turns is {turns}; give one instruction per turn.")
    for name, value in fields.items():
        if name != "instruction" and len(value) != count:
            plural = name if name.endswith("s") else f"{name}s" if name != "bg_consistency" else "bg_consistency flags"
            bad(f"{count} instruction{'s' * (count != 1)} but {len(value)} {plural}; give one {name} per turn.")
    return None if bad.problems else fields


def _check_turns(fields: dict[str, list], bad: _Complaints) -> None:
    """The rules inside each turn, and between one turn and the next."""
    background_kept = True
    for t, task_type in enumerate(fields["task_type"]):
        at = functools.partial(bad, turn=t)
        for name in ("instruction", "formatted_instruction"):
            if not isinstance(fields[name][t], str) or not fields[name][t].strip():
                at(f"turn {t}: {name} is {_short(fields[name][t])}; give the text of the edit.")
        if not isinstance(task_type, str) or task_type not in TASK_TYPES:
            at(f"turn {t}: task_type is {_short(task_type)}{_nearest(task_type, TASK_TYPES)}; it is one of {', '.join(TASK_TYPES)}.")
        background_kept = background_kept and task_type != "background_change"
        if fields["bg_consistency"][t] is not background_kept:
            why = "no background_change has come yet" if background_kept else "a background_change has come"
            found = json.dumps(fields["bg_consistency"][t])
            at(f"turn {t}: bg_consistency is {found} although {why}; it is {json.dumps(background_kept)} here.")
        if "intent" in fields:
            _check_intent(fields["intent"][t], t, at)
        sound = [_check_names(fields[name][t], name, t, at) for name in _NAMES]  # each of them complains
        if all(sound):
            _check_pool(fields, t, at)


def _check_intent(intent: Any, t: int, at: Callable[[str], None]) -> None:
    if not isinstance(intent, str) or bool(intent.strip()) != (t > 0):
        at(f"turn {t}: intent is {_short(intent)}; give " + ("the resolved instruction." if t else 'the empty text "", turn 0 has none.'))


def _check_names(names: Any, field: str, t: int, at: Callable[[str], None]) -> bool:
    """Whether a list of object names is one."""
    if not isinstance(names, list):
        at(f"turn {t}: {field} is {_short(names)}; give a list of object names.")
    elif wrong := [name for name in names if not isinstance(name, str) or not name or name != name.strip()]:
        at(f"turn {t}: {field} has {_short(wrong[0])}; every name is a text without spaces around it.")
    elif twice := [name for index, name in enumerate(names) if name in names[:index]]:
        at(f"turn {t}: {field} has {twice[0]!r} twice; name every object once.")
    elif not names and field == "all_objects":
        at(f"turn {t}: all_objects is empty; name every object that has existed in turns 0 to {t}.")
    else:
        return True
    return False


def _check_pool(fields: dict[str, list], t: int, at: Callable[[str], None]) -> None:
    """Unchanged and available objects are known ones; unchanged only shrinks, known only grows."""
    unchanged, available, known = (set(fields[name][t]) for name in _NAMES)
    for name, members in (("unchanged_objects", unchanged), ("available_objects", available)):
        if strange := sorted(members - known):
            at(f"turn {t}: {name} has {strange[0]!r}, which all_objects has not; add it there or remove it here.")
    if t == 0:
        return
    if not all(_check_names(fields[name][t - 1], name, t - 1, lambda _: None) for name in _NAMES):
        return  # the turn before has been complained about
    before, known_before = set(fields["unchanged_objects"][t - 1]), set(fields["all_objects"][t - 1])
    if back := sorted(unchanged - before):
        at(f"turn {t}: unchanged_objects has {back[0]!r}, which turn {t - 1} has not; once edited an object stays out.")
    if lost := sorted(known_before - known):
        at(f"turn {t}: all_objects has lost {lost[0]!r} of turn {t - 1}; it holds every name of turns 0 to {t}.")


def _path(value: Any, folder: Path, what: str, bad: _Complaints) -> str:
    """Absolute path of a picture below the folder; "" after a complaint. Only the words of the path are looked at: links are the user's."""
    path = PurePosixPath(value) if isinstance(value, str) else None
    if path is None or not path.name or "\0" in value:
        bad(f"{what} is {_short(value)}; give the path of a picture, relative to the folder.")
    elif path.is_absolute() or ".." in path.parts or "\\" in value or ":" in path.parts[0]:
        bad(f"{what} {value!r} leads out of the folder; give a path below it, such as images/{path.name}.")
    else:
        return str(folder / path)
    return ""


def _invalid(session: Session, file: str, line: int) -> Iterator[Problem]:
    """Turns that no reward can read."""
    for t, turn in enumerate(session.turns):
        text = turn.formatted_instruction
        if turn.task_type == "text_change" and _EMPTY_TEXT.search(text):
            message = f"turn {t}: the new text of {text!r} is empty; give the text that is to appear."
        elif instruction_grammar.parse(text, turn.task_type) is None:
            message = f"turn {t}: {_short(text)} is no {turn.task_type}; write it in the grammar, with its slots in [brackets]."
        else:
            continue
        yield Problem(file=file, line=line, kind=Kind.INVALID_ANNOTATION, message=message, turn=t)


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" (the nearest is {close[0]})" if close else ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
