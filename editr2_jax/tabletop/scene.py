"""Scenes of the tabletop world: which objects lie where.

A scene is a background and a few named items on a grid of cells. It holds no pixels: places are cells with a jitter, in fractions of a
cell, so one scene can be drawn at any size. An item has 1..5 copies, one per cell; every cell holds at most one copy.
"""

from __future__ import annotations

import dataclasses

import numpy as np

OBJECT_KINDS = ("ball", "box", "cone", "star", "ring", "cross")
SIGN = "sign"  # a white plate with a frame and one glyph; present from the start, can be named
TEXT = "text"  # a white plate without a frame, left by "Add text"; an annotation, never the object of an edit
KINDS = (*OBJECT_KINDS, SIGN)  # every kind that a sentence can name
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
INK = "black"  # colour of glyphs and frames until a colour rule touches them
MATERIALS = ("plastic", "wooden", "metal", "stone")
PLAIN_MATERIAL = "plastic"  # how an object looks whose name tells no material
BACKGROUNDS = ("sand", "grass", "sky", "snow", "night", "brick")
GLYPHS = ("E", "H", "J", "K", "L", "N", "P", "T", "U", "X", "Y", "2", "4", "7")  # any two differ in at least 6 of the 35 bits
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}  # (row, column), rows count downwards
MAX_COUNT = 5
SHORT_SIDE_CELLS = 3  # cells along the short side of a picture, about 21 pixels each at 64 x 64
JITTER = 0.065  # largest offset of a copy from the middle of its cell, in cells
PLATE_JITTER = (0.01, 0.06)  # plates nearly fill the height of a cell: (down, across)
SCALES = (0.93, 1.05)  # range of an item's size
PHASES = 8  # variants of a background's texture


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """One copy of an item: its cell, and the offset of its centre from the cell's middle in cells (down and right are positive)."""

    row: int
    column: int
    down: float = 0.0
    across: float = 0.0

    @property
    def cell(self) -> tuple[int, int]:
        return self.row, self.column

    @property
    def y(self) -> float:
        """Height of the centre, in cells from the top of the picture."""
        return self.row + 0.5 + self.down

    @property
    def x(self) -> float:
        """Centre, in cells from the left of the picture."""
        return self.column + 0.5 + self.across


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a name stands for: equal copies of one object. The look may say more than the name (a rule can colour "ball" teal)."""

    kind: str  # one of KINDS, or TEXT
    name: str  # unique in the scene: "red ball", "wooden blue ball", "sign"; of TEXT the glyph itself
    places: tuple[Place, ...]  # at least one
    colour: str = INK  # one of COLOURS; of plates the ink, INK at first
    material: str = PLAIN_MATERIAL  # one of MATERIALS
    glyph: str = ""  # one of GLYPHS on plates, else ""
    scale: float = 1.0  # size against the usual one

    @property
    def count(self) -> int:
        return len(self.places)

    @property
    def is_plate(self) -> bool:
        return bool(self.glyph)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A background and items on a grid of (rows, columns) cells."""

    background: str  # one of BACKGROUNDS
    items: tuple[Item, ...]
    grid: tuple[int, int] = (SHORT_SIDE_CELLS, SHORT_SIDE_CELLS)
    phase: int = 0  # variant of the background's texture, 0..PHASES-1


