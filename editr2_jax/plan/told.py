"""A plan in words: one row per phase, what a step takes, whether it fits, and the first knob to turn where it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from editr2_jax.plan.compiled import Examined
from editr2_jax.plan.phases import Subject
from editr2_jax.runtime.chips import Chip

_GIB = 2**30
_WITHOUT_ROWS = ("apply", "stage")  # phases that hold weights alone
HEADER = (
    f"{'phase':<20} {'args':>7} {'temps':>7} {'beside':>7} {'need':>7}  fits {'calls':>6} {'TFLOP':>8} "
    f"{'compute':>9} {'memory':>9} {'wires':>9}  bound by  {'share':>6}"
)
LEGEND = (
    "GiB of one device; beside: weights, moments and rollouts that lie there meanwhile; calls: in one step; TFLOP: executed by one\n"
    "device in one call; compute, memory, wires: seconds of one call at the chip's figures; share: FLOPs that the method asks for, of\n"
    "what the chips could do in the time of the slowest resource."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """A step: the bound (all resources overlap in every phase) and without any overlap; seconds."""

    bound: float
    apart: float
    sessions: int
    devices: int
    useful: float  # FLOPs of one device
    peak: float

    @property
    def sessions_per_hour(self) -> float:
        """Rollouts of whole sessions that are played, scored and learned from."""
        return 3600 * self.sessions / self.bound

    @property
    def share(self) -> float:
        return self.useful / self.peak / self.bound

    def chip_hours(self, chip: Chip, sessions: int = 1000) -> float:
        """Of so many rollouts."""
        return sessions / self.sessions_per_hour * self.devices / chip.devices


def row(found: Examined, chip: Chip | None) -> str:
    """A phase's line."""
    gib = lambda size: f"{size / _GIB:>7.2f}"  # noqa: E731
    start = f"{found.name:<20} {gib(found.arguments)} {gib(found.temporaries)} {gib(found.beside)} {gib(found.need)}"
    if found.too_much:
        return f"{start}  NO    {found.too_much}"
    end = f"{found.calls:>6g} {found.flops / 1e12:>8.2f}"
    if chip is None:
        return f"{start}     - {end}"
    times = found.times(chip)
    slowest = max(times, key=times.get)
    cells = " ".join(f"{seconds:>9.3f}" for seconds in times.values())
    return f"{start}  {'yes' if fits(found, chip) else 'NO ':<4}{end} {cells}  {slowest:<8}  {share(found, chip):>6.1%}"


def fits(found: Examined, chip: Chip) -> bool:
    return not found.too_much and found.need <= chip.memory


def share(found: Examined, chip: Chip) -> float:
    """Useful FLOPs of what the chip could do in the phase's bound."""
    bound = found.bound(chip)
    return found.useful / chip.peak / bound if bound else 0.0


def totals(found: Sequence[Examined], subject: Subject, chip: Chip) -> Totals | None:
    """What a step takes; None where a phase of it did not compile."""
    if any(one.too_much for one in found):
        return None
    return Totals(
        bound=sum(one.calls * one.bound(chip) for one in found),
        apart=sum(one.calls * sum(one.times(chip).values()) for one in found),
        sessions=subject.config.data.sessions * subject.config.data.group,
        devices=len(subject.topology.devices),
        useful=sum(one.calls * one.useful for one in found),
        peak=chip.peak,
    )


def summary(found: Sequence[Examined], subject: Subject, chip: Chip | None) -> list[str]:
    """What stands below the rows."""
    config, lines = subject.config, []
    played = f"{config.data.sessions} sessions x {config.data.group} = {config.data.sessions * config.data.group} rollouts a step"
    if chip is None:
        return [f"{subject.topology.generation}: no figures of this device are known, so there are no seconds; {played}."]
    tight = max(found, key=_tightness)
    verdict = "every phase fits" if all(fits(one, chip) for one in found) else "DOES NOT FIT"
    lines.append(f"{verdict}: at most {tight.need / _GIB:.2f} of {chip.memory / _GIB:.2f} GiB ({tight.name})")
    if not all(fits(one, chip) for one in found):
        lines.append(f"first knob: {knob(found, subject, chip)}")
    if step := totals(found, subject, chip):
        share, hourly = f"at most {step.share:.0%} of the peak", f"{played}: at most {step.sessions_per_hour:.0f} an hour"
        lines.append(
            f"a step: at least {step.bound:.1f} s ({step.apart:.1f} s if nothing overlaps), {share}; {hourly}, "
            f"at least {step.chip_hours(chip):.1f} chip-hours for 1000"
        )
    return lines


def knob(found: Sequence[Examined], subject: Subject, chip: Chip) -> str:
    """The first setting to change for the phase that lacks the most room."""
    worst = max(found, key=_tightness)
    config = subject.config
    if subject.layouts.differ and worst.beside > chip.memory / 3:
        return f"mesh.rollout={config.mesh.train} (one copy of the frozen weights)"
    if worst.name == "gradient" and config.model.remat != "full":
        return "model.remat=full"
    if worst.name.startswith("evaluation"):
        if smaller := _fewer_rows(subject, config.evaluate.rows):
            return f"evaluate.rows={smaller}"
    elif worst.name not in _WITHOUT_ROWS and (smaller := _fewer_rows(subject, subject.rows, group=subject.group)):
        return f"step.rows={smaller}"
    if config.mesh.data > 1:
        return "mesh.data=1, mesh.fsdp=-1 (weights cut over more devices)"
    return "a larger topology" if worst.name in _WITHOUT_ROWS else "a larger topology, fewer turns, or smaller pictures"


def _tightness(one: Examined) -> tuple[bool, int]:
    return bool(one.too_much), one.need


def _fewer_rows(subject: Subject, rows: int, *, group: int = 1) -> int | None:
    """The next smaller batch that groups and devices divide."""
    parts = [group, *(layout.parts("batch") for layout in subject.layouts)]
    return next((fewer for fewer in range(rows - 1, 0, -1) if all(fewer % part == 0 for part in parts)), None)


def as_json(found: Sequence[Examined], subject: Subject, chip: Chip | None, *, command: str, whole: bool = True) -> dict[str, Any]:
    """Everything, for files and tables. whole: all phases are there, so that they add up to a step."""
    step = totals(found, subject, chip) if whole and chip is not None else None
    return {
        "command": command,
        "topology": subject.topology.name,
        "compiler": subject.topology.compiler,
        "devices": len(subject.topology.devices),
        "chip": None if chip is None else dataclasses.asdict(chip),
        "mesh": dict(subject.layouts.train.mesh.shape)
        | {name: getattr(subject.layouts, name).name for name in ("train", "rollout", "words")},
        "size": list(subject.size),
        "rows": subject.rows,
        "phases": [one.as_json(chip) | ({} if chip is None or one.too_much else {"share": share(one, chip)}) for one in found],
        "step": None if step is None else dataclasses.asdict(step) | {"chip_hours_per_1000": step.chip_hours(chip)},
    }
