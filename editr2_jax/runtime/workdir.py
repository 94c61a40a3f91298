"""The folder of one run: who may write into it, and which config and versions it belongs to.

A workdir belongs to one config. Starting again with the same config resumes; with another one it is refused, naming the keys that differ,
so that nothing of another run is overwritten. A start that failed before it made anything does not bind the workdir to its mistake.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

PACKAGES = (
    "editr2_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "tokenizers",
    "numpy",
    "pillow",
    "ml-collections",
)
_MADE = (
    "base",
    "checkpoints",
    "metrics.jsonl",
    "sessions",
    "eval",
    "report",
    "scores.jsonl",
)  # what a run leaves; until then the workdir is anybody's


NO_ADDRESS = "a run appends to its files and locks them, which an address cannot; give a folder on a disk that all hosts mount"


def writable(directory: str | os.PathLike, *, flag: str = "--workdir") -> Path:
    """The directory as an absolute path, made if needed. Raises ValueError, saying why, where nothing can be written into it.

    flag: what the caller chose the directory by.
    """
    if "://" in os.fspath(directory):
        raise ValueError(f"{directory}: {NO_ADDRESS}, as {flag}.")
    path = Path(directory).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{path}: cannot write here ({error.strerror or error}); choose another {flag}, or change its permissions."
        ) from error
    return path


@contextlib.contextmanager
def exclusive(directory: Path, *, within_s: float = 0.0) -> Iterator[None]:
    """Hold the workdir for this process; raises ValueError where another process holds it, and does not let go in time.

    The kernel lets go when a process dies; a server of files, when it has missed a machine that was lost for a while.
    """
    ends = time.monotonic() + within_s
    with open(directory / ".lock", "a+", encoding="utf-8") as file:
        while not (held := _locked(file)) and time.monotonic() < ends:
            time.sleep(min(1.0, within_s))
        if not held:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise ValueError(f"{directory}: process {owner} is writing into this workdir; stop it first, or choose another --workdir.")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claim(
    directory: Path, config: Mapping[str, Any], *, may_change: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and versions.json, or check that the config there is this one.

    config: plain nested dict of JSON values. may_change: dotted names that may differ from the first start, such as the number of steps;
    the file then takes the new values. defaults: a config, nested likewise; what the file lacks, since an earlier version of the package
    wrote it, counts as said there. Raises ValueError naming every other key that differs, once a run has made something here.
    """
    path = directory / "config.json"
    now = flat(json.loads(_canonical(config)))  # as JSON sees it: a tuple is a list
    usual = {name: value for name, value in flat(json.loads(_canonical(defaults or {}))).items() if name in now}
    before = usual | flat(read_json(path)) if path.exists() else now
    if not any(_holds_something(directory / name) for name in _MADE):
        before = now
    if told := _differences(before, now, may_change):
        raise ValueError(
            f"{path}: this workdir belongs to another config ({told}); choose another --workdir, or start it with its own config."
        )
    write_json(path, config)
    _note_versions(directory / "versions.json")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Collection[str] = ()) -> str:
    """Which values of two configs differ, in words; empty where none does. What an older config does not have yet is no difference."""
    old, new = (flat(json.loads(_canonical(config))) for config in (before, now))
    return _differences(old, {name: value for name, value in new.items() if name in old}, may_change)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str]) -> str:
    absent = "absent"
    names = sorted(before.keys() | now.keys())
    differing = [name for name in names if before.get(name, absent) != now.get(name, absent) and name not in may_change]
    shown = "; ".join(f"{name} was {before.get(name, absent)!r}, is {now.get(name, absent)!r}" for name in differing[:8])
    return shown + (f"; and {len(differing) - 8} more" if len(differing) > 8 else "")


def fingerprint(config: Mapping[str, Any]) -> str:
    """A short name of a config's content, for the record in a checkpoint: 16 hexadecimal digits."""
    return hashlib.sha256(_canonical(config).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Python, the platform and the packages that decide what a run computes, and the commit of a checkout. Imports none of them."""
    found = {"python": platform.python_version(), "platform": platform.platform(), **_commit()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> dict[str, str]:
    """The commit that the package runs from, "+" behind it where files were changed since; nothing where none is known."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # a launch script writes this file into the code that it ships
        shipped = root / "SHIPPED_COMMIT"
        return {"commit": shipped.read_text(encoding="utf-8").strip()} if shipped.is_file() else {}
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {"commit": subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()}
    return {}


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises ValueError naming the file and the place where it breaks."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); restore the file, or choose another --workdir.") from error


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole: a reader, or a kill at any moment, sees the old file or the new one."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace a text file as a whole, through a synced file beside it."""
    beside = path.with_name(f".{path.name}.new")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def _note_versions(path: Path) -> None:
    """versions.json tells about the latest start; `earlier` keeps those of starts that ran on something else."""
    now = versions()
    before = read_json(path) if path.exists() else {}
    earlier = before.pop("earlier", [])
    if before and before != now:
        earlier = [*earlier, before]
    write_json(path, now | ({"earlier": earlier} if earlier else {}))


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, by dotted names."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found
