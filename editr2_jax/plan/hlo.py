"""What a compiled program moves, read off its own text: collectives and memory traffic of one chip, loops counted as often as they run.

XLA's cost analysis counts a loop's body once, whatever its length, and a kernel as nothing; the optimised program text says how often a
loop runs (the constant that its condition compares with), what every instruction reads and writes, and in which memory: buffers in space
S(1) are the chip's fast memory and cost no traffic. A loop that may stop early (intents) is counted to its limit.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "token": 0}
_SHAPE = re.compile(r"\b(pred|bf16|f8e4m3fn|f8e5m2|[sufc]\d+|token)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_ALIAS = "output_to_operand_aliasing={{}: (0, {})}"
_BY_ELEMENT = {"reduce", "all-reduce", "reduce-scatter", "sort", "scatter", "reduce-window", "map", "select-and-scatter"}
_LOOPS = ("while", "conditional", "call")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all", "partition-id"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the text."""

    name: str
    opcode: str
    shape: str  # of the result
    operands: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Moved:
    """Bytes of one chip in one call of a program."""

    memory: float  # read from and written to the chip's main memory
    collectives: Mapping[str, float]  # kind -> bytes that the chip sends

    @property
    def wires(self) -> float:
        return sum(self.collectives.values())


def moved(text: str) -> Moved:
    """Reads an optimised program's text (`compiled.as_text()`)."""
    computations, entry = _parse(text)
    traffic, by_channel = 0.0, {}
    for name, times in _reached(computations, entry).items():
        around = {one.name: one for one in computations[name]}
        traffic += times * sum(_traffic(one, computations, around) for one in computations[name])
        for channel, (kind, size) in _collectives(name, computations).items():
            # Pieces of one that is hidden behind an inner loop stand there too: it happens as often as where it stands least often.
            before = by_channel.get(channel, (kind, math.inf))[1]
            by_channel[channel] = kind, min(before, times * size)
    sent: dict[str, float] = collections.defaultdict(float)
    for kind, size in by_channel.values():
        sent[kind] += size
    return Moved(memory=traffic, collectives=dict(sent))


def _collectives(name: str, computations: Mapping[str, list[Instruction]]) -> dict[Any, tuple[str, float]]:
    """The collectives of one pass through a computation and its fusions, by channel: an asynchronous one is spelt out in its start, in
    every piece of work that it is hidden behind, and in its end, under one channel."""
    found, todo = {}, [name]
    while todo:
        for one in computations[todo.pop()]:
            kind = next((kind for kind in COLLECTIVES if one.opcode in (kind, f"{kind}-start")), None)
            if kind:
                channel = _number(one.text, "channel_id")
                found[one.name if channel is None else channel] = kind, _sent(kind, one)
            elif one.opcode not in _LOOPS and one.opcode not in _BY_ELEMENT:
                todo += [called for called in _CALLED.findall(one.text) if called in computations]
    return found


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
            computations[current] = []
            if line.startswith("ENTRY"):
                entry = current
        elif line == "}":
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            computations[current].append(_instruction(found[1], found[2], line))
    return computations, entry


def _instruction(name: str, rest: str, line: str) -> Instruction:
    """`rest`: SHAPE OPCODE(OPERANDS), ATTRIBUTES; a tuple's shape stands in brackets."""
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    close = _closing(rest, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[start:close]))
    return Instruction(name=name, opcode=rest[:start], shape=shape, operands=operands, text=line)


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"this is no line of a program: {text[:120]!r}")


def _reached(computations: Mapping[str, list[Instruction]], entry: str) -> dict[str, float]:
    """Entry, loop bodies, branches (their instructions go through memory; the insides of a fusion do not) -> how often they run."""
    times: dict[str, float] = collections.defaultdict(float)

    def visit(name: str, count: float) -> None:
        times[name] += count
        for one in computations[name]:
            if one.opcode in _LOOPS:
                for called, factor in _calls(one, computations):
                    visit(called, count * factor)

    visit(entry, 1.0)
    return times


def _calls(one: Instruction, computations: Mapping[str, list[Instruction]]) -> Iterator[tuple[str, float]]:
    if one.opcode == "while":
        body, condition = re.search(r"body=%?([\w.\-]+)", one.text)[1], re.search(r"condition=%?([\w.\-]+)", one.text)[1]
        yield body, _trips(computations[condition], computations[body])
        return
    yield from ((called, 1.0) for called in _CALLED.findall(one.text) if called in computations)
    for branches in re.findall(r"branch_computations=\{([^}]*)\}", one.text):
        yield from ((name.strip().lstrip("%"), 1.0) for name in branches.split(","))


