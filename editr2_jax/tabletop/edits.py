"""What an edit does to a scene, and to the lists of objects that annotate a session. The ground truth of the tabletop world.

Where something comes to lie follows from what is visible, so that a picture and an instruction settle the next picture up to a jitter
smaller than a cell. Lists follow the pool rules of the EdiVal generator, as MICE-Bench does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from editr2_jax.data import instruction_grammar
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.scene import COLOURS, DIRECTIONS, KINDS, MATERIALS, PLAIN_MATERIAL, TEXT, Item, Place, Scene

VOCABULARY = {"color": COLOURS, "material": MATERIALS}
RULE_EXEMPT = ("subject_remove", "position_change", "background_change")  # nothing is added or given a new look

formatted, natural, parse = instruction_grammar.formatted, instruction_grammar.natural, instruction_grammar.parse


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A standing rule: every object that an edit adds or changes takes this look."""

    attribute: str  # "color" or "material"
    value: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The objects of a session after some turns, by name, in the order of their arrival."""

    source: tuple[str, ...]  # objects of the source picture
    unchanged: tuple[str, ...]  # of those, the ones that no edit has touched
    available: tuple[str, ...]  # that exist and can be edited next
    known: tuple[str, ...]  # every name so far


def rename(name: str, value: str, vocabulary: Sequence[str]) -> str:
    """The name after a change of look: the first word that contains a value of the vocabulary is replaced, else the value leads."""
    words = name.split()
    for index, word in enumerate(words):
        if any(known in word for known in vocabulary):
            return " ".join([*words[:index], value, *words[index + 1 :]])
    return f"{value} {name}"


def renamed(edit: Edit) -> str:
    """Name of the edited object after the edit."""
    if edit.task_type in ("color_alter", "material_alter"):
        return rename(edit.object, edit.value, VOCABULARY["color" if edit.task_type == "color_alter" else "material"])
    return edit.new if edit.task_type == "subject_replace" else edit.object


def start_pool(scene: Scene) -> Pool:
    names = scenes.names(scene)
    return Pool(source=names, unchanged=names, available=names, known=names)


def update_pool(pool: Pool, edit: Edit) -> Pool:
    """The pool after an edit."""
    unchanged, available, known = pool.unchanged, pool.available, pool.known
    match edit.task_type:
        case "subject_add":
            available, known = _with(available, edit.object), _with(known, edit.object)
        case "subject_remove":
            available, unchanged = _without(available, edit.object), _without(unchanged, edit.object)
        case "subject_replace":
            available, unchanged = _with(_without(available, edit.old), edit.new), _without(unchanged, edit.old)
            known = _with(known, edit.new)
        case "color_alter" | "material_alter":
            name = renamed(edit)
            available = tuple(name if other == edit.object else other for other in available)
            unchanged, known = _without(unchanged, edit.object), _with(known, name)
        case "position_change":
            unchanged = _without(_without(unchanged, edit.object), edit.reference)
        case "count_change":
            unchanged = _without(unchanged, edit.object)
        case "text_change":
            unchanged = _without(unchanged, edit.carrier)
            known = known if edit.carrier else _with(known, edit.new)
        case "background_change":
            available = tuple(name for name in available if name in pool.source)
            unchanged = tuple(name for name in unchanged if name in available)
    return Pool(source=pool.source, unchanged=unchanged, available=available, known=known)


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(other for other in names if other != name)


def apply(scene: Scene, edit: Edit, rng: np.random.Generator, *, rule: Rule | None = None) -> Scene:
    """The scene after an edit, the standing rule obeyed. `rng` draws the jitter of what is placed anew.

    Raises ValueError for an edit that this scene does not allow: an unknown object, no free cell, a direction without room.
    """
    if edit.task_type not in _APPLY:
        raise ValueError(f"Edit.task_type is {edit.task_type!r}; the task types are {', '.join(_APPLY)}.")
    return _APPLY[edit.task_type](scene, edit, rng, rule)


def cells_beside(scene: Scene, reference: Place, place: str, *, leaving: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Free cells on that side of a reference, the nearest first: what lies in its row (or column) before what lies aslant.

    leaving: a cell that will be free because its object is the one that moves.
    """
    down, across = DIRECTIONS[place]
    cells = scenes.free_cells(scene) + ([leaving] if leaving else [])
    found = []
    for row, column in cells:
        along = (row - reference.row) * down + (column - reference.column) * across
        aside = abs(row - reference.row) if across else abs(column - reference.column)
        if along > 0:
            found.append((along + 2 * aside, row, column))
    return [(row, column) for _, row, column in sorted(found)]


def central_cell(scene: Scene) -> tuple[int, int]:
    """The free cell nearest to the middle of the picture; the first in reading order among equals. ValueError when the table is full."""
    rows, columns = scene.grid
    cells = scenes.free_cells(scene)
    if not cells:
        raise ValueError("The table is full: remove something before an edit that adds.")
    return min(cells, key=lambda cell: (abs(cell[0] - (rows - 1) / 2) + abs(cell[1] - (columns - 1) / 2), cell))


