"""Plans of one config, and of its variations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from editr2_jax.plan import compiled, told
from editr2_jax.plan.phases import Subject
from editr2_jax.plan.topology import Topology
from editr2_jax.runtime import chips

KNOBS = {  # what can be varied -> the settings that it sets
    "rows": ("step.rows", "evaluate.rows"),
    "remat": ("model.remat",),
    "attention": ("model.attention",),
    "data": ("mesh.data",),
    "fsdp": ("mesh.fsdp",),
    "tensor": ("mesh.tensor",),
    "train": ("mesh.train",),
    "rollout": ("mesh.rollout",),
    "words": ("mesh.words",),
}


def variants(config: Any, text: str) -> Iterator[tuple[str, Any]]:
    """(what is varied, in words; the config) for every combination of `rows=24,48;remat=full,attention`; the config alone for no text.

    Raises ValueError for a knob that is not in KNOBS.
    """
    if not text:
        yield "", config
        return
    choices = []
    for part in text.split(";"):
        name, _, values = part.partition("=")
        if name not in KNOBS or not values:
            raise ValueError(f"--search: {part!r} is no KNOB=A,B; the knobs are {', '.join(KNOBS)}.")
        choices.append([(name, value) for value in values.split(",")])
    for combination in itertools.product(*choices):
        varied = config.copy_and_resolve_references()
        with varied.unlocked():
            for name, value in combination:
                for setting in KNOBS[name]:
                    section, last = setting.split(".")
                    varied[section][last] = type(varied[section][last])(value)
        yield ", ".join(f"{name}={value}" for name, value in combination), varied


def plan(
    config: Any,
    topology: Topology,
    *,
    size: tuple[int, int],
    only: Sequence[str],
    say: Callable[[str], None],
    command: str,
    keep: Path | None = None,
) -> tuple[dict[str, Any], bool]:
    """Compiles the phases, telling of each as it comes; everything as JSON, and whether all of it fits."""
    subject, chip = Subject(config, topology, size=size), chips.of(topology.generation)
    mesh = " x ".join(f"{axis} {n}" for axis, n in subject.layouts.train.mesh.shape.items() if n > 1) or "one device"
    laid = f"updates {subject.layouts.train.name}, play {subject.layouts.rollout.name}, words {subject.layouts.words.name}"
    say(
        f"{topology.name} ({len(topology.devices)} devices; {topology.compiler}): mesh {mesh}, {laid}; {subject.rows} rollouts a pass, "
        f"pictures of {size[1]}x{size[0]}, {subject.turns} turns, group {subject.group}\n{told.HEADER}"
    )
    found = []
    for one in compiled.run(subject, tuple(only), keep=keep):
        found.append(one)
        say(told.row(one, chip))
    good = not any(one.too_much for one in found) and (chip is None or all(told.fits(one, chip) for one in found))
    if not only:
        say("\n".join([*told.summary(found, subject, chip), told.LEGEND]))
    return told.as_json(found, subject, None if chip is None else chip, command=command), good