def _trips(condition: list[Instruction], body: list[Instruction]) -> float:
    """How often a loop runs: the largest constant that its condition compares with, in steps of what its body adds to that counter (the
    compiler unrolls). 1 where the condition compares with no constant."""
    limit = max((value for one in condition if (value := _constant(one)) is not None), default=1)
    read = (one for one in condition if one.opcode == "get-tuple-element" and one.shape[1:5] == "32[]")
    counter = next((_number(one.text, "index") for one in read), None)
    if counter is None or not body or counter >= len(body[-1].operands):
        return float(limit)
    lines, step = {one.name: one for one in body}, 0
    line = lines.get(body[-1].operands[counter])
    while line is not None and line.opcode == "add":
        step += sum(value for name in line.operands if name in lines and (value := _constant(lines[name])) is not None)
        line = next((lines[name] for name in line.operands if name in lines and _constant(lines[name]) is None), None)
    return float(-(-limit // max(step, 1)))


def _constant(one: Instruction) -> int | None:
    found = re.search(r"[su]32\[\]\S* constant\((\d+)\)", one.text)
    return int(found[1]) if found else None


def _sent(kind: str, one: Instruction) -> float:
    """Bytes that a chip sends, for n chips in a group and a result of r bytes: all-gather r (n-1)/n, all-reduce twice that,
    reduce-scatter r (n-1)."""
    result = _size(_result(one), fast=True)
    if kind == "collective-permute":
        return result
    n = _group(one.text)
    share = (n - 1) / n
    return {"all-gather": share, "all-reduce": 2 * share, "reduce-scatter": n - 1, "all-to-all": share}[kind] * result


def _result(one: Instruction) -> str:
    """The shape of what a collective gives. Its start has a pair (operands, results) for a shape, each a tuple where several go together;
    that of an all-reduce has the results alone."""
    if one.opcode.endswith("-start") and one.opcode != "all-reduce-start" and one.shape.startswith("("):
        parts = _elements(one.shape)
        return parts[1] if len(parts) > 1 else one.shape
    return one.shape


def _elements(shape: str) -> list[str]:
    """The elements of a tuple's shape, which may be tuples."""
    found, depth, begin = [], 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (depth == 1 and letter == ",") or (not depth and i):
            found.append(shape[begin:i].strip())
            begin = i + 1
    return found


def _group(text: str) -> int:
    """Chips in a collective's group. Raises ValueError for a spelling that is not known: a guess would be a wrong figure."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*)? \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    raise ValueError(f"plan cannot tell how many chips take part in this: {text.strip()[:200]}; its figures would be wrong.")


def _traffic(one: Instruction, computations: Mapping[str, list[Instruction]], around: Mapping[str, Instruction]) -> float:
    """Bytes that an instruction reads and writes in main memory."""
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0.0
    operands = [around[name].shape for name in one.operands if name in around]
    if one.opcode == "dynamic-slice":
        return 2 * _size(one.shape)
    if one.opcode == "dynamic-update-slice":
        return 2 * _size(operands[1]) if len(operands) > 1 else _size(one.shape)
    if one.opcode == "fusion" and (called := _CALLED.search(one.text)) and called[1] in computations:
        return _fused(one, computations[called[1]], operands, computations)
    return _size(one.shape) + sum(map(_size, operands))


def _fused(one: Instruction, inside: list[Instruction], operands: list[str], computations: Mapping[str, list[Instruction]]) -> float:
    """A fusion reads of an operand what it slices out of it, and writes of a buffer what it updates of it. What it only passes on, such as
    the buffers of a collective that is under way behind it, costs nothing."""
    numbers = {line.name: _number_in(line, "parameter") for line in inside if line.opcode == "parameter"}
    read = sum(min(_read(name, inside, computations), _size(operands[k])) for name, k in numbers.items() if k < len(operands))
    return read + _written(inside, computations)


def _read(name: str, inside: list[Instruction], computations: Mapping[str, list[Instruction]]) -> float:
    """Bytes that a computation reads of one of its values; infinite where it reads all of it."""
    total = 0.0
    for use in (line for line in inside if name in line.operands):
        if use.opcode == "dynamic-slice" and use.operands[0] == name:
            total += _size(use.shape, fast=True)
        elif use.opcode == "bitcast" or _ALIAS in use.text:  # another look at the same bytes, or their tiles turned while they are read
            total += _read(use.name, inside, computations)
        elif use.opcode == "fusion" and (called := _CALLED.search(use.text)) and called[1] in computations:
            within = computations[called[1]]
            for place in (k for k, operand in enumerate(use.operands) if operand == name):
                total += sum(_read(line.name, within, computations) for line in within if _number_in(line, "parameter") == place)
        elif not (use.opcode == "tuple" or _in_place(use, name) or use.opcode.removesuffix("-start") in COLLECTIVES):
            return math.inf
    return total


def _in_place(use: Instruction, name: str) -> bool:
    return use.opcode == "dynamic-update-slice" and use.operands[0] == name


def _written(inside: list[Instruction], computations: Mapping[str, list[Instruction]]) -> float:
    """Bytes of what a computation makes: of its results, those that are not passed on, and of updated buffers the update alone."""
    lines, root = {line.name: line for line in inside}, inside[-1]
    made = [lines[name] for name in root.operands if name in lines] if root.opcode == "tuple" else [root]
    total = 0.0
    for line in made:
        while line.opcode == "bitcast" and line.operands[0] in lines:
            line = lines[line.operands[0]]
        if line.opcode == "dynamic-update-slice":
            total += _size(lines[line.operands[1]].shape, fast=True) if line.operands[1] in lines else 0.0
        elif line.opcode == "fusion" and (called := _CALLED.search(line.text)) and called[1] in computations:
            total += min(_written(computations[called[1]], computations), _size(line.shape))
        elif line.opcode not in ("parameter", "get-tuple-element", "constant") and line.opcode.removesuffix("-start") not in COLLECTIVES:
            total += _size(line.shape)
    return total


def _number_in(line: Instruction, opcode: str) -> int | None:
    found = re.search(rf" {opcode}\((\d+)\)", line.text)
    return int(found[1]) if found else None


def _size(shape: str, *, fast: bool = False) -> float:
    """Bytes of a shape in main memory, or with `fast` in any; a tuple's are added up."""
    total = 0.0
    for kind, dims, layout in _SHAPE.findall(shape):
        if fast or "S(1)" not in layout:
            total += _BYTES.get(kind, 4) * math.prod(int(size) for size in dims.split(",") if size)
    return total


def _number(text: str, name: str) -> int | None:
    found = re.search(rf"{name}=(\d+)", text)
    return int(found[1]) if found else None
