"""Edit-R2's IF rules, defects included: its released reward server, read and written anew.

    add          the question; the reference in the INPUT, the object in the output; some pair of centres, in whole pixels, more than 0.03
                 of the side apart in the named direction
    remove       the best box of the input (0.35, not the whole picture); gone from the output, or the best box there overlaps it < 0.2
    replace      the question; endings of plurals cut off; some box of the old and some of the new one overlap at all
    color, material   the question alone
    text         the carrier in the input; the new text occurs in what is read in the WHOLE output
    position     0.40; as many of each as before; the FIRST boxes of the network, in whole pixels, in order
    count        found in the input; as many in the output as wanted, whatever there was
    background   the question alone: the objects to be kept stand in the natural text, which is not read
After "remove A, add B beside A" the reference is looked for in the input, from which it was to be removed: 1 only if that failed.
"""

from __future__ import annotations

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.rewards import base
from editr2_jax.rewards.compat import instruction_following as compat
from editr2_jax.rewards.compat.instruction_following import Arithmetic, Case


def _add(case: Case, edit: Edit) -> float:
    new = case.all(case.after, edit.object)
    if edit.reference and not any(
        compat.beyond(_share(box, case.after), _share(reference, case.before), edit.place) > 0.03
        for reference in case.all(case.before, edit.reference)
        for box in new
    ):
        return 0.0
    return case.yes("r2_added", case.before, case.after, instruction=case.turn.formatted_instruction, object=edit.object) if new else 0.0


def _share(box, picture) -> tuple[float, float]:
    """The pixel in which the centre lies, as shares of the picture's sides."""
    x, y = compat.pixel_centre(box, picture)
    return x / picture.shape[1], y / picture.shape[0]


def _remove(case: Case, edit: Edit) -> float:
    before, after = (case.top(picture, edit.object, 0.35, small=True) for picture in (case.before, case.after))
    return float(before is not None and (after is None or base.intersection_over_union(before, after) < 0.2))


def _replace(case: Case, edit: Edit) -> float:
    before, after = case.all(case.before, compat.singular(edit.old)), case.all(case.after, compat.singular(edit.new))
    if not any(base.intersection_over_union(old, new) > 0 for old in before for new in after):
        return 0.0
    words = {"instruction": case.turn.formatted_instruction, "old": edit.old, "new": edit.new}
    return case.yes("r2_replaced", case.before, case.after, **words)


def _color(case: Case, edit: Edit) -> float:
    return case.yes("r2_color", case.before, case.after, object=edit.object, value=edit.value)


def _material(case: Case, edit: Edit) -> float:
    return case.yes("r2_material", case.before, case.after, object=edit.object, value=edit.value)


def _text(case: Case, edit: Edit) -> float:
    if edit.carrier and case.top(case.before, edit.carrier) is None:
        return 0.0
    return case.reads(case.after, edit.new)


def _position(case: Case, edit: Edit) -> float:
    moved, references = ([case.all(p, name, 0.40) for p in (case.before, case.after)] for name in (edit.object, edit.reference))
    if any(compat.counted(before) != compat.counted(after) for before, after in (moved, references)) or not moved[1] or not references[1]:
        return 0.0
    return float(compat.beyond(*(compat.pixel_centre(found[1][0], case.after) for found in (moved, references)), edit.place) > 0)


def _count(case: Case, edit: Edit) -> float:
    return float(case.top(case.before, edit.object) is not None and compat.counted(case.all(case.after, edit.object)) == edit.count)


def _background(case: Case, edit: Edit) -> float:
    return case.yes("background_is", case.after, value=edit.value)


_RULES = {
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
EDIT_R2 = Arithmetic(name="edit_r2", rules=_RULES)
