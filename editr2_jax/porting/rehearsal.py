"""The way of a checkpoint through all tools, on numbers of no meaning: fake, convert, load sharded, export, compare.

Each stage is a command in a process of its own, so that its peak of memory is its own. Loading is tried twice: as each of n devices loads
its share, one device after the other, and leaf by leaf as global arrays over all of them; every byte is compared with the other layout's.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from editr2_jax.porting import bagel_weights, leaves
from editr2_jax.porting.leaves import Leaf
from editr2_jax.porting.meter import Meter, gigabytes

_ROOM = 2.1  # checkpoints that are on the disk at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage took."""

    name: str
    seconds: float
    peak: int  # bytes of the largest resident set


def sharding_over(devices: Sequence[jax.Device]) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Cuts every parameter along its longest axis that the devices can share evenly, layers aside; what has none is copied."""
    mesh = Mesh(np.array(devices), ("fsdp",), axis_types=(AxisType.Auto,))

    def of(path: str, shape: tuple[int, ...]) -> NamedSharding:
        first = int(".layers." in path)
        axes = [axis for axis in range(first, len(shape)) if shape[axis] % len(devices) == 0 and shape[axis] >= len(devices)]
        spec: list[str | None] = [None] * len(shape)
        if axes:
            spec[max(axes, key=lambda axis: shape[axis])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return of


def load_shares(checkpoint: str | Path, against: str | Path | None, *, say: Callable[[str], None]) -> list[str]:
    """Loads what each device holds, device by device, keeping one device's share at a time; names that differ from the other folder."""
    ours, theirs = _both(checkpoint, against)
    devices, different = jax.devices(), set()
    sharding = sharding_over(devices)
    for device in devices:
        held, size = [], 0
        for path, leaf in ours.leaves.items():
            spread = sharding(path, leaf.shape)
            held.append(leaves.of_device(leaf, spread, device))
            size += held[-1].nbytes
            if theirs is not None:
                index = spread.devices_indices_map(leaf.shape)[device]
                (block,) = theirs.leaves[path].blocks([index])
                different |= set() if same(np.asarray(held[-1]), block) else {path}
        say(f"  device {device.id} of {len(devices)}: its {gigabytes(size)} of {gigabytes(ours.nbytes)} are there")
    ours.check()
    return sorted(different)


def load_leaves(checkpoint: str | Path, against: str | Path | None, *, say: Callable[[str], None]) -> list[str]:
    """Loads every parameter as a global array over all devices, one at a time; names that differ from the other folder."""
    ours, theirs = _both(checkpoint, against)
    different, done = [], Meter(ours.nbytes, say)
    sharding = sharding_over(jax.devices())
    for path, leaf in ours.leaves.items():
        array = leaves.place(leaf, sharding(path, leaf.shape))
        if theirs is not None and not all(_same_shard(shard, theirs.leaves[path]) for shard in array.addressable_shards):
            different.append(path)
        done(path, array.nbytes)
        array.delete()
    ours.check()
    return different


def run(out: str | Path, model: Sequence[str], *, shards: int = 1, devices: int = 8, fake_size: int, keep: bool = False) -> Iterator[Stage]:
    """Runs the stages below `out`, yielding what each took; everything is removed at the end, also after an error.

    Args:
        model: flags of `port fake` that say which model.
        fake_size: bytes of the checkpoint, to see beforehand whether the disk has room.
        keep: leaves the folders there.

    Raises ValueError for a folder that exists, a disk without room, and a stage that fails.
    """
    out = Path(out).expanduser().absolute()
    if out.exists():
        raise ValueError(f"{out}: exists; choose another --out, it is removed at the end.")
    out.mkdir(parents=True)
    try:
        free = shutil.disk_usage(out).free
        if free < _ROOM * fake_size:
            raise ValueError(f"{out}: {gigabytes(free)} are free, the rehearsal takes {gigabytes(int(_ROOM * fake_size))} at its height.")
        first, second, last, digests = (str(out / name) for name in ("official", "orbax", "exported", "digests.json"))
        yield _stage("fake", [f"--out={first}", f"--digests={digests}", f"--shards={shards}", *model])
        yield _stage("convert", [f"--checkpoint={first}", f"--out={second}", "--to=orbax"])
        for name, checkpoint, against in (("safetensors", first, second), ("orbax", second, first)):
            more = [f"--checkpoint={checkpoint}", f"--against={against}", f"--devices={devices}"]
            yield _stage("load", [*more, "--by=device"], f"load {name}, {devices} devices one by one")
            yield _stage("load", [*more, "--by=leaf"], f"load {name}, global arrays leaf by leaf")
        if not keep:
            shutil.rmtree(first)  # its digests stay; the disk need not hold three copies
        yield _stage("export", [f"--checkpoint={second}", f"--out={last}", f"--shards={shards}"])
        yield _stage("compare", [f"--checkpoint={last}", f"--digests={digests}"])
    finally:
        if not keep:
            shutil.rmtree(out, ignore_errors=True)


def table(stages: Sequence[Stage]) -> str:
    """The stages as a Markdown table."""
    rows = [f"| {stage.name} | {stage.seconds:.0f} | {stage.peak / 1e9:.2f} |" for stage in stages]
    return "\n".join(["| stage | seconds | peak host memory, GB |", "|---|---|---|", *rows])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are of one type and equal to the bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    bits = f"u{a.dtype.itemsize}"
    return bool(np.array_equal(np.ascontiguousarray(a).view(bits), np.ascontiguousarray(b).view(bits)))


def _both(checkpoint, against) -> tuple[bagel_weights.Opened, bagel_weights.Opened | None]:
    return bagel_weights.opened(checkpoint), None if against is None else bagel_weights.opened(against)


def _same_shard(shard, leaf: Leaf) -> bool:
    (block,) = leaf.blocks([shard.index])
    return same(np.asarray(shard.data), block)


def _stage(verb: str, flags: Sequence[str], name: str | None = None) -> Stage:
    """Runs one command to its end; its output goes where ours goes."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "editr2_jax", "port", verb, *flags])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    if process.returncode:
        raise ValueError(f"port {verb} {' '.join(flags)}: ended with status {process.returncode}; its last lines say why.")
    return Stage(name=name or verb, seconds=time.monotonic() - begun, peak=usage.ru_maxrss * 1024)
