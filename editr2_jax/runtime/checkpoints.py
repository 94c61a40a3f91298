"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint holds a tree of arrays (parameters, moments, typed random keys, numbers) and a JSON record (position in the data, counters, the
config's fingerprint). A save runs in the background and becomes visible by a rename, so a kill at any moment leaves whole checkpoints only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from editr2_jax.runtime import workdir

_TRASH = ".deleted"  # below the directory of checkpoints, hence reached by a rename
_SHOWN = 12  # differing leaves that an error lists
_TRAIN_FIRST = "train first, or give the folder of a run that has saved."


class Checkpoints:
    """The checkpoints of one directory, `directory/STEP/`. Usable as a context manager; leaving it waits for the last save."""

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, keep_every: int | None = None, read_only: bool = False):
        """Keep the latest `keep` steps, and for good those divisible by `keep_every`.

        What a killed process left half-written or half-deleted is removed here. Raises ValueError where the directory is not writable.
        read_only: nothing is written, made or removed, so that a run can be looked at while its process goes on saving.
        """
        if keep < 1:
            raise ValueError(f"Checkpoints(keep={keep}): at least one checkpoint must be kept.")
        self._read_only = read_only
        if read_only:
            self.directory = Path(directory).expanduser().absolute()
            if not self.directory.is_dir():
                raise ValueError(f"{self.directory}: there is no checkpoint here; {_TRAIN_FIRST}")
            options = ocp.CheckpointManagerOptions(create=False, cleanup_tmp_directories=False)
        else:
            self.directory = workdir.writable(directory)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep, keep_period=keep_every, cleanup_tmp_directories=True, todelete_subdir=_TRASH
            )
        handlers = {"arrays": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler(), "layout": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._empty_trash()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All whole checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, arrays: Any, meta: Mapping[str, Any]) -> None:
        """Start writing the checkpoint of `step`; buffers may be donated as soon as this returns.

        arrays: a pytree of jax or numpy arrays, typed keys and Python numbers. meta: JSON values. Waits for an unfinished save before it,
        and raises that one's error. Raises ValueError for a step that is there already, or older than the latest.
        """
        items = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(dict(meta)), layout=ocp.args.JsonSave(layout(arrays))
        )
        self._empty_trash()
        if not self._manager.save(step, args=items):
            raise ValueError(
                f"{self.directory}: step {step} was not saved, the latest there is {self.latest_step()}; save increasing steps."
            )

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The JSON record of a step, by default the latest; raises ValueError where there is none."""
        return self._read(self._known(step), meta=ocp.args.JsonRestore())["meta"]

    def restore(self, target: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """(arrays, meta) of a step, by default the latest; the arrays take target's structure, and its shardings where it names some.

        target: a tree like the saved one, of arrays or jax.ShapeDtypeStruct. Raises ValueError listing every leaf that is missing, not
        wanted, or of another shape or dtype; nothing is ever cast or dropped.
        """
        step = self._known(step)
        saved, wanted = self._read(step, layout=ocp.args.JsonRestore())["layout"], layout(target)
        if saved != wanted:
            raise ValueError(
                f"{self.directory / str(step)}: {_mismatch(saved, wanted)} Start with the config that this checkpoint was written with."
            )
        arrays = ocp.args.PyTreeRestore(item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
        got = self._read(step, arrays=arrays, meta=ocp.args.JsonRestore())
        return got["arrays"], got["meta"]

    def wait(self) -> None:
        """Block until the save under way is on disk; raises its error if it failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the last save and let go of the directory."""
        self._manager.wait_until_finished()
        self._empty_trash()
        self._manager.close()

    def _empty_trash(self) -> None:
        """Delete old checkpoints, which were moved here first: deleted in place, a kill midway would leave a step listed, and broken."""
        if jax.process_index() == 0 and not self._read_only:
            for path in (self.directory / _TRASH).glob("*"):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # whatever orbax and its storage raise over damaged files
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise ValueError(
                f"{self.directory / str(step)}: this checkpoint cannot be read ({_first_line(error)}); copy it again, or remove this "
                f"folder and the run goes on from an earlier one (there: {others})."
            ) from error

    def _known(self, step: int | None) -> int:
        self.wait()
        if not self.steps():
            raise ValueError(f"{self.directory}: there is no checkpoint here; {_TRAIN_FIRST}")
        step = self.latest_step() if step is None else step
        if step not in self.steps():
            raise ValueError(f"{self.directory}: there is no step {step}; there are {', '.join(map(str, self.steps()))}.")
        return step


def layout(tree: Any) -> dict[str, str]:
    """Name of every leaf -> its dtype and shape, such as "float32[3, 2]"; a Python number goes by its type."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = getattr(leaf, "shape", None)
        described[jax.tree_util.keystr(path, simple=True, separator="/")] = (
            type(leaf).__name__ if shape is None else f"{leaf.dtype}{list(shape)}"
        )
    return described


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]


def _mismatch(saved: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """What differs between the tree on disk and the tree asked for, in one sentence per kind of difference."""

    def ordered(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: (name.rpartition("/")[2].isdecimal(), name))  # a mere number tells least

    kinds = {
        "missing in the checkpoint": [f"{name} {wanted[name]}" for name in ordered(wanted.keys() - saved.keys())],
        "not wanted by this run": [f"{name} {saved[name]}" for name in ordered(saved.keys() - wanted.keys())],
        "of another kind": [
            f"{name} is {saved[name]}, wanted {wanted[name]}"
            for name in ordered(saved.keys() & wanted.keys())
            if saved[name] != wanted[name]
        ],
    }
    parts = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} leaves {kind}: {', '.join(names[:_SHOWN])}{more}.")
    return " ".join(parts)
