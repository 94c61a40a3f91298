"""The grammar of formatted instructions: nine forms, their slots in [square brackets].

    subject_add        Add [object] on the [place] of [reference]                      or  Add [object]
    subject_remove     Remove [object]
    subject_replace    Replace [old] with [new]
    color_alter        Change the color of [object] to [value]
    material_alter     Change the material of [object] to [value]
    text_change        Replace the text '[old]' on [carrier] with '[new]'              or  Add text '[new]' on the image
    position_change    Change the position of [object] to [place] of [reference]
    count_change       Change the count of [object] to [count]
    background_change  Change the background to [value]

A slot holds any characters but a closing bracket. place is left, right, above or below; count is a number. The natural form is the same
sentence without brackets. Source: MICE-Bench. Standard library only.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

PLACES = ("left", "right", "above", "below")
RULE_DELIMITER = "With this rule active, "  # between the standing rule of a memory dialogue and its first edit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit, its slots read. Which slots a task type fills is listed at the top; the others are "" (count: 0)."""

    task_type: str  # one of records.TASK_TYPES
    object: str = ""  # what is added, removed or changed
    place: str = ""  # one of PLACES, seen from the reference
    reference: str = ""  # the object that a place is told by; "" for an add anywhere
    old: str = ""  # replaced object, or replaced text
    new: str = ""  # the object or text that comes instead, or is added
    carrier: str = ""  # the object whose text is replaced; "" for text added to the image
    value: str = ""  # colour, material or background
    count: int = 0


_SLOTS = tuple(field.name for field in dataclasses.fields(Edit) if field.name != "task_type")
_PATTERNS: dict[str, tuple[str, ...]] = {  # {slot} stands for the text of a slot; the first pattern that fits is taken
    "subject_add": ("Add [{object}] on the [{place}] of [{reference}]", "Add [{object}]"),
    "subject_remove": ("Remove [{object}]",),
    "subject_replace": ("Replace [{old}] with [{new}]",),
    "color_alter": ("Change the color of [{object}] to [{value}]",),
    "material_alter": ("Change the material of [{object}] to [{value}]",),
    "text_change": ("Replace the text '[{old}]' on [{carrier}] with '[{new}]'", "Add text '[{new}]' on the image"),
    "position_change": ("Change the position of [{object}] to [{place}] of [{reference}]",),
    "count_change": ("Change the count of [{object}] to [{count}]",),
    "background_change": ("Change the background to [{value}]",),
}
_SLOT_SYNTAX = {"place": "|".join(PLACES), "count": r"[0-9]{1,4}"}
_KEEPING = re.compile(r", remain the (.+) unchanged\s*$")  # of background edits, in the natural form alone
_MAY_BE_EMPTY = {("text_change", "old")}  # the text that was there may be unreadable


def _compiled(pattern: str, syntax: Callable[[str], str]) -> re.Pattern[str]:
    literal = re.escape(pattern)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda slot: f"(?P<{slot[1]}>{syntax(slot[1])})", literal))


def _table(syntax: Callable[[str], str]) -> dict[str, tuple[re.Pattern[str], ...]]:
    return {task_type: tuple(_compiled(pattern, syntax) for pattern in patterns) for task_type, patterns in _PATTERNS.items()}


_REGULAR = _table(lambda slot: _SLOT_SYNTAX.get(slot, "[^]]*"))
_ANY = _table(lambda slot: "[^]]+")


def parse(text: str, task_type: str) -> Edit | None:
    """The edit that a formatted instruction tells, or None: unknown task type, another sentence, a slot that is blank or out of range.

    The whole text has to fit. Never raises.
    """
    if not isinstance(text, str) or not isinstance(task_type, str):
        return None
    for pattern in _REGULAR.get(task_type, ()):
        found = pattern.fullmatch(text)
        if found:
            slots = found.groupdict()
            if any(not slot.strip() and (task_type, name) not in _MAY_BE_EMPTY for name, slot in slots.items()):
                return None
            return Edit(task_type=task_type, **{name: int(slot) if name == "count" else slot for name, slot in slots.items()})
    return None


def search(text: str, task_type: str) -> Edit | None:
    """The edit that stands anywhere in a text, as the published evaluators read it: a place may be any word, no slot is empty.

    For their arithmetic alone; what `parse` refuses is a mistake in the data.
    """
    for pattern in _ANY.get(task_type, ()):
        found = pattern.search(text)
        if found:
            slots = found.groupdict()
            if not slots.get("count", "0").strip().isdecimal():
                return None
            return Edit(task_type=task_type, **{name: int(slot) if name == "count" else slot for name, slot in slots.items()})
    return None


def formatted(edit: Edit) -> str:
    """The sentence with its slots in brackets; `parse` gives the edit back. ValueError for a slot that no bracket can hold."""
    slots = _slots(edit)
    for name, slot in slots.items():
        if "]" in slot:
            raise ValueError(f"Edit.{name} is {slot!r}: a slot cannot hold a closing bracket.")
    return _pattern_of(edit).format_map(slots)


def natural(edit: Edit) -> str:
    """The sentence as a person writes it: the same words without brackets."""
    return _pattern_of(edit).replace("[", "").replace("]", "").format_map(_slots(edit))


def kept(instruction: str) -> tuple[str, ...]:
    """What a natural instruction names to be kept: "..., remain the X, Y unchanged"; () where it names nothing."""
    found = _KEEPING.search(instruction)
    return tuple(name.strip() for name in found[1].split(",") if name.strip()) if found else ()


def _slots(edit: Edit) -> dict[str, str]:
    return {name: str(getattr(edit, name)) for name in _SLOTS}


def _pattern_of(edit: Edit) -> str:
    if edit.task_type not in _PATTERNS:
        raise ValueError(f"Edit.task_type is {edit.task_type!r}; the task types are {', '.join(_PATTERNS)}.")
    patterns = _PATTERNS[edit.task_type]
    if edit.task_type == "subject_add":
        return patterns[0 if edit.reference else 1]
    if edit.task_type == "text_change":
        return patterns[0 if edit.carrier else 1]
    return patterns[0]


def split_rule(instruction: str) -> tuple[str, str]:
    """(the standing rule, the edit) of a natural instruction; the rule is "" where there is none."""
    rule, delimiter, edit = instruction.partition(RULE_DELIMITER.rstrip())
    return (rule.strip(), edit.strip()) if delimiter else ("", instruction)
