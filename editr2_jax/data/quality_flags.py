"""Quality flags: what is odd about a session or one of its turns, found here or told by `quality_flags.jsonl` beside the splits.

    empty_text_target                    a text edit whose new text is empty
    leaked_generator_text                words of the model that wrote the instruction stand inside it; told where they enter
    reference_removed_earlier            an object is added beside one that the turn before removed
    no_unchanged_object                  no object of the source picture is left untouched
    no_pronoun                           a later turn of an understanding session without a pronoun
    constraint_never_clearly_applicable  a memory session whose later turns only remove, move, or change the background
    two_colour_words_in_target           two colour words in the name of the edited object: a poor phrase for a detector
    added_after_first_release            told by the file alone

The first two make the annotation invalid: such sessions are left out of training and kept, and counted, in evaluation. The others say what
to expect of a score. A line of the file is {"split": "cm/train", "row": 0, "flags": [["no_unchanged_object", 2], ...]}: rows count from 0,
turns from 1, and turn 0 is the whole session. Source: MICE-Bench and its known defects.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.data.session_record import Complaints, Problem, parse_json, short
from editr2_jax.records import FREE_FORM, Session

FILE = "quality_flags.jsonl"
_EMPTY_TEXT = re.compile(r"(?:with|Add text) '\[?\s*\]?'")  # the new text of a text_change, in quotes
_QUOTED = re.compile(r"'\[[^]]*\]'")  # a text in the picture may have several lines
_PRONOUNS = frozenset(("it", "its", "them", "their", "they", "there"))
_COLOURS = frozenset(
    "teal black gray peach green purple red orange yellow gold pink blue white brown navy".split()  # the vocabulary of the rules
    + "grey silver tan beige".split()  # found in names although it has them not
)
_UNCLEAR = ("subject_remove", "position_change", "background_change")  # a standing rule need not show on these


class Flag(enum.StrEnum):
    """Names of the flags, as the file spells them."""

    EMPTY_TEXT_TARGET = "empty_text_target"
    LEAKED_GENERATOR_TEXT = "leaked_generator_text"
    REFERENCE_REMOVED_EARLIER = "reference_removed_earlier"
    NO_UNCHANGED_OBJECT = "no_unchanged_object"
    NO_PRONOUN = "no_pronoun"
    CONSTRAINT_NEVER_CLEARLY_APPLICABLE = "constraint_never_clearly_applicable"
    TWO_COLOUR_WORDS_IN_TARGET = "two_colour_words_in_target"
    ADDED_AFTER_FIRST_RELEASE = "added_after_first_release"


INVALID = (Flag.EMPTY_TEXT_TARGET, Flag.LEAKED_GENERATOR_TEXT)  # no reward can read such a turn


@dataclasses.dataclass(frozen=True, order=True)
class QualityFlag:
    """One flag, of a turn counted from 0 or of the session as a whole (-1)."""

    turn: int
    name: Flag


def of(session: Session, edits: Sequence[Edit | None]) -> tuple[QualityFlag, ...]:
    """The flags that can be seen in a session, in order; `edits` are its formatted instructions, parsed."""
    return tuple(sorted(_seen(session, edits)))


def _seen(session: Session, edits: Sequence[Edit | None]) -> Iterator[QualityFlag]:
    leaked, removed = False, ""
    for t, (turn, edit) in enumerate(zip(session.turns, edits, strict=True)):
        if turn.task_type == FREE_FORM:
            return
        text = turn.formatted_instruction
        if turn.task_type == "text_change" and _EMPTY_TEXT.search(text):
            yield QualityFlag(t, Flag.EMPTY_TEXT_TARGET)
        if not leaked and "\n" in text and "\n" in _QUOTED.sub("", text):
            leaked = True
            yield QualityFlag(t, Flag.LEAKED_GENERATOR_TEXT)
        if edit and edit.task_type == "subject_add" and edit.reference and edit.reference == removed:
            yield QualityFlag(t, Flag.REFERENCE_REMOVED_EARLIER)
        removed = edit.object if edit and edit.task_type == "subject_remove" else ""
        if not turn.unchanged_objects:
            yield QualityFlag(t, Flag.NO_UNCHANGED_OBJECT)
        if t and session.subset == "understanding" and _PRONOUNS.isdisjoint(re.findall("[a-z]+", turn.instruction.lower())):
            yield QualityFlag(t, Flag.NO_PRONOUN)
        if edit and sum(word in _COLOURS for word in (edit.object or edit.old).lower().split()) > 1 and turn.task_type != "text_change":
            yield QualityFlag(t, Flag.TWO_COLOUR_WORDS_IN_TARGET)
    if session.subset == "memory" and len(edits) > 1 and all(turn.task_type in _UNCLEAR for turn in session.turns[1:]):
        yield QualityFlag(-1, Flag.CONSTRAINT_NEVER_CLEARLY_APPLICABLE)


def read(lines: Iterable[tuple[int, bytes | None]], file: str, splits: Sequence[str]) -> tuple[dict[int, tuple], list[Problem]]:
    """What the lines of a flag file tell about one split: row -> (line, its flags), and what is wrong with any of the lines.

    splits: the names that the split goes by. Rows and turns that a split does not have are the caller's to refuse.
    """
    told: dict[int, tuple[int, tuple[QualityFlag, ...]]] = {}
    problems: list[Problem] = []
    for line, text in lines:
        bad = Complaints(file, line)
        record = parse_json(text, bad)
        flags = None if record is None else _flags(record, bad)
        if flags is not None and record["split"] in splits:
            if record["row"] in told:
                bad(f"row {record['row']} of {record['split']} is already that of line {told[record['row']][0]}; write one line per row.")
            told[record["row"]] = line, flags
        problems += bad.problems
    return told, problems


def lines_by_split(lines: Iterable[tuple[int, bytes | None]]) -> dict[str, int]:
    """How many sound lines a flag file has for each split, by what it calls them."""
    counts = collections.Counter()
    for line, text in lines:
        bad = Complaints("", line)
        record = parse_json(text, bad)
        if record is not None and _flags(record, bad) is not None:
            counts[record["split"]] += 1
    return dict(counts)


def _flags(record: Mapping[str, Any], bad: Complaints) -> tuple[QualityFlag, ...] | None:
    split, row, pairs = (record.get(name) for name in ("split", "row", "flags"))
    if not isinstance(split, str) or not _is_count(row) or not isinstance(pairs, list) or len(record) != 3:
        bad('not a line of flags; write {"split": NAME, "row": NUMBER FROM 0, "flags": [[FLAG, TURN FROM 1 OR 0], ...]}.')
        return None
    flags = []
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_count(pair[1])):
            bad(f"flag {short(pair)} is no [FLAG, TURN]; turns count from 1, and 0 is the whole session.")
        elif pair[0] not in list(Flag):
            close = difflib.get_close_matches(pair[0], list(Flag), n=1)
            hint = f" (the nearest is {close[0]})" if close else ""
            bad(f"there is no flag {pair[0]!r}{hint}; the flags are {', '.join(Flag)}.")
        else:
            flags.append(QualityFlag(pair[1] - 1, Flag(pair[0])))
    return None if bad.problems else tuple(flags)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def to_line(split: str, row: int, flags: Iterable[QualityFlag]) -> str:
    """The line of a flag file that `read` reads back."""
    return json.dumps({"split": split, "row": row, "flags": [[flag.name, flag.turn + 1] for flag in sorted(flags)]})
