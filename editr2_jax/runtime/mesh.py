"""The device mesh, and the table from logical axis names to mesh axes.

Code that places arrays speaks of logical axes ("batch", "width"); this table alone says which mesh axis cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

LOGICAL_AXES: dict[str, str | None] = {
    "batch": "data",  # rows: sessions, rollouts, training samples
    "sequence": None,
    "layers": None,
    "width": None,
    "heads": None,
    "inner": None,
    "vocabulary": None,
    "rank": None,
}


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data" over `devices`, by default over all there are. Axes are Auto: the compiler places what we do not."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """How an array with these logical axes lies on the mesh: `sharding(mesh, "batch", None)`; with no axes, a copy on every device.

    Raises ValueError for a name that is not in LOGICAL_AXES.
    """
    for name in axes:
        if name is not None and name not in LOGICAL_AXES:
            raise ValueError(
                f"mesh.sharding: unknown logical axis {name!r}; known are {', '.join(LOGICAL_AXES)}, or None for an axis that is not cut."
            )
    return NamedSharding(mesh, PartitionSpec(*(LOGICAL_AXES[name] if name else None for name in axes)))


def check_divides(mesh: Mesh, name: str, axis: str, size: int) -> None:
    """Raise ValueError unless the mesh cuts `size` evenly along a logical axis; `name` is what the message calls it.

    Called when a run is assembled: flax 0.12.8 drops an axis that does not divide without a word.
    """
    cut_by = sharding(mesh, axis).spec[0]
    parts = 1 if cut_by is None else mesh.shape[cut_by]
    if size % parts:
        raise ValueError(f"{name} is {size}, which {parts} devices along {axis!r} cannot share evenly; make it a multiple of {parts}.")
