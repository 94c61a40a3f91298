"""Wrong outcomes of an edit, by name: what a policy under training does instead. To measure rewards with, never to train on.

Every mistake is a scene that certainly is not what the instruction asked for; scenes that happen to be right are never returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.tabletop import edits
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.dialogues import Dialogue
from editr2_jax.tabletop.edits import RULE_EXEMPT, Rule
from editr2_jax.tabletop.scene import BACKGROUNDS, COLOURS, GLYPHS, MATERIALS, MAX_COUNT, OBJECT_KINDS, TEXT, Item, Scene

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong scene after a turn."""

    name: str
    scene: Scene


def of_edit(dialogue: Dialogue, turn: int, rng: np.random.Generator) -> list[Mistake]:
    """Ways in which the edit of a turn was not carried out; the scene before it is the ground truth."""
    before, edit, rule = dialogue.scenes[turn], dialogue.edits[turn], dialogue.rule
    found = [Mistake(name="nothing changed", scene=before)]
    for name, wrong in [*_wrong_edits(before, edit, rng), *_on_another_object(before, edit, rng)]:
        found += _applied(name, before, wrong, rng, rule)
    if edit.task_type == "background_change":
        lost = [item for item in before.items if item.name in dialogue.pools[turn].available]
        after = dialogue.scenes[turn + 1]
        found += [Mistake(name="object lost", scene=_without(after, scenes.pick(rng, lost).name))] if lost else []
    elif edit.task_type != "subject_remove":
        target = edit.object or edit.old or edit.carrier
        if any(item.name == target for item in before.items):
            found.append(Mistake(name="object removed", scene=_without(before, target)))
    return found


def of_rule(dialogue: Dialogue, turn: int, rng: np.random.Generator) -> list[Mistake]:
    """Ways in which the edit was carried out against a memory dialogue's rule."""
    before, after, edit, rule = dialogue.scenes[turn], dialogue.scenes[turn + 1], dialogue.edits[turn], dialogue.rule
    if rule is None:
        return []
    field = "colour" if rule.attribute == "color" else "material"
    values = COLOURS if rule.attribute == "color" else MATERIALS
    others = [value for value in values if value != rule.value]
    found = []
    if edit.task_type not in RULE_EXEMPT:
        touched = _touched(before, after)
        for name, value in (("rule ignored", None), ("rule with another value", scenes.pick(rng, others))):
            items = tuple(_unruled(item, before, field, value, others, rng) if item in touched else item for item in after.items)
            scene = dataclasses.replace(after, items=items)
            if any(getattr(item, field) != rule.value for item in items if item.name in {t.name for t in touched}):
                found.append(Mistake(name=name, scene=scene))
    spared = [item for item in after.items if item in before.items and getattr(item, field) != rule.value and not item.is_plate]
    if spared:
        item = scenes.pick(rng, spared)
        spread = tuple(dataclasses.replace(other, **{field: rule.value}) if other is item else other for other in after.items)
        found.append(Mistake(name="rule spread", scene=dataclasses.replace(after, items=spread)))
    return found


def _unruled(item: Item, before: Scene, field: str, value: str | None, others: Sequence[str], rng: np.random.Generator) -> Item:
    """The touched item in another look: as it was, or, when it is new or `value` is given, another value."""
    was = next((old for old in before.items if old.places[0] == item.places[0] and old.kind == item.kind), None)
    if value is None:
        value = getattr(was, field) if was else scenes.pick(rng, others)
    return dataclasses.replace(item, **{field: value})


def _touched(before: Scene, after: Scene) -> list[Item]:
    return [item for item in after.items if item not in before.items]


def _without(scene: Scene, name: str) -> Scene:
    return dataclasses.replace(scene, items=tuple(item for item in scene.items if item.name != name))


def _applied(name: str, before: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> list[Mistake]:
    try:
        return [Mistake(name=name, scene=edits.apply(before, edit, rng, rule=rule))]
    except ValueError:  # the scene has no room for it
        return []


def _wrong_edits(before: Scene, edit: Edit, rng: np.random.Generator) -> list[tuple[str, Edit]]:
    """The same kind of edit with one slot wrong."""

    def other(values: Sequence, *wrong) -> object:
        return scenes.pick(rng, [value for value in values if value not in wrong])

    def changed(**slots) -> Edit:
        return dataclasses.replace(edit, **slots)

    match edit.task_type:
        case "subject_add":
            names = [(name, changed(object=word)) for name, word in _other_names(edit.object, before, rng)]
            return names + ([("wrong place", changed(place=OPPOSITE[edit.place]))] if edit.reference else [])
        case "subject_replace":
            return [(name, changed(new=word)) for name, word in _other_names(edit.new, before, rng)]
        case "color_alter":
            was = scenes.find(before, edit.object).colour
            return [("wrong colour", changed(value=other(COLOURS, edit.value, was)))]
        case "material_alter":
            was = scenes.find(before, edit.object).material
            return [("wrong material", changed(value=other(MATERIALS, edit.value, was)))]
        case "text_change":
            return [("wrong text", changed(new=other(GLYPHS, edit.new, edit.old)))]
        case "position_change":
            return [("wrong place", changed(place=OPPOSITE[edit.place]))]
        case "count_change":
            now = scenes.find(before, edit.object).count
            return [("wrong count", changed(count=other(range(1, MAX_COUNT + 1), edit.count, now)))]
        case "background_change":
            return [("wrong background", changed(value=other(BACKGROUNDS, edit.value, before.background)))]
    return []


def _other_names(name: str, before: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """The name with one named word wrong."""
    found = []
    for label, words in (("wrong kind", OBJECT_KINDS), ("wrong colour", COLOURS), ("wrong material", MATERIALS)):
        named = next((word for word in name.split() if word in words), None)
        taken = {item.kind for item in before.items} if words is OBJECT_KINDS else set()
        others = [word for word in words if word != named and word not in taken]
        if named and others:
            found.append((label, " ".join(scenes.pick(rng, others) if word == named else word for word in name.split())))
    return found


def _on_another_object(before: Scene, edit: Edit, rng: np.random.Generator) -> list[tuple[str, Edit]]:
    """The edit on another object of the scene."""
    slot = "old" if edit.task_type == "subject_replace" else "object"
    target = getattr(edit, slot)
    if edit.task_type in ("subject_add", "text_change", "background_change") or not target:
        return []
    fits: Callable[[Item], bool] = {
        "color_alter": lambda item: item.colour != edit.value,
        "material_alter": lambda item: item.material != edit.value,
        "count_change": lambda item: item.count != edit.count,
        "position_change": lambda item: item.count == 1,
    }.get(edit.task_type, lambda item: True)
    others = [item for item in before.items if item.name not in (target, edit.reference) and item.kind != TEXT and fits(item)]
    if edit.task_type in ("color_alter", "material_alter", "count_change", "subject_replace"):
        others = [item for item in others if not item.is_plate]
    return [("another object", dataclasses.replace(edit, **{slot: scenes.pick(rng, others).name}))] if others else []
