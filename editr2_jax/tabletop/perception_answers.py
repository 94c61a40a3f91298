"""The tabletop world's question answerer: stands where a vision-language model stands, and answers from pixels.

It sees the pictures and the question, as the model would, and answers in the same words, so that the rewards' strict reading is used.
The prefix judge compares the picture before with the picture after every edit: was the edit carried out, did what it touched take the
rule's look, did anything else take it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.data import instruction_grammar
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.rewards import base
from editr2_jax.rewards.questions import Question
from editr2_jax.tabletop import perception
from editr2_jax.tabletop.perception import SURE
from editr2_jax.tabletop.perception_analysis import Analysis, Seen
from editr2_jax.tabletop.scene import COLOURS, MATERIALS, SIGN, TEXT

SAME_PLACE = 0.2  # IoU
BACKGROUND_SURE = 0.5
RULE_EXEMPT = ("subject_remove", "position_change", "background_change")  # nothing is added or given a new look


class TabletopAnswerer:
    """Answers every kind of question of rewards/questions.py."""

    def __init__(self, eyes: perception.Eyes | None = None):
        self._eyes = eyes or perception.Eyes()

    def ask(self, pictures: Sequence[np.ndarray], question: Question) -> str:
        """The answer's text."""
        if question.kind not in _ANSWERS:
            raise ValueError(f"TabletopAnswerer cannot answer {question.kind!r}; it answers {', '.join(_ANSWERS)}.")
        return _ANSWERS[question.kind]([self._eyes.look(picture) for picture in pictures], question.fields)


@dataclasses.dataclass(frozen=True)
class Touched:
    """What an edit did: whether it was carried out, and the copies it added or changed, as the picture after shows them."""

    done: bool
    copies: tuple[Seen, ...] = ()


def instances(view: Analysis, phrase: str, *, strict: bool = False) -> list[Seen]:
    """Copies that answer a name, the surest first."""
    return [seen for score, seen in perception.answering(view, phrase, strict=strict) if score >= SURE]


def at_place(view: Analysis, place: Seen) -> Seen | None:
    """What lies where `place` lies, or nothing."""
    near = [(base.intersection_over_union(seen.box, place.box), seen) for seen in view.objects if seen.score >= SURE]
    overlap, seen = max(near, key=lambda pair: pair[0], default=(0.0, None))
    return seen if overlap >= SAME_PLACE else None


def _new(before: Analysis, after: Analysis, phrase: str) -> list[Seen]:
    """Copies that fit all words of the name and were not there before."""
    old = instances(before, phrase, strict=True)
    now = instances(after, phrase, strict=True)
    return [seen for seen in now if not any(base.intersection_over_union(seen.box, other.box) >= SAME_PLACE for other in old)]


def _lies(seen: Seen, place: str, reference: Seen) -> bool:
    (x, y), (reference_x, reference_y) = seen.centre, reference.centre
    offset = {"left": reference_x - x, "right": x - reference_x, "above": reference_y - y, "below": y - reference_y}[place]
    return offset > 0.03


def _changed(before: Analysis, after: Analysis, phrase: str, right: Callable[[Seen, Seen], bool]) -> Touched:
    """Every copy still lies at its place and looks right against what it was."""
    old = instances(before, phrase)
    now = [at_place(after, seen) for seen in old]
    done = bool(old) and all(seen is not None and right(was, seen) for was, seen in zip(old, now, strict=True))
    return Touched(done, tuple(seen for seen in now if seen is not None))


def _add(views: Sequence[Analysis], edit: Edit) -> Touched:
    new = _new(views[-2], views[-1], edit.object)
    if not edit.reference:
        return Touched(len(new) == 1, tuple(new))
    references = next((found for view in reversed(views) if (found := instances(view, edit.reference))), [])
    placed = any(_lies(seen, edit.place, reference) for seen in new for reference in references if reference is not seen)
    return Touched(len(new) == 1 and placed, tuple(new))


def _remove(views: Sequence[Analysis], edit: Edit) -> Touched:
    return Touched(bool(instances(views[-2], edit.object)) and not instances(views[-1], edit.object))


