"""Figures of accelerators, from their makers' pages: what a share of the peak and a roofline are measured against.

    Cloud TPU: docs.cloud.google.com/tpu/docs/{v4, v5e, v5p, v6e, tpu7x}, read 2026-11
    NVIDIA: data sheets of A100, H100 and H200 (SXM), dense rates

Makers speak of chips, jax of devices: a chip of tpu7x is two devices, and so is one of v4 where programs are compiled for a v4 topology
(a v4 machine joins its two cores to one device). Everything below is of one DEVICE. Wires are counted in one direction: Google's tables
gave bits per second one way (v5e 1600 Gbit/s) and now give bytes both ways (v5e 400 GB/s), which is the same.
Peaks are for products of bfloat16 with float32 sums.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of accelerator; figures of a device, in bytes and seconds."""

    name: str  # as topologies and product pages call it
    kinds: tuple[str, ...]  # jax's device_kind of such devices
    devices: int = 1  # per chip
    peak: float  # FLOP/s, bfloat16
    memory: float  # bytes that programs may use
    bandwidth: float  # bytes/s of that memory
    links: float  # bytes/s that leave over all wires to other chips; 0 without any


def _tpu(name: str, *kinds: str, devices: int = 1, tflops: float, gib: float, gb_s: float, both_ways_gb_s: float) -> Chip:
    """From figures of a chip, but gib, which is of a device."""
    return Chip(
        name=name,
        kinds=kinds,
        devices=devices,
        peak=tflops * 1e12 / devices,
        memory=gib * _GIB,
        bandwidth=gb_s * 1e9 / devices,
        links=both_ways_gb_s * 1e9 / 2 / devices,
    )


def _gpu(name: str, *kinds: str, tflops: float, gb: float, gb_s: float, both_ways_gb_s: float) -> Chip:
    return Chip(name=name, kinds=kinds, peak=tflops * 1e12, memory=gb * 1e9, bandwidth=gb_s * 1e9, links=both_ways_gb_s * 1e9 / 2)


# gib: what the TPU compiler lets a program have, measured with libtpu 0.0.42, where it is a little less than the chip's
TABLE = (
    _tpu("v4", devices=2, tflops=275, gib=15.25, gb_s=1200, both_ways_gb_s=600),
    _tpu("v4 megacore", "TPU v4", tflops=275, gib=30.5, gb_s=1200, both_ways_gb_s=600),
    _tpu("v5e", "TPU v5 lite", "TPU v5e", tflops=197, gib=15.75, gb_s=819, both_ways_gb_s=400),
    _tpu("v5p", "TPU v5p", "TPU v5", tflops=459, gib=95.74, gb_s=2765, both_ways_gb_s=1200),
    _tpu("v6e", "TPU v6 lite", "TPU v6e", tflops=918, gib=31.24, gb_s=1638, both_ways_gb_s=800),
    _tpu("tpu7x", "TPU7x", devices=2, tflops=2307, gib=94.75, gb_s=7380, both_ways_gb_s=1200),
    _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", tflops=312, gb=40, gb_s=1555, both_ways_gb_s=600),
    _gpu("a100-80gb", "NVIDIA A100-SXM4-80GB", tflops=312, gb=80, gb_s=2039, both_ways_gb_s=600),
    _gpu("h100", "NVIDIA H100 80GB HBM3", tflops=989, gb=80, gb_s=3350, both_ways_gb_s=900),
    _gpu("h200", "NVIDIA H200", tflops=989, gb=141, gb_s=4800, both_ways_gb_s=900),
)


def of(name: str) -> Chip | None:
    """The chip of a generation ("v5e") or of jax's device_kind ("TPU v5 lite"); None for one that is not in the table, such as a CPU."""
    return next((chip for chip in TABLE if name == chip.name or name in chip.kinds), None)


def peak(devices: Sequence[Any], *, peak_tflops: float = 0.0) -> float | None:
    """FLOP/s of devices (jax.Device) together; None where one of them is unknown.

    peak_tflops: of one device, told by whoever knows better; 0 asks the table.
    """
    if peak_tflops:
        return len(devices) * peak_tflops * 1e12
    known = [(of(kind), count) for kind, count in kinds(devices).items()]
    return None if any(chip is None for chip, _ in known) else sum(chip.peak * count for chip, count in known)


def kinds(devices: Iterable[Any]) -> dict[str, int]:
    """How many devices there are of each kind."""
    return dict(collections.Counter(device.device_kind for device in devices))
