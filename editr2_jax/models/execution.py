"""How a model is run: nothing here changes what it computes, beyond rounding.

A model is merged from its weights in every compiled function; how that function wants it run is set on the merged model, so one set of
weights serves phases that differ in layout, attention and what they keep for the backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from editr2_jax.models import tiles
from editr2_jax.runtime import mesh
from editr2_jax.runtime.mesh import Layout

ATTENDED = "attended"  # what attention gave (and its denominators, where a kernel made it), by its name in a checkpoint policy
_POLICIES = jax.checkpoint_policies
REMAT: dict[str, Callable | None] = {  # what the backward pass finds; everything else of a layer is computed again
    "none": None,  # everything
    "full": _POLICIES.nothing_saveable,  # the layer's input
    "attention": _POLICIES.save_only_these_names(ATTENDED),  # and what attention gave: its kernels run once forward, once backward
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,  # and every matrix product
}
ATTENTION = (
    "auto",  # the kernel on a TPU where a block is long enough for it, the plain products elsewhere
    "plain",  # scores in memory; in pieces where the slots of a cache are cut over devices
    "kernel",  # as auto on a TPU: for what is compiled elsewhere to run there
    "interpreted",  # the kernel always, interpreted: for tests on other machines
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model runs."""

    unroll: int = 1  # layers per iteration of the layer scan
    remat: str = "none"  # one of REMAT
    attention: str = "auto"  # one of ATTENTION
    tiles: tuple[int, int] = (0, 0)  # queries and keys of a tile of the attention kernel; 0: by models/tiles.py
    layout: Layout | None = None  # None: one device, or wherever the compiler puts things
    platform: str = ""  # that the program is for; empty: the one at hand

    def __post_init__(self):
        for name, known in (("remat", REMAT), ("attention", ATTENTION)):
            if getattr(self, name) not in known:
                raise ValueError(f"Execution.{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if self.unroll < 1:
            raise ValueError(f"Execution.unroll is {self.unroll}; give at least 1.")
        if len(self.tiles) != 2 or any(size < 0 or size % 128 for size in self.tiles):
            raise ValueError(f"Execution.tiles is {self.tiles}; give (queries, keys), each 0 or a multiple of 128.")

    @property
    def on(self) -> str:
        """The platform that the program is for: cpu, tpu, gpu."""
        return self.platform or jax.default_backend()

    @property
    def splits_rows(self) -> bool:
        """Whether rows go through in pieces that fit a CPU's caches: elsewhere, and over many devices, all together."""
        return self.on == "cpu" and self.layout is None

    def slots(self, capacity: int) -> int:
        """Slots of a cache with room for `capacity` tokens: as many as the sequence axis cuts into equal parts, each of which the kernel,
        where it reads them, goes through without padding."""
        parts = self.layout.parts("sequence") if self.layout else 1
        each = -(-capacity // parts)
        return parts * (tiles.slots(each) if self.attention != "plain" and (self.on == "tpu" or self.attention != "auto") else each)

    def constrain(self, x, *logical: str | None):
        """x, told where it lies; see `Layout.constrain`."""
        return mesh.constrain(self.layout, x, *logical)

    def checkpoint(self, layer: Callable) -> Callable:
        """A layer of a scan with its policy for the backward pass."""
        if self.remat == "none":
            return layer
        return jax.checkpoint(layer, prevent_cse=False, policy=REMAT[self.remat])


HERE = Execution()  # on the device at hand, as plainly as it goes