def _replace(views: Sequence[Analysis], edit: Edit) -> Touched:
    name = perception.read_name(edit.new)
    return _changed(views[-2], views[-1], edit.old, lambda was, now: name is not None and perception.fits(name, now) > 0)


def _color(views: Sequence[Analysis], edit: Edit) -> Touched:
    return _changed(views[-2], views[-1], edit.object, lambda was, now: now.kind == was.kind and now.colour == edit.value)


def _material(views: Sequence[Analysis], edit: Edit) -> Touched:
    return _changed(views[-2], views[-1], edit.object, lambda was, now: now.kind == was.kind and now.material == edit.value)


def _text(views: Sequence[Analysis], edit: Edit) -> Touched:
    if edit.carrier:
        return _changed(views[-2], views[-1], edit.carrier, lambda was, now: now.kind == was.kind and now.glyph == edit.new)
    new = [seen for seen in _new(views[-2], views[-1], edit.new) if seen.kind == TEXT]
    return Touched(len(new) == 1, tuple(new))


def _position(views: Sequence[Analysis], edit: Edit) -> Touched:
    (moved_before, moved), (_, references) = ([instances(view, name) for view in views[-2:]] for name in (edit.object, edit.reference))
    done = len(moved_before) == len(moved) > 0 and bool(references) and _lies(moved[0], edit.place, references[0])
    return Touched(done, tuple(moved))


def _count(views: Sequence[Analysis], edit: Edit) -> Touched:
    before, after = (instances(view, edit.object) for view in views[-2:])
    return Touched(bool(before) and len(after) == edit.count, tuple(after))


def _background(views: Sequence[Analysis], edit: Edit) -> Touched:
    """The new background, and every object still where it was."""
    kept = ((was, at_place(views[-1], was)) for was in views[-2].objects if was.score >= SURE)
    return Touched(_shows(views[-1], edit.value) and all(now is not None and now.kind == was.kind for was, now in kept))


_EDITS: Mapping[str, Callable[[Sequence[Analysis], Edit], Touched]] = {
    "subject_add": _add,
    "subject_remove": _remove,
    "subject_replace": _replace,
    "color_alter": _color,
    "material_alter": _material,
    "text_change": _text,
    "position_change": _position,
    "count_change": _count,
    "background_change": _background,
}


def _shows(view: Analysis, background: str) -> bool:
    return view.background == background and view.background_score >= BACKGROUND_SURE


def read_rule(instruction: str) -> tuple[str, str] | None:
    """('colour', 'teal') or ('material', 'wooden') of a standing rule, from the sentences before its delimiter; None without a rule."""
    rule, _ = instruction_grammar.split_rule(instruction)
    words = "".join(letter if letter.isalpha() else " " for letter in rule.lower()).split()
    for attribute, values in (("colour", COLOURS), ("material", MATERIALS)):
        for value in values:
            if value in words:
                return attribute, value
    return None


def _keeps_rule(rule: tuple[str, str], task_type: str, touched: Touched, before: Analysis, after: Analysis) -> bool:
    """The touched copies have the rule's look, and nothing else took it."""
    attribute, value = rule
    has = [attribute == "material" and seen.kind in (SIGN, TEXT) or getattr(seen, attribute) == value for seen in touched.copies]
    took = [
        seen
        for seen in after.objects
        if seen.score >= SURE
        and getattr(seen, attribute) == value
        and seen not in touched.copies
        and (was := at_place(before, seen)) is not None
        and was.kind == seen.kind
        and getattr(was, attribute) != value
    ]
    return not took and (task_type in RULE_EXEMPT or bool(has) and all(has))


def _hits_its_object(touched: Touched, before: Analysis, after: Analysis) -> bool:
    """Not carried out is one failure, carried out on another object is two: then something untouched looks different."""
    if touched.done:
        return True
    for was in before.objects:
        now = at_place(after, was)
        if (
            was.score >= SURE
            and now not in touched.copies
            and (now is None or dataclasses.replace(now, box=was.box, score=was.score) != was)
        ):
            return False
    return True


