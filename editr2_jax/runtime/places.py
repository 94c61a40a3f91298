"""Folders and files on a local disk or behind an address such as gs://bucket/folder, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

_TAKEN = "exists and is not an empty folder; choose another --out, nothing is overwritten."


def place(path: Any) -> Any:
    """A local Path for a local name, an epath.Path for an address with a scheme; what is a path of another kind stays as it is."""
    if isinstance(path, str):
        return epath.Path(path) if "://" in path else Path(path).expanduser()
    return path.expanduser() if isinstance(path, Path) else path


def is_local(path: Any) -> bool:
    """Whether the operating system can open the path itself."""
    return isinstance(path, Path) or (isinstance(path, os.PathLike) and "://" not in str(path))


@contextlib.contextmanager
def whole_folder(out: str | Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name when the block ends well, and is removed when it does not."""
    out = place(out)
    if not is_local(out):
        with _remote_folder(out):
            yield out
        return
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: {_TAKEN}")
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of an earlier try that was killed
        unfinished.mkdir(parents=True)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{out}: cannot write here ({why}); choose another --out, or change its permissions.") from error
    try:
        yield unfinished
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def _remote_folder(out: Any) -> Iterator[None]:
    if out.exists() and any(True for _ in out.iterdir()):
        raise ValueError(f"{out}: {_TAKEN}")
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            out.rmtree()
        raise
