"""What the phases of a run execute on each of several simulated devices, counted in the compiled programs. Prints as JSON, by phase, what
plan says and what is there; `test_plan.py` runs this file in a process of its own.

    python flops_on_a_mesh.py PHASE,... SECTION.NAME=VALUE ...
"""

import json
import math
import re
import sys
from pathlib import Path

from editr2_jax.cli import common
from editr2_jax.plan import hlo, phases, topology, work

CONFIG = Path(__file__).parents[2] / "configs/tabletop_edit_r2.py"


def sizes(shape: str) -> list[int]:
    return [int(size) for size in re.search(r"\[([\d,]*)\]", shape)[1].split(",") if size]


def product(one: hlo.Instruction, around: dict[str, hlo.Instruction]) -> float:
    """FLOPs of a matrix product or a convolution."""
    left, right = (sizes(around[name].shape) for name in one.operands[:2])
    if one.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)[1].split(",")
        return 2 * math.prod(sizes(one.shape)) * math.prod(left[int(axis)] for axis in contracted)
    kernel = re.search(r"dim_labels=\w+_(\w+)->\w+", one.text)[1]
    return 2 * math.prod(sizes(one.shape)) * math.prod(right) / right[kernel.index("o")]


def executed(text: str) -> float:
    """FLOPs of one device: of every computation that is reached, and of the fusions in it, as often as it runs."""
    computations, entry = hlo._parse(text)

    def inside(name: str) -> float:
        total, around = 0.0, {one.name: one for one in computations[name]}
        for one in computations[name]:
            assert one.opcode != "custom-call" or "matmul" not in one.text, one.text
            if one.opcode in ("dot", "convolution"):
                total += product(one, around)
            elif one.opcode not in hlo._LOOPS and one.opcode not in hlo._BY_ELEMENT:
                total += sum(inside(called) for called in hlo._CALLED.findall(one.text) if called in computations)
        return total

    return sum(times * inside(name) for name, times in hlo._reached(computations, entry).items())


if __name__ == "__main__":
    names, settings = sys.argv[1].split(","), [tuple(argument.split("=")) for argument in sys.argv[2:]]
    small = [("step.rows", "16"), ("evaluate.rows", "16"), ("data.sessions", "8")]
    subject = phases.Subject(common.load_config(str(CONFIG), [*small, *settings]), topology.of("here"), size=(48, 48))
    found = {}
    for phase in phases.of(subject):
        if phase.name in names:
            traced = phase.trace()
            found[phase.name] = work.flops(traced.jaxpr, subject.sharers(phase.name)), executed(traced.lower().compile().as_text())
    print(json.dumps(found))
