"""Which edits a scene allows: one of a wanted type is drawn, or there is none. What is drawn always changes the picture.

Objects are taken from the pool's available names. A place is told by an object that is there once, so it is never ambiguous.
Under a standing rule nothing is said about its attribute where the rule acts: new objects are named without it, and an object whose name
tells it ("red box" under a colour rule) may be moved, removed or replaced, but not changed; its name would become untrue.
"""

from __future__ import annotations

import numpy as np

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.tabletop import edits
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.edits import VOCABULARY, Pool, Rule
from editr2_jax.tabletop.scene import BACKGROUNDS, COLOURS, DIRECTIONS, GLYPHS, MATERIALS, MAX_COUNT, OBJECT_KINDS, SIGN, Item, Scene

NAMED_MATERIAL = 0.2  # share of new objects whose name tells a material
WITHOUT_REFERENCE = 0.12  # share of adds that name no place; 8 % in MICE-Bench
CLEAR_SIDE = 0.05  # cells by which an object must lie on the wrong side before "move it to the other"; 1 pixel at 64 x 64


def propose(scene: Scene, pool: Pool, task_type: str, rng: np.random.Generator, *, rule: Rule | None = None, only: str = "") -> Edit | None:
    """An edit of that type that the scene allows, or None. only: the name that it has to be about."""
    return _PROPOSE[task_type](scene, pool, rng, rule, only)


def forbidden(rule: Rule | None) -> tuple[str, ...]:
    """Task types that would contradict a rule, or that it cannot be seen on (a plate has no material)."""
    if rule is None:
        return ()
    return ("color_alter",) if rule.attribute == "color" else ("material_alter", "text_change")


def _choices(scene: Scene, pool: Pool, rng: np.random.Generator, only: str) -> list[Item]:
    """Available items in random order."""
    allowed = (only,) if only else pool.available
    return scenes.shuffled(rng, [item for item in scene.items if item.name in allowed and item.kind != scenes.TEXT])


def _changeable(scene: Scene, pool: Pool, rng: np.random.Generator, rule: Rule | None, only: str) -> list[Item]:
    """Available objects, no plates, whose names stay true under the rule; in random order."""
    told = VOCABULARY[rule.attribute] if rule else ()
    items = _choices(scene, pool, rng, only)
    return [item for item in items if item.kind != SIGN and not any(word in told for word in item.name.split())]


def _new_name(scene: Scene, rng: np.random.Generator, rule: Rule | None) -> str:
    """A new object of a kind that the table does not have; "" when it has them all."""
    kinds = [kind for kind in OBJECT_KINDS if all(item.kind != kind for item in scene.items)]
    if not kinds:
        return ""
    colour = "" if rule and rule.attribute == "color" else scenes.pick(rng, COLOURS)
    material = scenes.pick(rng, MATERIALS[1:]) if rng.random() < NAMED_MATERIAL else ""
    if rule and rule.attribute == "material":
        material = ""
    return scenes.object_name(scenes.pick(rng, kinds), colour=colour, material=material)


def _add(scene, pool, rng, rule, only) -> Edit | None:
    name = _new_name(scene, rng, rule)
    if not name or not scenes.free_cells(scene):
        return None
    if rng.random() >= WITHOUT_REFERENCE:
        for reference in _choices(scene, pool, rng, ""):
            if reference.count > 1:
                continue
            for place in scenes.shuffled(rng, DIRECTIONS):
                if edits.cells_beside(scene, reference.places[0], place):
                    return Edit(task_type="subject_add", object=name, place=place, reference=reference.name)
    return Edit(task_type="subject_add", object=name)


def _remove(scene, pool, rng, rule, only) -> Edit | None:
    items = _choices(scene, pool, rng, only)
    if not items or len(scenes.names(scene)) < 2:  # the table is never emptied
        return None
    return Edit(task_type="subject_remove", object=items[0].name)


def _replace(scene, pool, rng, rule, only) -> Edit | None:
    items = [item for item in _choices(scene, pool, rng, only) if item.kind != SIGN]
    name = _new_name(scene, rng, rule)
    return Edit(task_type="subject_replace", old=items[0].name, new=name) if items and name else None


def _color(scene, pool, rng, rule, only) -> Edit | None:
    items = _changeable(scene, pool, rng, rule, only)
    if not items:
        return None
    value = scenes.pick(rng, [colour for colour in COLOURS if colour != items[0].colour])
    return Edit(task_type="color_alter", object=items[0].name, value=value)


def _material(scene, pool, rng, rule, only) -> Edit | None:
    items = _changeable(scene, pool, rng, rule, only)
    if not items:
        return None
    value = scenes.pick(rng, [material for material in MATERIALS if material != items[0].material])
    return Edit(task_type="material_alter", object=items[0].name, value=value)


def _text(scene, pool, rng, rule, only) -> Edit | None:
    """The sign's glyph, or one more; always a glyph that the picture does not show and the session has not named."""
    shown = {item.glyph for item in scene.items} | set(pool.known)
    unseen = [glyph for glyph in GLYPHS if glyph not in shown]
    signs = [] if only else [item for item in _choices(scene, pool, rng, "") if item.kind == SIGN]
    room = bool(scenes.free_cells(scene))
    if not unseen or not (signs or room):
        return None
    new = scenes.pick(rng, unseen)
    if signs and (not room or rng.random() < 0.7):
        return Edit(task_type="text_change", old=signs[0].glyph, carrier=signs[0].name, new=new)
    return Edit(task_type="text_change", new=new)


def _position(scene, pool, rng, rule, only) -> Edit | None:
    """A move to a side of the reference on which the object clearly is not."""
    for item in _choices(scene, pool, rng, only):
        for reference in _choices(scene, pool, rng, "") if item.count == 1 else ():
            if reference is item or reference.count > 1:
                continue
            for place in scenes.shuffled(rng, DIRECTIONS):
                if _wrong_side(item, reference, place) and edits.cells_beside(scene, reference.places[0], place):
                    return Edit(task_type="position_change", object=item.name, place=place, reference=reference.name)
    return None


def _wrong_side(item: Item, reference: Item, place: str) -> bool:
    down, across = DIRECTIONS[place]
    here, there = item.places[0], reference.places[0]
    same_or_beyond = (here.row - there.row) * down + (here.column - there.column) * across <= 0
    return same_or_beyond and (here.y - there.y) * down + (here.x - there.x) * across <= -CLEAR_SIDE


def _count(scene, pool, rng, rule, only) -> Edit | None:
    room = len(scenes.free_cells(scene))
    for item in _changeable(scene, pool, rng, rule, only):
        counts = [count for count in range(1, min(MAX_COUNT, item.count + room) + 1) if count != item.count]
        if counts:
            return Edit(task_type="count_change", object=item.name, count=scenes.pick(rng, counts))
    return None


def _background(scene, pool, rng, rule, only) -> Edit | None:
    value = scenes.pick(rng, [background for background in BACKGROUNDS if background != scene.background])
    return Edit(task_type="background_change", value=value)


_PROPOSE = {
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
