"""One line of a metadata file -> a session, or everything that is wrong with the line.

No file is opened here. Source of the rules: the MICE-Bench record schema. A free-form turn is our addition, for data that says what is to
be done and no more: of such a session nothing is known to stay as it was, so its background flag is false and its unchanged list empty.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from editr2_jax.data import images
from editr2_jax.records import FREE_FORM, SUBSETS, TASK_TYPES, Session, Turn

TEXTS = ("instruction", "task_type", "formatted_instruction")  # one string per turn
NAMES = ("unchanged_objects", "available_objects", "all_objects")  # one list of names per turn
REQUIRED = ("image", *TEXTS, "bg_consistency", *NAMES)
FIELDS = (*REQUIRED, "turns", "id", "subset", "caption", "intent", "target")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is taken from outside."""

    line_bytes: int = 1 << 20  # the longest line of the public data has 10 kB
    turns: int = 64
    pixels: int = images.MAX_PIXELS  # of one picture


class Complaints:
    """Collects what is wrong with one line."""

    def __init__(self, file: str, line: int):
        self.file, self.line, self.problems = file, line, []

    def __call__(self, message: str, turn: int | None = None) -> None:
        self.problems.append(Problem(file=self.file, line=self.line, kind=Kind.RECORD, message=message, turn=turn))


def parse_json(text: bytes | None, bad: Complaints) -> dict[str, Any] | None:
    """The JSON object of a line (None: a line over the limit); None after a complaint."""

    def constant(name):
        raise ValueError(f"{name} is no JSON value")

    def once(pairs):
        if (twice := _twice([name for name, _ in pairs])) is not None:
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


def session_of(record: dict[str, Any], folder: Path, split: str, subset: str, limits: Limits, bad: Complaints) -> Session | None:
    """The session of a record; None after complaints."""
    for name in record:
        if name not in FIELDS:
            bad(f"unknown field {name!r}{nearest(name, FIELDS)}; remove it.")
    for name in REQUIRED:
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
        bad(f"subset is {record['subset']!r}{nearest(record['subset'], SUBSETS)}; it is one of {', '.join(SUBSETS)}.")
    if "caption" in record and not (isinstance(record["caption"], str) and record["caption"].strip()):
        bad(f"caption is {short(record['caption'])}; give what the source picture shows as a text, or leave it out.")
    _check_turns(fields, bad)
    if bad.problems:
        return None
    names = {name: [tuple(turn) for turn in fields[name]] for name in NAMES}
    turns = tuple(
        Turn(
            **{name: fields[name][t] for name in (*TEXTS, "bg_consistency")},
            **{name: names[name][t] for name in NAMES},
            intent=fields["intent"][t] if "intent" in fields else None,
            target=targets[t] if targets else None,
        )
        for t in range(count)
    )
    return Session(id=name, image=image, turns=turns, subset=record.get("subset", subset), caption=record.get("caption"))


def _per_turn(record: dict[str, Any], limits: Limits, bad: Complaints) -> dict[str, list] | None:
    """The fields that have one entry per turn, as lists: the single-turn form has the bare entries."""
    single = isinstance(record.get("instruction"), str)
    fields = {}
    for name in (*TEXTS, "bg_consistency", *NAMES, "intent", "target"):
        if name not in record:
            continue
        value = record[name]
        bare = not isinstance(value, list) or (name in NAMES and not any(isinstance(inner, list) for inner in value))
        fields[name] = [value] if single and bare else value
        if not isinstance(fields[name], list):
            bad(f"{name} is {short(value)}; give a list with one entry per turn.")
            return None
    turns = record.get("turns", 1 if single else None)
    if not isinstance(turns, int) or isinstance(turns, bool) or not 1 <= turns <= limits.turns:
        bad(f"turns is {short(turns)}; give the number of turns, 1 to {limits.turns}.")
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


