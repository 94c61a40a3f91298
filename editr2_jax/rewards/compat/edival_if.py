"""EdiVal's IF rules, defects included: the evaluator behind EdiVal-Bench, read and written anew. Pictures are forced to 512 x 512.

    add          the question (newly there? in doubt, no); as Edit-R2's, but with exact centres
    remove       as Edit-R2's; a name with "hat" or "bird" in it is then looked for in the output by that word alone
    replace      the question names old and new; boxes as Edit-R2's
    color, material   one question for all: a success, accurate, natural?
    text         the carrier in both pictures; read in the OUTPUT at the place of the input's box. Added text: as Edit-R2's
    position     names without colours and materials count as before (0.40); then the best boxes (0.30) of the full names, in order, in
                 whole pixels, none inside the other
    count        found in both pictures; as many in the output as wanted
    background   from the NATURAL text: every kept object found (0.25) and not as large as 0.9 x 0.9, then the question
A natural text without brackets and without a list of what to keep is no background edit to it, and counts 0.
"""

from __future__ import annotations

import re

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.rewards import base
from editr2_jax.rewards.base import Box
from editr2_jax.rewards.compat import instruction_following as compat
from editr2_jax.rewards.compat.instruction_following import Arithmetic, Case

_KEEPING = re.compile(r"Change the background to (?P<value>[^,]+), remain the (?P<kept>.+) unchanged")
_BRACKETED = re.compile(r"Change the background to \[(?P<value>[^]]+)\]")


def _add(case: Case, edit: Edit) -> float:
    new = case.all(case.after, edit.object)
    if edit.reference and not any(
        compat.beyond(base.centre(box), base.centre(reference), edit.place) > 0.03
        for reference in case.all(case.before, edit.reference)
        for box in new
    ):
        return 0.0
    return case.yes("ev_added", case.before, case.after, object=edit.object) if new else 0.0


def _remove(case: Case, edit: Edit) -> float:
    before, after = (case.top(picture, edit.object, 0.35, small=True) for picture in (case.before, case.after))
    if before is None:
        return 0.0
    if after is None or base.intersection_over_union(before, after) < 0.2:
        return 1.0
    again = [word for word in ("hat", "bird") if word in edit.object.lower()]
    return float(any(case.top(case.after, word, 0.35) is None for word in again))


def _replace(case: Case, edit: Edit) -> float:
    before, after = case.all(case.before, compat.singular(edit.old)), case.all(case.after, compat.singular(edit.new))
    if not any(base.intersection_over_union(old, new) > 0 for old in before for new in after):
        return 0.0
    return case.yes("ev_replaced", case.before, case.after, old=edit.old, new=edit.new)


def _success(attribute: str):
    """The rule of an edit that is judged by the question alone."""

    def judged(case: Case, edit: Edit) -> float:
        words = {"instruction": case.turn.formatted_instruction, "object": edit.object, "value": edit.value, "attribute": attribute}
        return case.yes("ev_success", case.before, case.after, **words)

    return judged


def _text(case: Case, edit: Edit) -> float:
    if not edit.carrier:
        return case.reads(case.after, edit.new)
    box, still = case.top(case.before, edit.carrier), case.top(case.after, edit.carrier)
    place = compat.cut_out(case.after, box) if box and still else case.after[:0]
    return case.reads(place, edit.new) if place.size else 0.0


def _position(case: Case, edit: Edit) -> float:
    pictures = (case.before, case.after)
    for name in (edit.reference, edit.object):
        noun = re.sub(r"[][\"']", "", case.told("ev_core_noun", name=name).strip().lower()) or name
        if len({compat.counted(case.all(picture, noun, 0.40)) for picture in pictures}) > 1:
            return 0.0
    moved, reference = case.top(case.after, edit.object), case.top(case.after, edit.reference)
    if not moved or not reference or _inside(moved, reference) or _inside(reference, moved):
        return 0.0
    return float(compat.beyond(*(compat.pixel_centre(box, case.after) for box in (moved, reference)), edit.place) > 0)


def _inside(box: Box, other: Box) -> bool:
    return other[0] <= box[0] and other[1] <= box[1] and other[2] >= box[2] and other[3] >= box[3]


def _count(case: Case, edit: Edit) -> float:
    now = case.all(case.after, edit.object)
    return float(case.top(case.before, edit.object) is not None and bool(now) and compat.counted(now) == edit.count)


def _background(case: Case, edit: Edit) -> float:
    keeping = _KEEPING.search(case.turn.instruction)
    found = keeping or _BRACKETED.search(case.turn.instruction)
    if found is None:
        case.detail["reason"] = compat.UNPARSED
        return 0.0
    for name in keeping["kept"].split(",") if keeping else ():
        box = case.top(case.after, name, 0.25)
        if box is None or (box[2] - box[0] > 0.9 and box[3] - box[1] > 0.9):
            case.detail["lost"] = name.strip()
            return 0.0
    return case.yes("background_is", case.after, value=found["value"])


_RULES = {
    "subject_add": _add,
    "subject_remove": _remove,
    "subject_replace": _replace,
    "color_alter": _success("color"),
    "material_alter": _success("material"),
    "text_change": _text,
    "position_change": _position,
    "count_change": _count,
    "background_change": _background,
}
EDIVAL = Arithmetic(name="edival", rules=_RULES, side=512)
