"""Questions about pictures, as a vision-language model sees them, and the strict reading of its answers.

A question is data (kind and fields) so that a fake or a perception module can answer it without reading English; `text()` is the
prompt for a model, in English here and in Chinese in questions_zh. Every answer is read by one function here. What is not an
unambiguous answer raises `JudgeFormatError`; nothing is matched as a substring ("eyes" is not yes). Edits are numbered from 1 in prompts
and answers, 0 means none, as in the judges of Edit-R2.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from editr2_jax.rewards import questions_zh
from editr2_jax.rewards.compat import prompts

T = TypeVar("T")

PROMPT_VERSION = "2"  # raise it with every change of wording: scores of two wordings are not comparable

_YES_NO = "Answer with exactly one word: yes or no."
_TWO = "The first picture was taken before an edit, the second after it."
_PREFIX_ANSWER = (
    "Check the edits in order. Then answer with one JSON object and nothing else:\n"
    '{"reason": "<at most two sentences>", "turns": [{"edit": true or false, "rule": true or false}, ... one entry per edit], '
    '"first_failed_turn": <number of the first edit with a false entry, 0 if there is none>}'
)
_PREFIX_RULES = {
    "memory": (
        "The first instruction also states a standing rule, which binds every edit from edit 1 on. 'edit' is true if the edit itself was "
        "carried out. 'rule' is true if the rule holds on the objects that this edit added or changed and did not spread to other "
        "objects; a global tint does not satisfy a colour rule. Edits that remove or move something or change the background cannot "
        "break the rule: their 'rule' is true."
    ),
    "understanding": (
        "Later instructions use pronouns; the bracketed form beside each one names the object that is meant. 'rule' is true if the "
        "edit was applied to that object and not to another. 'edit' is true if it was carried out with the right value."
    ),
    "plain": "'edit' is true if the edit was carried out; 'rule' is always true.",
}
_GRADES_RULES = {
    "memory": (
        "The first instruction also states a standing rule, which binds every edit from edit 1 on: an edit that breaks it gets 2 at most."
    ),
    "understanding": "Later instructions use pronouns; the bracketed form names the object that is meant: an edit of another one gets 1.",
    "plain": "",
}
_GRADES_SCALE = (
    "Grade every edit by comparing the picture before it with the picture after it: 5 is done exactly as asked and looks natural, "
    "4 is done with a small flaw, 3 is done in part, 2 is hardly done, 1 is not done."
)
_GRADES_ANSWER = (
    "Look at one edit after the other. Then answer with one JSON object and nothing else:\n"
    '{"reason": "<one sentence for each edit>", "grades": [<whole number from 1 to 5>, ... one for each edit, in order]}'
)


class JudgeFormatError(ValueError):
    """The answer came, but cannot be read without guessing; becomes a JUDGE_FORMAT_ERROR verdict."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of one of the kinds below.

    kind          pictures          fields                                    answer
    added         before, after     object                                    yes or no
    replaced      before, after     old, new                                  yes or no
    color         before, after     object, value                             yes or no
    material      before, after     object, value                             yes or no
    background    after             value                                     yes or no
    read_text     one               carrier ("" for the whole picture)        JSON {"texts": [...]}
    prefix        source, 0..t      subset, instructions, formatted, task_types   JSON, see `prefix_of`
    grades        source, 0..t      as prefix                                 JSON, see `grades_of`
    and those of compat/prompts.py
    """

    kind: str
    fields: Mapping[str, Any]
    vote: int = 0  # number of the vote: a sampling backend seeds with it, a cache keeps votes apart
    language: str = "en"  # of the prompt, one of LANGUAGES

    def text(self) -> str:
        """The prompt."""
        refuse_language(self.language)
        texts = {**_LANGUAGES[self.language], **prompts.TEXTS}
        if self.kind not in texts:
            raise ValueError(f"Question.kind is {self.kind!r}; the kinds are {', '.join(texts)}.")
        return texts[self.kind](self.fields)

    def prompt_hash(self) -> str:
        """12 hexadecimal digits of the prompt and its version: scores are comparable where they agree."""
        return hashlib.sha256(f"{PROMPT_VERSION}\n{self.text()}".encode()).hexdigest()[:12]


def _session_text(fields: Mapping[str, Any]) -> str:
    lines = []
    for number, (instruction, formatted) in enumerate(zip(fields["instructions"], fields["formatted"], strict=True), start=1):
        lines.append(f"Edit {number}: {instruction}" + (f"\n  meaning: {formatted}" if fields["subset"] == "understanding" else ""))
    opening = "The pictures show one editing session in order: the source picture, then the result of every edit.\n"
    return opening + "\n".join(lines)


def _prefix_text(fields: Mapping[str, Any]) -> str:
    return f"{_session_text(fields)}\n{_PREFIX_RULES[fields['subset']]}\n{_PREFIX_ANSWER}"


def _grades_text(fields: Mapping[str, Any]) -> str:
    return "\n".join(part for part in (_session_text(fields), _GRADES_SCALE, _GRADES_RULES[fields["subset"]], _GRADES_ANSWER) if part)


def _read_text(fields: Mapping[str, Any]) -> str:
    place = f"on the {fields['carrier']}" if fields["carrier"] else "in the picture"
    form = '{"texts": ["<text>", ...]}'
    return f"Read all text {place}. Answer with one JSON object and nothing else: {form}, with an empty list if there is none."


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "added": lambda f: f'{_TWO} Does the second picture show a "{f["object"]}" that is not in the first one? {_YES_NO}',
    "replaced": lambda f: (
        f'{_TWO} Was the "{f["old"]}" of the first picture replaced by a "{f["new"]}", so that the "{f["old"]}" is gone? {_YES_NO}'
    ),
    "color": lambda f: (
        f'{_TWO} Does the "{f["object"]}" of the first picture have the color {f["value"]} in the second one? '
        f'If the first picture shows no "{f["object"]}", answer no. {_YES_NO}'
    ),
    "material": lambda f: (
        f'{_TWO} Is the "{f["object"]}" of the first picture made of, or does it look like, {f["value"]} in the second one? '
        f'If the first picture shows no "{f["object"]}", answer no. {_YES_NO}'
    ),
    "background": lambda f: f'Does the background of the picture show "{f["value"]}"? {_YES_NO}',
    "read_text": _read_text,
    "prefix": _prefix_text,
    "grades": _grades_text,
}
_LANGUAGES = {"en": _TEXTS, "zh": questions_zh.TEXTS}
LANGUAGES = tuple(_LANGUAGES)
GRADES = (1, 5)  # the worst and the best
YES_NO = ("added", "replaced", "color", "material", "background")  # kinds that are answered by yes or no


def wording(kinds: Sequence[str], language: str = "en") -> str:
    """12 hexadecimal digits of the prompts of some kinds in a language, and of their version: part of what a verdict is found by.

    A wording that was changed without raising PROMPT_VERSION is another one all the same.
    """
    texts = [Question(kind, fields, language=language).text() for kind in kinds for fields in _samples(kind)]
    return hashlib.sha256(json.dumps([PROMPT_VERSION, *texts]).encode()).hexdigest()[:12]


class _Named(dict):
    """Fields that hold their names."""

    def __missing__(self, name: str) -> str:
        return f"<{name}>"


def _samples(kind: str) -> list[Mapping[str, Any]]:
    """Fields that bring out every wording of a kind."""
    if kind == "read_text":
        return [_Named(carrier=""), _Named()]
    if kind in ("prefix", "grades", "r2_prefix"):
        return [_Named(subset=subset, instructions=("<1>", "<2>"), formatted=("<a>", "<b>")) for subset in _PREFIX_RULES]
    return [_Named()]


def refuse_language(language: str) -> None:
    """Raises ValueError for a language that has no prompts."""
    if language not in _LANGUAGES:
        raise ValueError(f"the judges' language is {language!r}; there are prompts in {', '.join(LANGUAGES)}.")


def answer_schema(question: Question) -> dict[str, Any] | None:
    """The JSON schema of an answer, in the part of the language that servers can force a model to keep; None for yes and no."""
    if question.kind == "read_text":
        return _object(texts={"type": "array", "items": {"type": "string"}})
    if question.kind not in ("prefix", "grades"):
        return None
    edits = len(question.fields["instructions"])
    if question.kind == "grades":
        grade = {"type": "integer", "minimum": GRADES[0], "maximum": GRADES[1]}
        return _object(reason={"type": "string"}, grades={"type": "array", "items": grade, "minItems": edits, "maxItems": edits})
    entry = _object(edit={"type": "boolean"}, rule={"type": "boolean"})
    return _object(
        reason={"type": "string"},
        turns={"type": "array", "items": entry, "minItems": 1, "maxItems": edits},  # it may stop at the first failure
        first_failed_turn={"type": "integer", "minimum": 0, "maximum": edits},
    )


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def yes_or_no(answer: str) -> bool:
    """Reads a decision: `yes` or `no` alone, or first and followed by punctuation, Chinese or other, with the opposite word nowhere after
    it."""
    text = answer.strip().strip("\"'*`").lower()
    match = re.match(r"(yes|no)\b[\"'*`]*(?:[.,:;!。，：；！\n]|$)", text)
    if match is None:
        raise JudgeFormatError(f"Wanted yes or no, got {_short(answer)}.")
    decision = match.group(1)
    opposite = "no" if decision == "yes" else "yes"
    if re.search(rf"\b{opposite}\b", text[match.end() :]):
        raise JudgeFormatError(f"The answer says yes and no: {_short(answer)}.")
    return decision == "yes"


def texts_of(answer: str) -> list[str]:
    """Reads the answer of a `read_text` question."""
    found = json_object(answer).get("texts")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise JudgeFormatError(f'Wanted {{"texts": [strings]}}, got {_short(answer)}.')
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixAnswer:
    """A judge's answer about all edits so far."""

    edits: tuple[bool, ...]
    rules: tuple[bool, ...]
    first_failed_turn: int  # numbered from 1; 0 is none
    reason: str


