"""The device mesh, and the tables from logical axis names to mesh axes.

Code that places arrays speaks of logical axes ("batch", "width"); a table of `LAYOUTS` alone says which mesh axes cut them. One mesh serves
every phase of a run; phases may differ in layout: what is gathered layer by layer in an update may lie ready on every chip in play.

    fsdp       rows over all chips; every weight cut along its width over all of them, and gathered layer by layer where it is used
    tensor     rows over data and fsdp; heads, MLP and vocabulary cut over tensor, width over fsdp
    resident   as tensor, but a chip keeps its slice of the heads whole: nothing is gathered, and copies stand along data and fsdp

Adapters are cut along their long side over fsdp and tensor in every layout that learns; their other side is the rank, which stays whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "sequence")

_WHOLE = {"layers": (), "rank": (), "sequence": ("sequence",)}
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "fsdp": _WHOLE
    | {
        "batch": ("data", "fsdp", "tensor"),
        "width": ("fsdp", "tensor"),
        "heads": (),
        "inner": (),
        "vocabulary": (),
        "adapter": ("fsdp", "tensor"),
    },
    "tensor": _WHOLE
    | {
        "batch": ("data", "fsdp"),
        "width": ("fsdp",),
        "heads": ("tensor",),
        "inner": ("tensor",),
        "vocabulary": ("tensor",),
        "adapter": ("fsdp", "tensor"),
    },
    "resident": _WHOLE
    | {
        "batch": ("data", "fsdp"),
        "width": (),
        "heads": ("tensor",),
        "inner": ("tensor",),
        "vocabulary": ("tensor",),
        "adapter": (),
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices of a run stand, and which layout each half of a step takes."""

    data: int = 1  # copies of everything
    fsdp: int = -1  # -1: whatever is left
    tensor: int = 1
    sequence: int = 1  # context slots
    train: str = "fsdp"  # one of LAYOUTS
    rollout: str = ""  # one of LAYOUTS; empty: that of train, so that the frozen weights live once
    words: str = ""  # one of LAYOUTS, for intents; empty: that of rollout. Another one is taken up at the start of every turn's intents

    def __post_init__(self):
        for name in ("train", "rollout", "words"):
            if (value := getattr(self, name)) not in LAYOUTS and (value or name == "train"):
                raise ValueError(f"MeshConfig.{name} is {value!r}; choose one of {', '.join(LAYOUTS)}.")
        sizes = [getattr(self, axis) for axis in AXES]
        if sum(size == -1 for size in sizes) > 1 or any(size < 1 and size != -1 for size in sizes):
            told = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
            raise ValueError(f"MeshConfig: {told}; give positive sizes, and -1 to at most one axis, which then takes what is left.")

    def sizes(self, devices: int) -> tuple[int, ...]:
        """The mesh's sizes in the order of AXES. Raises ValueError where they do not multiply to the number of devices."""
        sizes = [getattr(self, axis) for axis in AXES]
        given = math.prod(size for size in sizes if size != -1)
        sizes = [devices // given if size == -1 else size for size in sizes]
        if math.prod(sizes) != devices:
            told = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
            raise ValueError(f"the mesh {told} does not hold {devices} devices; change the sizes in the section mesh, or set one to -1.")
        return tuple(sizes)


def make(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices`, by default over all there are. Axes are Auto: the compiler places what we do not."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = config.sizes(len(devices))
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    except (ValueError, NotImplementedError):  # a torus that cannot be cut that way: neighbours may lie apart, nothing else changes
        return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=types)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh read through one of the tables: where arrays with logical axes lie."""

    mesh: Mesh
    name: str

    def axes(self, logical: str | None) -> tuple[str, ...]:
        """The mesh axes that cut a logical axis; none for None. Raises ValueError for a name that the table does not have."""
        if logical is None:
            return ()
        table = LAYOUTS[self.name]
        if logical not in table:
            known = ", ".join(table)
            raise ValueError(f"layout {self.name!r}: unknown logical axis {logical!r}; known are {known}, or None for one not cut.")
        return table[logical]

    def parts(self, logical: str | None) -> int:
        """In how many pieces a logical axis is cut."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes(logical))

    def spec(self, *logical: str | None) -> PartitionSpec:
        """The partition of an array with these logical axes. Mesh axes of size 1 are left out: they cut nothing."""
        cut = (tuple(axis for axis in self.axes(name) if self.mesh.shape[axis] > 1) for name in logical)
        return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in cut))

    def sharding(self, *logical: str | None) -> NamedSharding:
        """How an array with these logical axes lies: `sharding("batch", None)`; with no axes, a copy on every device."""
        return NamedSharding(self.mesh, self.spec(*logical))

    def gathered(self, *logical: str | None) -> NamedSharding:
        """Where a weight with these axes lies while it is used: whole along the axes that cut the rows, cut as ever along the others."""
        rows = self.axes("batch")
        cut = (tuple(axis for axis in self.axes(name) if axis not in rows and self.mesh.shape[axis] > 1) for name in logical)
        return NamedSharding(self.mesh, PartitionSpec(*(axes or None for axes in cut)))

    def constrain(self, x: Any, *logical: str | None) -> Any:
        """Inside a compiled function: x, told where it lies; axes that are not named are not cut. A tree is told leaf by leaf.

        An axis that its devices cannot share evenly is whole on each: a few rows played by hand need no more. What a run does all the time
        is checked when it is assembled (`check_divides`).
        """

        def told(leaf):
            names = (name if size % self.parts(name) == 0 else None for name, size in zip(logical, leaf.shape, strict=False))
            return jax.lax.with_sharding_constraint(leaf, self.sharding(*names))

        return jax.tree.map(told, x)

    def repeated_share(self, sizes: Sequence[int]) -> float:
        """Of batches of so many rows: the share of rows that lie whole on every device, since their batch cannot be cut evenly."""
        parts = self.parts("batch")
        return sum(size for size in sizes if size % parts) / max(sum(sizes), 1)

    def check_divides(self, name: str, logical: str, size: int) -> None:
        """Raise ValueError unless a logical axis of this size is cut evenly; `name` is what the message calls it.

        Called when a run is assembled: flax 0.12.8 drops an axis that does not divide without a word.
        """
        if size % (parts := self.parts(logical)):
            axes = " x ".join(f"{axis} {self.mesh.shape[axis]}" for axis in self.axes(logical))
            raise ValueError(
                f"{name} is {size}, which layout {self.name!r} cuts along {logical!r} into {parts} pieces ({axes}); "
                f"make it a multiple of {parts}, or choose another mesh."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layouts:
    """The layouts of one run."""

    train: Layout
    rollout: Layout
    words: Layout

    @property
    def differ(self) -> bool:
        """Whether the frozen weights live twice; what words want is made from those of play, for a program's time."""
        return self.train != self.rollout

    def __iter__(self) -> Iterator[Layout]:
        return iter((self.train, self.rollout, self.words))


def layouts(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Layouts | None:
    """The layouts of a run over `devices`, by default all there are; None for a single device, which needs none."""
    made = make(config, devices)
    if made.size == 1:
        return None
    return choose(config, made)


def choose(config: MeshConfig, mesh: Mesh) -> Layouts:
    """The layouts that a config names, over a mesh."""
    rollout = config.rollout or config.train
    return Layouts(train=Layout(mesh, config.train), rollout=Layout(mesh, rollout), words=Layout(mesh, config.words or rollout))


def constrain(layout: Layout | None, x: Any, *logical: str | None) -> Any:
    """`layout.constrain`; without a layout, x."""
    return x if layout is None else layout.constrain(x, *logical)