def grid_for(size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of nearly square cells for a picture of (height, width) pixels: three along the short side."""
    height, width = size
    short = min(height, width)
    if short < 24:
        raise ValueError(f"A tabletop picture needs at least 24 pixels on each side, got {height} x {width}.")
    return round(SHORT_SIDE_CELLS * height / short), round(SHORT_SIDE_CELLS * width / short)


def find(scene: Scene, name: str) -> Item:
    """The item of that name. ValueError lists the names that exist."""
    for item in scene.items:
        if item.name == name:
            return item
    raise ValueError(f"No {name!r} in the scene; it has {', '.join(names(scene)) or 'no items'}.")


def names(scene: Scene) -> tuple[str, ...]:
    """Names of the objects that edits can speak of, in the order of their arrival (added text is no object)."""
    return tuple(item.name for item in scene.items if item.kind != TEXT)


def taken_cells(scene: Scene) -> set[tuple[int, int]]:
    return {place.cell for item in scene.items for place in item.places}


def free_cells(scene: Scene) -> list[tuple[int, int]]:
    """Cells without a copy, in reading order."""
    taken = taken_cells(scene)
    rows, columns = scene.grid
    return [(row, column) for row in range(rows) for column in range(columns) if (row, column) not in taken]


def jittered(cell: tuple[int, int], rng: np.random.Generator, *, plate: bool = False) -> Place:
    """A place in that cell; rounded, so that a scene reads the same everywhere."""
    down, across = PLATE_JITTER if plate else (JITTER, JITTER)
    return Place(cell[0], cell[1], round((2 * rng.random() - 1) * down, 3), round((2 * rng.random() - 1) * across, 3))


def random_scale(rng: np.random.Generator) -> float:
    return round(SCALES[0] + (SCALES[1] - SCALES[0]) * rng.random(), 3)


def pick(rng: np.random.Generator, values):
    """One element, uniformly; much faster than Generator.choice."""
    return values[int(rng.random() * len(values))]


def shuffled(rng: np.random.Generator, values) -> list:
    """The elements in random order."""
    order = list(values)
    for last in range(len(order) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def object_name(kind: str, *, colour: str = "", material: str = "") -> str:
    """'wooden blue ball': material, colour, kind; what is empty is not named."""
    return " ".join(word for word in (material, colour, kind) if word)


def caption(scene: Scene) -> str:
    """'sand: red ball, -, sign K / -, -, wooden blue box': the background, then the cells in reading order, a dash for an empty one.

    Says how things look, whatever sentences may call them; a plastic object and a black glyph go without the word.
    """
    rows, columns = scene.grid
    cells = [["-"] * columns for _ in range(rows)]
    for item in scene.items:
        material = "" if item.material == PLAIN_MATERIAL else item.material
        look = object_name(item.kind, colour="" if item.colour == INK else item.colour, material=material)
        for place in item.places:
            cells[place.row][place.column] = f"{look} {item.glyph}".strip()
    return f"{scene.background}: " + " / ".join(", ".join(row) for row in cells)


def sample(rng: np.random.Generator, *, grid: tuple[int, int] = (3, 3), with_sign: bool | None = None) -> Scene:
    """A start: 2..4 items of different kinds and colours, some with a material, few with copies; at least three cells stay free.

    with_sign: True or False settles whether a sign is among the items; None leaves it to chance (one in three).
    """
    amount = 2 + int(rng.random() * 3)
    sign = with_sign if with_sign is not None else rng.random() < 1 / 3
    kinds = shuffled(rng, OBJECT_KINDS)[: amount - 1 if sign else amount]
    colours = shuffled(rng, COLOURS)
    cells = shuffled(rng, [(row, column) for row in range(grid[0]) for column in range(grid[1])])
    spare = len(cells) - 3 - amount  # copies that may be placed beside one of each
    items = []
    for kind, colour in zip(kinds, colours, strict=False):
        material = pick(rng, MATERIALS[1:]) if rng.random() < 0.3 else ""
        count = min(1 + spare, 2 + int(rng.random() * 2)) if rng.random() < 0.15 else 1
        spare -= count - 1
        places = tuple(jittered(cells.pop(), rng) for _ in range(count))
        items.append(
            Item(
                kind=kind,
                name=object_name(kind, colour=colour, material=material),
                places=places,
                colour=colour,
                material=material or PLAIN_MATERIAL,
                scale=random_scale(rng),
            )
        )
    if sign:
        items.append(Item(kind=SIGN, name=SIGN, places=(jittered(cells.pop(), rng, plate=True),), glyph=pick(rng, GLYPHS)))
    return Scene(background=pick(rng, BACKGROUNDS), items=tuple(items), grid=grid, phase=int(rng.random() * PHASES))
