"""What computes: devices, versions, precision switches, and whether compiled programs are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.runtime import workdir

_A_LINE = 7  # versions


def environment(subject: Subject) -> Finding:
    """Devices and versions of this process, against those that the run began with."""
    devices, now = jax.devices(), workdir.versions()
    kinds = sorted({device.device_kind for device in devices})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fail, sessions, processes = [], subject.config.data.sessions, jax.process_count()
    if sessions % processes:
        fail.append(f"data.sessions={sessions} cannot be shared by {processes} processes")
    rows = [
        ("devices", f"{len(devices)} x {', '.join(kinds)} ({jax.default_backend()}), {processes} process(es), {cores} cores here"),
        ("precision", f"matrix products {jax.config.jax_default_matmul_precision or 'default'}, 64 bit {_on(jax.config.jax_enable_x64)}"),
        ("compiled programs", _cache()),
        *_versions(now),
    ]
    return finding.judged(
        f"{len(devices)} x {', '.join(kinds)}, jax {now.get('jax', 'unknown')}",
        fail=fail,
        warn=changed(subject.begun_with, now),
        advice="Share sessions evenly, and go on with the versions that the run began with (versions.json in its workdir): another "
        "compiler may round differently.",
        details=[f"{name.ljust(17)}  {what}" for name, what in rows],
    )


def changed(before: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Packages that are of another version than the run began with; what started it lately stands before its `earlier` starts."""
    before = (before.get("earlier") or [before])[0]
    names = [name for name in now if name in before and before[name] != now[name]]
    return [f"{name} was {before[name]}, is {now[name]}" for name in names]


def _versions(now: Mapping[str, str]) -> list[tuple[str, str]]:
    told = [f"{name} {version}" for name, version in now.items() if name != "platform"]
    lines = [", ".join(told[at : at + _A_LINE]) for at in range(0, len(told), _A_LINE)]
    return [("" if number else "versions", line) for number, line in enumerate(lines)]


def _cache() -> str:
    folder = jax.config.jax_compilation_cache_dir
    kept = folder and jax.config.jax_enable_compilation_cache
    return f"kept in {folder}" if kept else "not kept; JAX_COMPILATION_CACHE_DIR=DIR spares the next start most of its compilation"


def _on(flag: bool) -> str:
    return "on" if flag else "off"