def _check_turns(fields: dict[str, list], bad: Complaints) -> None:
    """The rules inside each turn, and between one turn and the next."""
    why = ""  # the background may have changed
    for t, task_type in enumerate(fields["task_type"]):
        at = functools.partial(bad, turn=t)
        for name in ("instruction", "formatted_instruction"):
            if not isinstance(fields[name][t], str) or not fields[name][t].strip():
                at(f"turn {t}: {name} is {short(fields[name][t])}; give the text of the edit.")
        if not isinstance(task_type, str) or task_type not in (*TASK_TYPES, FREE_FORM):
            known = (*TASK_TYPES, FREE_FORM)
            at(f"turn {t}: task_type is {short(task_type)}{nearest(task_type, known)}; it is one of {', '.join(known)}.")
        why = why or ("" if task_type not in ("background_change", FREE_FORM) else f"a {task_type} has come")
        if fields["bg_consistency"][t] is not (not why):
            found = json.dumps(fields["bg_consistency"][t])
            right = json.dumps(not why)
            at(f"turn {t}: bg_consistency is {found} although {why or 'no background_change has come yet'}; it is {right} here.")
        if "intent" in fields:
            _check_intent(fields["intent"][t], t, at)
        free = FREE_FORM in fields["task_type"][: t + 1]
        sound = [_check_names(fields[name][t], name, t, at, may_be_empty=free) for name in NAMES]  # each of them complains
        if all(sound):
            _check_pool(fields, t, at)
        if free and fields["unchanged_objects"][t]:
            at(f"turn {t}: unchanged_objects is not empty although a {FREE_FORM} has come; what it leaves unchanged is unknown.")


def _check_intent(intent: Any, t: int, at: Callable[[str], None]) -> None:
    if not isinstance(intent, str) or bool(intent.strip()) != (t > 0):
        at(f"turn {t}: intent is {short(intent)}; give " + ("the resolved instruction." if t else 'the empty text "", turn 0 has none.'))


def _check_names(names: Any, field: str, t: int, at: Callable[[str], None], *, may_be_empty: bool = False) -> bool:
    """Whether a list of object names is one."""
    if not isinstance(names, list):
        at(f"turn {t}: {field} is {short(names)}; give a list of object names.")
    elif wrong := [name for name in names if not isinstance(name, str) or not name or name != name.strip()]:
        at(f"turn {t}: {field} has {short(wrong[0])}; every name is a text without spaces around it.")
    elif (twice := _twice(names)) is not None:
        at(f"turn {t}: {field} has {twice!r} twice; name every object once.")
    elif not names and field == "all_objects" and not may_be_empty:
        at(f"turn {t}: all_objects is empty; name every object that has existed in turns 0 to {t}.")
    else:
        return True
    return False


def _twice(names: list[str]) -> str | None:
    """The first name that is there again; in one pass, for a line of a megabyte holds many."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _check_pool(fields: dict[str, list], t: int, at: Callable[[str], None]) -> None:
    """Unchanged and available objects are known ones; unchanged only shrinks, known only grows."""
    unchanged, available, known = (set(fields[name][t]) for name in NAMES)
    for name, members in (("unchanged_objects", unchanged), ("available_objects", available)):
        if strange := sorted(members - known):
            at(f"turn {t}: {name} has {strange[0]!r}, which all_objects has not; add it there or remove it here.")
    if t == 0:
        return
    if not all(_check_names(fields[name][t - 1], name, t - 1, lambda _: None, may_be_empty=True) for name in NAMES):
        return  # the turn before has been complained about
    before, known_before = set(fields["unchanged_objects"][t - 1]), set(fields["all_objects"][t - 1])
    if back := sorted(unchanged - before):
        at(f"turn {t}: unchanged_objects has {back[0]!r}, which turn {t - 1} has not; once edited an object stays out.")
    if lost := sorted(known_before - known):
        at(f"turn {t}: all_objects has lost {lost[0]!r} of turn {t - 1}; it holds every name of turns 0 to {t}.")


def _path(value: Any, folder: Path, what: str, bad: Complaints) -> str:
    """Absolute path of a picture below the folder; "" after a complaint. Only the words of the path are looked at: links are the user's."""
    path = PurePosixPath(value) if isinstance(value, str) else None
    if path is None or not path.name or "\0" in value:
        bad(f"{what} is {short(value)}; give the path of a picture, relative to the folder.")
    elif path.is_absolute() or ".." in path.parts or "\\" in value or ":" in path.parts[0]:
        bad(f"{what} {value!r} leads out of the folder; give a path below it, such as images/{path.name}.")
    else:
        return str(folder / path)
    return ""


def check_split(name: str) -> None:
    """Raises ValueError for a split that would not be the name of a file."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"--split is {name!r}; it becomes the name of a file, so give letters, digits, _ and - alone.")


def nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" (the nearest is {close[0]})" if close else ""


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
