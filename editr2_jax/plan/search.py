"""Plans of one config, and of its variations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editr2_jax.plan import compiled, told
from editr2_jax.plan.phases import Subject
from editr2_jax.runtime import chips

KNOBS = {  # what can be varied -> the settings that it sets
    "rows": ("step.rows", "evaluate.rows"),
    "remat": ("model.remat",),
    "attention": ("model.attention",),
    "data": ("mesh.data",),
    "fsdp": ("mesh.fsdp",),
    "tensor": ("mesh.tensor",),
    "sequence": ("mesh.sequence",),
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
                    varied[section][last] = _like(varied[section][last], f"{name}={value}", value)
        yield ", ".join(f"{name}={value}" for name, value in combination), varied


def _like(present: Any, told: str, value: str) -> Any:
    """A value of the type of the present one."""
    try:
        return type(present)(value)
    except ValueError:
        raise ValueError(f"--search: {told} wants values of type {type(present).__name__}, such as {present!r}.") from None


def plan(
    subject: Subject, *, only: Sequence[str], say: Callable[[str], None], command: str, keep: Path | None = None
) -> tuple[dict[str, Any], bool]:
    """Compiles the phases, telling of each as it comes; everything as JSON, and whether all of it fits."""
    topology, chip, size = subject.topology, chips.of(subject.topology.generation), subject.size
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
    return told.as_json(found, subject, chip, command=command, whole=not only), good


def ranked(plans: Sequence[Mapping[str, Any]]) -> str:
    """The plans of a search, as `plan` gives them with what was varied: those that fit first, the quickest step in front."""
    lines = []
    for one in plans:
        if "refused" in one:
            lines.append((2, 0.0, f"{one['varied']}: cannot be"))
            continue
        need, step = max(phase["need"] for phase in one["phases"]) / 2**30, one["step"]
        fits = not any(phase["too_much"] or not phase.get("fits", True) for phase in one["phases"])
        seconds = step["bound"] if step else 0.0
        said = f"at least {seconds:.1f} s a step" if step else "no seconds"
        lines.append((int(not fits), seconds, f"{one['varied']}: {said}, at most {need:.2f} GiB{'' if fits else ', DOES NOT FIT'}"))
    return "\n".join(["", "of these, the best first:", *(line for *_, line in sorted(lines))])