def prefix_of(answer: str, *, turns: int) -> PrefixAnswer:
    """Reads the answer of a `prefix` question about `turns` edits; the entries and first_failed_turn must agree.

    A judge that stops at the first failure may leave out the entries after it; they are read as false.
    """
    found = json_object(answer)
    first, entries = found.get("first_failed_turn"), found.get("turns")
    if type(first) is not int or not 0 <= first <= turns:
        raise JudgeFormatError(f"first_failed_turn must be a whole number in 0..{turns}: {_short(answer)}.")
    if not isinstance(entries, list) or not (len(entries) == turns or first <= len(entries) < turns and first > 0):
        raise JudgeFormatError(f"Wanted one entry in turns for each of {turns} edits: {_short(answer)}.")
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("edit")) is not bool or type(entry.get("rule")) is not bool:
            raise JudgeFormatError(f'Wanted {{"edit": true or false, "rule": true or false}}: {_short(answer)}.')
    edits = tuple(entry["edit"] for entry in entries) + (False,) * (turns - len(entries))
    rules = tuple(entry["rule"] for entry in entries) + (False,) * (turns - len(entries))
    failed = [number for number in range(1, turns + 1) if not (edits[number - 1] and rules[number - 1])]
    if first != (failed[0] if failed else 0):
        raise JudgeFormatError(f"first_failed_turn is {first}, the entries say {failed[0] if failed else 0}: {_short(answer)}.")
    return PrefixAnswer(edits=edits, rules=rules, first_failed_turn=first, reason=str(found.get("reason", "")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradesAnswer:
    """A judge's grades of all edits so far."""

    grades: tuple[int, ...]  # each from 1 to 5
    reason: str


def grades_of(answer: str, *, turns: int) -> GradesAnswer:
    """Reads the answer of a `grades` question about `turns` edits: one whole number from 1 to 5 for each."""
    found, (worst, best) = json_object(answer), GRADES
    grades = found.get("grades")
    if not isinstance(grades, list) or len(grades) != turns or not all(type(grade) is int and worst <= grade <= best for grade in grades):
        raise JudgeFormatError(f"Wanted {turns} whole numbers from {worst} to {best} in grades: {_short(answer)}.")
    return GradesAnswer(grades=tuple(grades), reason=str(found.get("reason", "")))


def votes(ask: Callable[[Question], str], question: Question, *, count: int, parse: Callable[[str], T]) -> list[T]:
    """Asks `count` times and reads every answer. Unreadable answers are left out while at least half can be read."""
    read: list[T] = []
    error: JudgeFormatError | None = None
    for vote in range(count):
        try:
            read.append(parse(ask(dataclasses.replace(question, vote=vote))))
        except JudgeFormatError as unreadable:
            error = unreadable
    if error is not None and 2 * len(read) < max(count, 2):
        raise error
    return read


def says(texts: Sequence[str], wanted: str) -> int:
    """How many of the texts contain `wanted` as whole words, ignoring case and spacing."""
    words = wanted.lower().split()
    if not words:
        raise ValueError("says() wants a text to look for, got an empty one; refuse the annotation before asking.")
    return sum(_contains(text.lower().split(), words) for text in texts)


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


def json_object(answer: str) -> dict[str, Any]:
    """The one JSON object that an answer is, alone or in a fence; raises JudgeFormatError.

    Half a character, as an escape like \\ud83d alone spells it, becomes a question mark: no file could hold it.
    """
    text = answer.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, flags=re.DOTALL)
    try:
        found = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=_without_repeats)
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:  # the latter where brackets are opened a thousand times
        raise JudgeFormatError(f"Wanted one JSON object and nothing else ({error}): {_short(answer)}.") from error
    if not isinstance(found, dict):
        raise JudgeFormatError(f"Wanted a JSON object: {_short(answer)}.")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= 160 else answer[:157] + "...")