def look_of(name: str, rng: np.random.Generator, rule: Rule | None) -> tuple[str, str, str]:
    """(kind, colour, material) of a new object: what its name tells, else what the rule tells, else plastic of any colour."""
    words = name.split()
    kinds, colours, materials = ([word for word in words if word in known] for known in (KINDS, COLOURS, MATERIALS))
    if len(kinds) != 1 or len(colours) > 1 or len(materials) > 1 or len(words) != 1 + len(colours) + len(materials):
        raise ValueError(f"{name!r} is no object of the tabletop; name [material] [colour] kind, such as 'wooden blue ball'.")
    colour, material = (colours or [""])[0], (materials or [""])[0]
    if rule and rule.attribute == "color":
        colour = colour or rule.value
    if rule and rule.attribute == "material":
        material = material or rule.value
    return kinds[0], colour or scenes.pick(rng, COLOURS), material or PLAIN_MATERIAL


def _swap(scene: Scene, old: Item, *new: Item) -> Scene:
    items = tuple(other for item in scene.items for other in ((item,) if item is not old else new))
    return Scene(background=scene.background, items=items, grid=scene.grid, phase=scene.phase)


def _append(scene: Scene, item: Item) -> Scene:
    return Scene(background=scene.background, items=(*scene.items, item), grid=scene.grid, phase=scene.phase)


def _ruled(item: Item, rule: Rule | None) -> Item:
    """The item in the look of the rule. A plate takes a colour as its ink and no material."""
    if rule is None or (item.is_plate and rule.attribute == "material"):
        return item
    return dataclasses.replace(item, colour=rule.value) if rule.attribute == "color" else dataclasses.replace(item, material=rule.value)


def _add(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    kind, colour, material = look_of(edit.object, rng, rule)
    if edit.reference:
        reference = scenes.find(scene, edit.reference)
        cells = cells_beside(scene, reference.places[0], edit.place)
        if not cells:
            raise ValueError(f"No free cell {edit.place} of {edit.reference!r}.")
        cell = cells[0]
    else:
        cell = central_cell(scene)
    place = scenes.jittered(cell, rng)
    item = Item(kind=kind, name=edit.object, places=(place,), colour=colour, material=material, scale=scenes.random_scale(rng))
    return _append(scene, item)


def _remove(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    return _swap(scene, scenes.find(scene, edit.object))


def _replace(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    old = scenes.find(scene, edit.old)
    kind, colour, material = look_of(edit.new, rng, rule)
    return _swap(scene, old, Item(kind=kind, name=edit.new, places=old.places, colour=colour, material=material, scale=old.scale))


def _alter(attribute: str) -> Callable[[Scene, Edit, np.random.Generator, Rule | None], Scene]:
    def altered(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
        old = scenes.find(scene, edit.object)
        new = dataclasses.replace(_ruled(old, rule), name=renamed(edit), **{attribute: edit.value})
        return _swap(scene, old, new)

    return altered


def _text(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    if edit.carrier:
        old = scenes.find(scene, edit.carrier)
        return _swap(scene, old, dataclasses.replace(_ruled(old, rule), glyph=edit.new))
    place = scenes.jittered(central_cell(scene), rng, plate=True)
    return _append(scene, _ruled(Item(kind=TEXT, name=edit.new, places=(place,), glyph=edit.new), rule))


def _position(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    item, reference = scenes.find(scene, edit.object), scenes.find(scene, edit.reference)
    cells = cells_beside(scene, reference.places[0], edit.place, leaving=item.places[0].cell)
    if not cells:
        raise ValueError(f"No free cell {edit.place} of {edit.reference!r}.")
    moved = dataclasses.replace(item, places=(scenes.jittered(cells[0], rng, plate=item.is_plate),))
    return _swap(scene, item, moved)


def _count(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    """More copies go to the free cells nearest to a copy; fewer are the first ones in reading order."""
    item = scenes.find(scene, edit.object)
    places = sorted(item.places, key=lambda place: place.cell)[: edit.count]
    free = scenes.free_cells(scene)
    if edit.count - item.count > len(free):
        raise ValueError(f"{edit.count} copies of {edit.object!r} need {edit.count - item.count} free cells, there are {len(free)}.")
    while len(places) < edit.count:
        cell = min(free, key=lambda cell: (min(abs(cell[0] - p.row) + abs(cell[1] - p.column) for p in places), cell))
        free.remove(cell)
        places.append(scenes.jittered(cell, rng))
    return _swap(scene, item, dataclasses.replace(_ruled(item, rule), places=tuple(places)))


def _background(scene: Scene, edit: Edit, rng: np.random.Generator, rule: Rule | None) -> Scene:
    if edit.value not in scenes.BACKGROUNDS:
        raise ValueError(f"There is no background {edit.value!r}; the backgrounds are {', '.join(scenes.BACKGROUNDS)}.")
    return dataclasses.replace(scene, background=edit.value)


_APPLY = {
    "subject_add": _add,
    "subject_remove": _remove,
    "subject_replace": _replace,
    "color_alter": _alter("colour"),
    "material_alter": _alter("material"),
    "text_change": _text,
    "position_change": _position,
    "count_change": _count,
    "background_change": _background,
}
