"""Reads the golden vectors and compares with them, by the rules written in their json.

A test asks for the cases of a group and feeds them to the package's own functions; it depends on a case's arguments, not on its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

TOLERANCE = {"state": 2e-5, "gradient": 1e-4, "rollout": 5e-5}  # of the largest absolute value, against float32 outputs
RATIO_ATOL = 1e-6
TOLERANCE_F64 = 1e-9  # of the largest absolute value, against output_f64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One recorded call: arguments, and arrays by name."""

    group: str
    name: str
    function: str
    args: dict[str, Any]
    tensors: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


def folder() -> Path:
    return Path(os.environ.get("EDITR2_VECTORS") or Path(__file__).parent / "golden" / "flow_rl")


@functools.cache
def _read(directory: Path) -> tuple[Case, ...]:
    arrays = load_file(directory / "vectors.safetensors")
    described = json.loads((directory / "vectors.json").read_text())["cases"]
    return tuple(
        Case(
            group=case["group"],
            name=case["case"],
            function=case["function"],
            args=case["args"],
            tensors={name: arrays[f"{case['group']}.{case['case']}.{name}"] for name in case["tensors"]},
        )
        for case in described
    )


def read() -> tuple[Case, ...]:
    """Every case of the folder."""
    return _read(folder())


def cases(group: str, wanted: Callable[[Case], bool] = lambda case: True) -> list:
    """The group's cases as pytest parameters named `case`, each in both precisions named `precision`."""
    found = [case for case in read() if case.group == group and wanted(case)]
    return [pytest.param(case, bits, id=f"{case.name}-f{bits}") for case in found for bits in (32, 64)]


def each(group: str, wanted: Callable[[Case], bool] = lambda case: True):
    """Decorator: runs test(case, bits) over the group; under bits 64 in a float64 context."""

    def decorate(test):
        @functools.wraps(test)
        def run(case, bits):
            with jax.enable_x64(True) if bits == 64 else contextlib.nullcontext():
                test(case, bits)

        return pytest.mark.golden(pytest.mark.parametrize(("case", "bits"), cases(group, wanted))(run))

    return decorate


def put(value, bits: int) -> jax.Array:
    """A recorded input in the working precision; integers as they are."""
    value = np.asarray(value)
    return jnp.asarray(value, dtype=f"float{bits}" if np.issubdtype(value.dtype, np.floating) else value.dtype)


def agree(ours, case: Case, name: str, bits: int, *, kind: str = "state") -> None:
    """Compares with the output `name`: float32 against what was recorded, float64 against its closed form where there is one."""
    ours = np.asarray(ours)
    closed = f"{name}_f64"
    if bits == 64:
        assert ours.dtype in (np.float64, np.bool_), f"{name}: computed in {ours.dtype}, so nothing was tried in float64"
    exact = bits == 64 and closed in case
    if not exact and name not in case:
        return  # recorded in float64 alone
    truth = np.asarray(case[closed if exact else name], np.float64).reshape(ours.shape)
    gap = np.max(np.abs(ours.astype(np.float64) - truth), initial=0.0)
    size = np.max(np.abs(truth), initial=0.0)
    limit = (TOLERANCE_F64 if exact else TOLERANCE[kind]) * size
    assert gap <= limit, f"{case.group}.{case.name}.{name} in float{bits}: off by {gap:.3g}, allowed {limit:.3g} (largest value {size:.3g})"


def near(ours, truth: np.ndarray, bits: int, *, what: str, closed: bool = False, kind: str = "state") -> None:
    """Compares with an output that is there once, whatever its precision; `closed`: it was computed from its formula in float64."""
    ours = np.asarray(ours)
    assert bits == 32 or ours.dtype == np.float64, f"{what}: computed in {ours.dtype}, so nothing was tried in float64"
    gap, size = np.max(np.abs(ours - truth), initial=0.0), np.max(np.abs(truth), initial=0.0)
    limit = (TOLERANCE_F64 if closed and bits == 64 else TOLERANCE[kind]) * size
    assert ours.shape == truth.shape and gap <= limit, f"{what} in float{bits}: off by {gap:.3g}, allowed {limit:.3g}"


def ratios_agree(ours, case: Case, name: str = "ratio", *, log_prob: np.ndarray | float = 0.0) -> None:
    """Ratios of `log_prob` to an older one. Where that is large, neighbouring float32 numbers lie farther apart than the tolerance."""
    apart = np.spacing(np.abs(np.float32(log_prob))) * np.abs(case[name])
    gap = np.abs(np.asarray(ours, np.float64) - case[name])
    assert np.all(gap <= RATIO_ATOL + apart), f"{case.group}.{case.name}.{name}: off by {gap.max():.3g}"