def _entries(views: Sequence[Analysis], fields: Mapping[str, Any]) -> list[dict[str, bool]]:
    """Of every edit so far: was it carried out, and did it keep the rule or hit its object."""
    rule = read_rule(fields["instructions"][0]) if fields["subset"] == "memory" else None
    entries = []
    for t, (task_type, formatted) in enumerate(zip(fields["task_types"], fields["formatted"], strict=True)):
        edit = instruction_grammar.parse(formatted, task_type)
        if edit is None:
            raise ValueError(f"The prefix judge cannot read edit {t + 1}: {formatted!r} is no {task_type}.")
        touched = _EDITS[task_type](views[: t + 2], edit)
        keeps = True
        if rule:
            keeps = _keeps_rule(rule, task_type, touched, views[t], views[t + 1])
        elif fields["subset"] == "understanding":
            keeps = _hits_its_object(touched, views[t], views[t + 1])
        entries.append({"edit": bool(touched.done), "rule": bool(keeps)})
    return entries


def _prefix(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    entries = _entries(views, fields)
    failed = [number for number, entry in enumerate(entries, start=1) if not (entry["edit"] and entry["rule"])]
    reason = f"Edit {failed[0]} failed." if failed else "All edits succeeded."
    return json.dumps({"reason": reason, "turns": entries, "first_failed_turn": failed[0] if failed else 0})


def _grades(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    """Done and by the rule is 5, done against it 2, not done 1: nothing between is seen here."""
    grades = [(5 if entry["rule"] else 2) if entry["edit"] else 1 for entry in _entries(views, fields)]
    return json.dumps({"reason": "Pictures before and after each edit were compared.", "grades": grades})


def _final(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    """The prefix judge's verdict in tags."""
    succeeded = all(entry["edit"] and entry["rule"] for entry in _entries(views, fields))
    return f"<answer_final>{_yes(succeeded)}</answer_final>"


def _core_noun(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    return " ".join(word for word in fields["name"].split() if word not in (*COLOURS, *MATERIALS))


def _yes(decision: bool) -> str:
    return "yes" if decision else "no"


def _texts(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    carrier = fields["carrier"]
    readable = instances(views[0], carrier) if carrier else [seen for seen in views[0].objects if seen.score >= SURE]
    return json.dumps({"texts": [seen.glyph for seen in readable if seen.glyph]})


def _read(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    return " ".join(seen.glyph for seen in views[0].objects if seen.score >= SURE and seen.glyph)


def _edit_of(task_type: str, fields: Mapping[str, Any]) -> Edit:
    """The edit of the slots among the fields."""
    return Edit(task_type=task_type, **{name: fields[name] for name in ("object", "value", "old", "new") if name in fields})


def _is_added(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    return _yes(len(_new(views[0], views[1], fields["object"])) == 1)


def _is_done(task_type: str) -> Callable[[Sequence[Analysis], Mapping[str, Any]], str]:
    """The answer whether an edit of one type was carried out."""
    return lambda views, fields: _yes(_EDITS[task_type](views, _edit_of(task_type, fields)).done)


def _is_success(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    return _is_done(f"{fields['attribute']}_alter")(views, fields)


def _is_background(views: Sequence[Analysis], fields: Mapping[str, Any]) -> str:
    return _yes(_shows(views[0], fields["value"]))


_ANSWERS: Mapping[str, Callable[[Sequence[Analysis], Mapping[str, Any]], str]] = {
    "added": _is_added,
    "replaced": _is_done("subject_replace"),
    "color": _is_done("color_alter"),
    "material": _is_done("material_alter"),
    "background": _is_background,
    "read_text": _texts,
    "prefix": _prefix,
    "grades": _grades,
    # Those of the published evaluators, rewards/compat/prompts.py.
    "r2_added": _is_added,
    "r2_replaced": _is_done("subject_replace"),
    "r2_color": _is_done("color_alter"),
    "r2_material": _is_done("material_alter"),
    "r2_prefix": _final,
    "ev_added": _is_added,
    "ev_replaced": _is_done("subject_replace"),
    "ev_success": _is_success,
    "ev_core_noun": _core_noun,
    "background_is": _is_background,
    "free_text": _read,
}
