"""A phase compiled, and what the compiler says of it: bytes, and with the chip's figures the least time that it can take.

    need      = what lies there anyway + arguments + temporaries + results - results in the place of arguments + code
    bound     = the slowest of: FLOPs / peak, memory traffic / bandwidth, bytes on the wires / bandwidth      (all overlap)
    no overlap = their sum

The compiler's own memory analysis is the verdict on memory; its "peak" is often below arguments and temporaries, so it is not used.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editr2_jax.plan import hlo, phases, work
from editr2_jax.plan.phases import Phase, Subject
from editr2_jax.policies.dialogue import Played
from editr2_jax.rollouts.player import Weights
from editr2_jax.runtime.chips import Chip
from editr2_jax.training.state import TrainState

_USED = re.compile(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm|\(([\d.]+)([KMG])\) exceeds available HBM \([\d.]+[KMG]\)", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """What a phase needs of one device; times and FLOPs are of one call."""

    name: str
    calls: float  # in one step
    beside: int  # bytes that lie there without being arguments: other weights, moments, rollouts that wait
    arguments: int
    temporaries: int
    results: int  # without those that take an argument's place
    code: int
    flops: float  # executed
    useful: float  # that the method asks for
    memory: float  # bytes read from and written to main memory
    collectives: Mapping[str, float]  # kind -> bytes sent
    compile_seconds: float
    too_much: str = ""  # the compiler's words where it found no room

    @property
    def need(self) -> int:
        """Bytes of the device while the phase runs."""
        return self.beside + self.arguments + self.temporaries + self.results + self.code

    def times(self, chip: Chip) -> dict[str, float]:
        """Seconds that each resource needs for one call."""
        return {
            "compute": self.flops / chip.peak,
            "memory": self.memory / chip.bandwidth,
            "wires": sum(self.collectives.values()) / chip.links if chip.links else 0.0,
        }

    def bound(self, chip: Chip) -> float:
        return max(self.times(chip).values())

    def as_json(self, chip: Chip | None) -> dict[str, Any]:
        told = dataclasses.asdict(self) | {"need": self.need}
        if chip is not None and not self.too_much:
            told |= {"seconds": self.times(chip), "bound_seconds": self.bound(chip), "fits": self.need <= chip.memory}
        return told


def examine(phase: Phase, subject: Subject, *, keep: Path | None = None) -> Examined:
    """Compiles a phase for the subject's topology. A program that does not fit comes back saying so; other errors are raised.

    keep: a folder for the optimised program's text.
    """
    devices, started = len(subject.topology.devices), time.monotonic()
    traced = phase.trace()
    common = {
        "name": phase.name,
        "calls": phase.calls,
        "beside": max(resident(subject) - _held(phase, subject), 0),
        "flops": work.flops(traced.jaxpr, subject.sharers(phase.name)),
        "useful": phase.useful / devices,
    }
    try:
        compiled = traced.lower().compile()
    except Exception as error:  # the compilers' own error classes differ by platform
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        arguments = phases.bytes_of(phase.arguments)
        return Examined(
            **common, arguments=arguments, temporaries=max(_asked_for(str(error)) - arguments, 0), results=0, code=0, memory=0.0,
            collectives={}, compile_seconds=time.monotonic() - started, too_much=_first_line(str(error)),
        )  # fmt: skip
    text = compiled.as_text()
    if keep is not None:
        (keep / f"{phase.name.replace(': ', '_')}.txt").write_text(text)
    m, moved = compiled.memory_analysis(), hlo.moved(text)
    return Examined(
        **common,
        arguments=m.argument_size_in_bytes,
        temporaries=m.temp_size_in_bytes,
        results=m.output_size_in_bytes - m.alias_size_in_bytes,
        code=m.generated_code_size_in_bytes,
        memory=moved.memory,
        collectives=moved.collectives,
        compile_seconds=time.monotonic() - started,
    )


def run(subject: Subject, names: tuple[str, ...] = (), *, keep: Path | None = None) -> Iterator[Examined]:
    """The phases one by one, or those named, each as soon as it is compiled. Raises ValueError for a name that no phase has."""
    found = phases.of(subject)
    if unknown := set(names) - {phase.name for phase in found}:
        raise ValueError(f"--only: there is no phase {', '.join(sorted(unknown))}; this run has {', '.join(p.name for p in found)}.")
    for phase in found:
        if not names or phase.name in names:
            yield examine(phase, subject, keep=keep)


def resident(subject: Subject) -> int:
    """Bytes of a device that a run holds all the time: weights in every layout, the adapter, its moments and averages, rollouts."""
    learn, play, state = subject.learn, subject.play, subject.state()
    total = phases.bytes_of((learn.frozen, state.trainable, state.moments))
    total += phases.bytes_of(learn.trainable) * sum(average.kind != "off" for average in (subject.averages.old, subject.averages.ema))
    if subject.layouts.differ:
        total += phases.bytes_of((play.frozen, play.trainable))
    return total + int(phases.bytes_of(subject.played()) * subject.batches)


def _held(phase: Phase, subject: Subject) -> int:
    """How much of that a phase has among its arguments."""
    if phase.name == "stage":
        return phases.bytes_of(subject.learn.trainable)
    held = [argument for argument in phase.arguments if isinstance(argument, (Weights, Played))]
    held += [(state.trainable, state.moments) for state in phase.arguments if isinstance(state, TrainState)]
    return phases.bytes_of(held)


def _asked_for(message: str) -> int:
    """Bytes of arguments and temporaries that a program without room would have taken, as far as the compiler tells."""
    if not (found := _USED.search(message)):
        return 0
    size, unit = found[1] or found[3], found[2] or found[4]
    return int(float(size) * _UNITS[unit])


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")[:200]
