"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint holds a tree of arrays (parameters, moments, typed random keys, numbers) and a JSON record (position in the data, counters, the
config's fingerprint). A save runs in the background and becomes visible by a rename, so a kill at any moment leaves whole checkpoints
only. `healthy` and `best` point to steps that stay.

    directory/40/  directory/50/  directory/latest.json  directory/healthy.json  directory/best.json

With several processes every one of them makes the same calls in the same order, over a directory that all of them see.
"""

from __future__ import annotations

import concurrent.futures
import math
import os
import shutil
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from editr2_jax.runtime import digests, pointers, workdir
from editr2_jax.runtime.pointers import BEST, HEALTHY, LATEST, Pointers

_TRASH = ".deleted"  # below the directory of checkpoints, hence reached by a rename
_SHOWN = 12  # differing leaves that an error lists
_TRAIN_FIRST = "train first, or give the folder of a run that has saved."
_UNSET = {HEALTHY: "no step has been confirmed healthy yet", BEST: "no evaluation has named a best one yet"}


class DamagedCheckpoint(ValueError):
    """A checkpoint that is there and cannot be read."""


class Checkpoints:
    """The checkpoints of one directory, `directory/STEP/`. Usable as a context manager; leaving it waits for the last save."""

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, keep_every: int = 0, read_only: bool = False):
        """Keep the latest `keep` steps, and for good those divisible by `keep_every` (0: none).

        A step that a pointer names stays as long as it does.
        What a killed process left half-written or half-deleted is removed here. Raises ValueError where the directory is not writable.
        read_only: nothing is written, made or removed, so that a run can be looked at while its process goes on saving.
        """
        if keep < 1:
            raise ValueError(f"Checkpoints(keep={keep}): at least one checkpoint must be kept.")
        if keep_every < 0:
            raise ValueError(f"Checkpoints(keep_every={keep_every}): give every how many steps one is kept for good, or 0 for none.")
        self._read_only, self._keep, self._keep_every = read_only, keep, keep_every
        if read_only:
            self.directory = Path(directory).expanduser().absolute()
            if not self.directory.is_dir():
                raise ValueError(f"{self.directory}: there is no checkpoint here; {_TRAIN_FIRST}")
        else:
            self.directory = workdir.writable(directory)
        # What goes is decided here: a pointer must have left a step before the step is deleted.
        options = ocp.CheckpointManagerOptions(create=not read_only, cleanup_tmp_directories=not read_only, max_to_keep=None)
        arrays, note = ocp.PyTreeCheckpointHandler, ocp.JsonCheckpointHandler
        handlers = {"arrays": arrays(), "meta": note(), "layout": note()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._writes = jax.process_index() == 0 and not read_only
        self._steps = sorted(self._manager.all_steps())  # whole ones, and the one under way
        self._pointers = Pointers(self.directory, self._steps, writes=self._writes)
        self._lock = threading.Lock()  # over the pointers and `_incomplete`, which the end of a save touches in the background
        self._incomplete: int | None = None
        self._saving: concurrent.futures.Future[None] | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        _meet("checkpoints_opened")  # nobody changes a pointer before everybody has read it
        self._pointers.publish()
        self._empty_trash()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None. Waits for a save under way, so that all processes say the same."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All whole checkpoints, oldest first. Waits for a save under way."""
        self.wait()
        return list(self._steps)

    def save(self, step: int, arrays: Any, meta: Mapping[str, Any]) -> None:
        """Start writing the checkpoint of `step`; buffers may be donated as soon as this returns.

        arrays: a pytree of jax or numpy arrays, typed keys and Python numbers. meta: JSON values. Waits for an unfinished save before it,
        and raises that one's error. Raises ValueError for a step that is there already, or older than the latest; and, with several
        processes, for jax arrays that belong to one of them.
        """
        _refuse_local(arrays, step)
        notes = {"layout": ocp.args.JsonSave(layout(arrays)), "meta": ocp.args.JsonSave(dict(meta))}
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"{self.directory}: step {step} was not saved, the latest there is {latest}; save increasing steps.")
        self._manager.save(step, args=ocp.args.Composite(arrays=ocp.args.PyTreeSave(arrays), **notes), force=True)
        with self._lock:
            self._incomplete = step
        before, pinned = [*self._steps, step], self._pointers.pinned()
        self._steps = pointers.kept(before, keep=self._keep, keep_every=self._keep_every, pinned=pinned)
        self._saving = self._background.submit(self._finish, step, set(before) - set(self._steps))

    def confirm(self, step: int) -> None:
        """The run was healthy at a saved step: `healthy` points to it, unless it points to a later one. The step may still be under way.

        Raises ValueError for a step that is not there.
        """
        self._refuse_unknown(step)
        if step > self._step_of(HEALTHY, default=-1):
            self._point(HEALTHY, {"step": step})

    def report(self, step: int, value: float, *, metric: str) -> bool:
        """A saved step's value of the metric, larger is better; True where it is the best so far, and `best` points to it.

        A value under another name than the best one's starts anew; NaN is never the best. Raises ValueError for a step that is not there.
        """
        self._refuse_unknown(step)
        best = self._pointers.get(BEST)
        if math.isnan(value) or (best is not None and best["metric"] == metric and value <= best["value"]):
            return False
        self._point(BEST, {"step": step, "metric": metric, "value": float(value)})
        return True

    def pointer(self, name: str) -> dict[str, Any] | None:
        """The record of `latest`, `healthy` or `best`, with its "step"; None where there is none."""
        if self._read_only:
            return pointers.read(self.directory).get(name)  # the run may have gone on
        self.wait()
        return self._pointers.get(name)

    def step_at(self, step: int | str | None = None) -> int:
        """The number of the step that "latest", "healthy" or "best" names, or of a step; raises ValueError listing those that are there."""
        return self._known(step)

    def meta(self, step: int | str | None = None) -> dict[str, Any]:
        """The JSON record of a step, by default the latest; raises ValueError where there is none."""
        return self._read(self._known(step), meta=ocp.args.JsonRestore())["meta"]

    def restore(self, target: Any, step: int | str | None = None, *, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """(arrays, meta) of a step; the arrays take target's structure, and its shardings where it names some.

        target: a tree like the saved one, of arrays or jax.ShapeDtypeStruct; on any mesh, whatever the one it was saved on. step: a number,
        "latest", "healthy" or "best"; by default the latest. partial: target, a dict, holds only some of the saved tree's top-level names.
        Raises ValueError listing every leaf that is missing, not wanted, or of another shape or dtype; nothing is ever cast or dropped.
        """
        step = self._known(step)
        arrays = self._restore_arrays(target, step, partial=partial)
        return arrays, self._read(step, meta=ocp.args.JsonRestore())["meta"]

    def wait(self) -> None:
        """Block until the save under way is on disk; raises its error if it failed."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except KeyboardInterrupt:  # of the wait, not of the save
            self._saving = saving
            raise
        except Exception:
            with self._lock:
                self._steps = [step for step in self._steps if step != self._incomplete]
                self._incomplete = None
                self._pointers.go_back()
            raise

    def close(self) -> None:
        """Wait for the last save and let go of the directory."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._manager.close()

    # Saving ----------------------------------------------------------------------------------------------------------------------

    def _finish(self, step: int, condemned: Collection[int]) -> None:
        """In the background: wait for the files, point to them, and only then delete."""
        self._manager.wait_until_finished()
        with self._lock:
            self._incomplete = None
            self._pointers.set(LATEST, {"step": step})
            self._pointers.publish()
        if self._writes:
            digests.write(self.directory / str(step), below=("arrays",))
            for old in condemned:
                self._move(old, _TRASH)
            self._empty_trash()

    def _point(self, name: str, record: Mapping[str, Any]) -> None:
        with self._lock:
            self._pointers.set(name, record)
            self._pointers.publish(incomplete=self._incomplete)

    def _move(self, step: int, to: str) -> None:
        """Out of sight by a rename: deleted in place, a kill midway would leave a step listed, and broken."""
        there = self.directory / to / str(step)
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(exist_ok=True)
        os.replace(self.directory / str(step), there)

    def _empty_trash(self) -> None:
        if self._writes:
            for path in (self.directory / _TRASH).glob("*"):
                shutil.rmtree(path, ignore_errors=True)

    # Reading ---------------------------------------------------------------------------------------------------------------------

    def _restore_arrays(self, target: Any, step: int, *, partial: bool) -> Any:
        saved, wanted = self._read(step, layout=ocp.args.JsonRestore())["layout"], layout(target)
        if partial:
            saved = {leaf: kind for leaf, kind in saved.items() if leaf.partition("/")[0] in target}
        if saved != wanted:
            raise ValueError(
                f"{self.directory / str(step)}: {_mismatch(saved, wanted)} Start with the config that this checkpoint was written with."
            )
        self._refuse_damaged(step)
        target = jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, np.generic) else leaf, target)  # as orbax knows them
        how = ocp.checkpoint_utils.construct_restore_args(target)
        return self._read(step, arrays=ocp.args.PyTreeRestore(item=target, restore_args=how, partial_restore=partial))["arrays"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # whatever orbax and its storage raise over damaged files
            raise self._damaged(step, _first_line(error)) from error

    def _refuse_damaged(self, step: int) -> None:
        """One process reads the files through, and all of them go by what it found."""
        found = digests.damage(self.directory / str(step), below="arrays") if jax.process_index() == 0 else ""
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(bool(found))):
            found = found or "so process 0 found"
        if found:
            raise self._damaged(step, found)

    def _damaged(self, step: int, why: str) -> DamagedCheckpoint:
        others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
        return DamagedCheckpoint(
            f"{self.directory / str(step)}: this checkpoint cannot be read ({why}); copy it again, or remove this "
            f"folder and the run goes on from an earlier one (there: {others})."
        )

    def _known(self, step: int | str | None) -> int:
        if not self.steps():
            raise ValueError(f"{self.directory}: there is no checkpoint here; {_TRAIN_FIRST}")
        if step is None or step == LATEST:
            return self._steps[-1]
        if isinstance(step, str):
            if step not in _UNSET:
                raise ValueError(
                    f"{self.directory}: no step is called {step!r}; ask for {', '.join(pointers.NAMES)}, or for {self._told()}."
                )
            if (record := self.pointer(step)) is None:
                raise ValueError(
                    f"{self.directory}: {_UNSET[step]}, so there is no {step} checkpoint; ask for the latest, or for {self._told()}."
                )
            step = record["step"]
        if step not in self._steps and self._read_only:
            self._manager.reload()  # the run may have gone on
            self._steps = sorted(self._manager.all_steps())
        self._refuse_unknown(step)
        return step

    def _told(self) -> str:
        return f"one of the steps {', '.join(map(str, self._steps))}"

    def _refuse_unknown(self, step: int) -> None:
        if step not in self._steps:
            there = f"there are {', '.join(map(str, self._steps))}" if self._steps else "there are none"
            raise ValueError(f"{self.directory}: there is no step {step}; {there}.")

    def _step_of(self, name: str, *, default: int) -> int:
        record = self._pointers.get(name)
        return default if record is None else record["step"]


def _meet(where: str) -> None:
    """All processes wait for each other here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _refuse_local(tree: Any, step: int) -> None:
    """Raises ValueError for jax arrays that live in one process of several: which process's numbers to write, nobody can say."""
    if jax.process_count() == 1:
        return
    local = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable
    ]
    if local:
        more = f" and {len(local) - _SHOWN} more" if len(local) > _SHOWN else ""
        raise ValueError(
            f"step {step}: {len(local)} arrays belong to process {jax.process_index()} alone: {', '.join(local[:_SHOWN])}{more}. Place "
            "them on the mesh of all processes, replicated where they are the same everywhere, or give numpy arrays."
        )


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
