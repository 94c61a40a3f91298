"""The table of accelerators: names that jax uses, and per-device figures that add up to a chip's."""

import types

import pytest

from editr2_jax.runtime import chips


def devices(kind: str, count: int):
    return [types.SimpleNamespace(device_kind=kind)] * count


NAMES = {
    "TPU v4": "v4 megacore",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "v5e": "v5e",
}


@pytest.mark.parametrize(("kind", "name"), NAMES.items())
def test_a_chip_is_found_by_generation_and_by_what_jax_calls_its_devices(kind, name):
    assert chips.of(kind).name == name


@pytest.mark.parametrize("kind", ["cpu", "TPU v3", "TPU v5 heavy", "NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090", ""])
def test_what_is_not_in_the_table_is_not_guessed(kind):
    assert chips.of(kind) is None


def test_names_are_given_once():
    names = [name for chip in chips.TABLE for name in (chip.name, *chip.kinds)]
    assert len(names) == len(set(names))


def test_two_devices_of_tpu7x_are_a_chip():
    assert chips.peak(devices("TPU7x", 8)) == pytest.approx(4 * 2307e12)
    chip = chips.of("tpu7x")
    assert (chip.devices * chip.bandwidth, chip.devices * chip.links) == pytest.approx((7380e9, 600e9))
    assert chips.of("v4").peak * 2 == chips.of("TPU v4").peak == 275e12


def test_wires_are_counted_in_one_direction():
    assert [8e-9 * chips.of(name).links for name in ("v5e", "v5p")] == pytest.approx([1600, 4800])  # Gbit/s, as older tables have them


def test_the_peak_of_a_cpu_is_unknown_unless_told():
    assert chips.peak(devices("cpu", 4)) is None
    assert chips.peak(devices("cpu", 4), peak_tflops=0.5) == pytest.approx(2e12)
    assert chips.peak([*devices("TPU v5 lite", 1), *devices("cpu", 1)]) is None
