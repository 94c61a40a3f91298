"""The logical axes of every parameter, by its dotted path: one table for all of a model's weights.

`runtime/mesh.py` says which mesh axes cut a logical axis. A parameter that no row names is refused, so a new one cannot lie anywhere
unnoticed. What is small (norms, biases along the width, the autoencoder, position tables) is whole on every device.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from editr2_jax.runtime.mesh import Layout

Axes = tuple[str | None, ...]

TABLE: tuple[tuple[str, Axes], ...] = (
    (r"decoder\.embed", ("vocabulary", "width")),
    (r"decoder\.lm_head\.w", ("width", "vocabulary")),
    (r"decoder\.layers\.\w+\.[qkv]\.w", ("layers", "width", "heads")),
    (r"decoder\.layers\.\w+\.[qkv]\.b", ("layers", "heads")),
    (r"decoder\.layers\.\w+\.o\.w", ("layers", "heads", "width")),
    (r"decoder\.layers\.\w+\.(gate|up)\.w", ("layers", "width", "inner")),
    (r"decoder\.layers\.\w+\.down\.w", ("layers", "inner", "width")),
    (r"decoder\.layers\.\w+\.\w+_norm\.scale", ("layers", None)),
    (r"decoder\.norm_\w+\.scale", (None,)),
    (r"decoder\.layers\.\w+\.\w+\.lora_a", ("layers", "adapter", "rank")),
    (r"decoder\.layers\.\w+\.\w+\.lora_b", ("layers", "rank", "adapter")),
    (r"latent\.(enter|time_in)\.w", (None, "width")),
    (r"latent\.leave\.w", ("width", None)),
    (r"latent\.time_out\.w", (None, "width")),
    (r"latent\.\w+\.b", (None,)),
    (r"latent\.pos|vit_pos", (None, None)),
    (r"connector\.(enter|leave)\.w", (None, "width")),
    (r"connector\.\w+\.b", (None,)),
    (r"vit\.layers\.([qkvo]|up)\.w", ("layers", "width", None)),
    (r"vit\.layers\.down\.w", ("layers", None, "width")),
    (r"vit\.layers\.(\w+\.b|norm_\d\.(scale|bias))", ("layers", None)),
    (r"vit\.enter\.w|vit\.position", (None, None)),
    (r"vit\.enter\.b|vit\.norm\.(scale|bias)", (None,)),
    (r"vae\..*", ()),
)
_COMPILED = tuple((re.compile(pattern), axes) for pattern, axes in TABLE)


def of(path: str) -> Axes:
    """Logical axes of a parameter; axes beyond those named are whole. Raises ValueError for a path that no row names."""
    for pattern, axes in _COMPILED:
        if pattern.fullmatch(path):
            return axes
    raise ValueError(f"no row of models/logical_axes.py names the parameter {path}; add one that says how it is cut.")


def placing(layout: Layout) -> Callable[[str, tuple[int, ...]], jax.sharding.NamedSharding]:
    """(dotted path, shape) -> where the parameter lives. Raises ValueError for a size that the mesh does not divide."""

    def where(path: str, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        axes = of(path)
        for name, size in zip(axes, shape, strict=False):
            if name is not None:
                layout.check_divides(f"axis {name!r} of {path}", name, size)
        return layout.sharding(*axes)

    return where


def shardings(state: nnx.State, layout: Layout) -> nnx.State:
    """A state like the given one (abstract or real) with a sharding in the place of every array."""
    where = placing(layout)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: where(dotted(path), leaf.shape), state)


def dotted(path: tuple[Any, ...]) -> str:
    """The dotted name of a leaf of an nnx.State."""
    names = [str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path]
    return ".".join(names[:-1] if names[-1] == "value" else names)


def place(state: nnx.State, layout: Layout) -> nnx.State:
    """The state, moved to where the layout puts it. On several processes each must hold equal values, or parts of one global state."""
    return jax.tree.map(jax.device_put, state, shardings(state, layout))


def constrain(state: nnx.State, layout: Layout | None) -> nnx.State:
    """Inside a compiled function: the state, told where the layout puts it; without a layout, as it is."""
    return state if layout is None else jax.tree.map(jax.lax.with_sharding_constraint, state, shardings(state, layout))


def moved(state: nnx.State, layout: Layout) -> nnx.State:
    """Inside a compiled function: the state, brought to another layout. Heads, widths and words that only that layout cuts are exchanged
    first and what it keeps whole is gathered then: asked for both at once, the compiler would make every array whole everywhere."""
    return constrain(constrain(state, dataclasses.replace(layout, name="tensor")), layout)


def gathered(layer: nnx.State, layout: Layout | None) -> nnx.State:
    """Inside a scan over layers: the weight matrices of one layer of an expert, brought together where rows are cut along the same devices.

    Said outright, they are fetched once, in time; left alone, the compiler sends them round in pieces and adds up partial products in
    memory, and takes twice as long to compile it.
    """
    if layout is None:
        return layer

    def whole(path, leaf):
        name = dotted(path)
        if name.rpartition(".")[2] not in ("w", "lora_a", "lora_b"):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, layout.gathered(*of(f"decoder.layers.und.{name}")[1:]))

    return jax.tree_util.tree_map_with_path(whole, layer)


def abstract(state: nnx.State, layout: Layout) -> nnx.State:
    """The shapes, types and shardings of a state: what a program is compiled for, and the target of a load or a restore."""
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, shardings(state, layout))
