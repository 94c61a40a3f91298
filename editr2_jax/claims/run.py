"""The runs behind the claims: one workdir per arm and seed, each an ordinary training run that can be repeated by its own command.

    OUT/data            the sessions of the embedded world, written once
    OUT/runs/ARM/SEED   a workdir; cost.json in it adds up the minutes of all attempts
    OUT/cache           compiled programs, shared by the runs
    OUT/claims.json, claims.md, claims.svg

A run that is complete is not made again; one that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from editr2_jax import assemble
from editr2_jax.claims import table
from editr2_jax.claims.questions import Arm, Question, needed
from editr2_jax.evaluation import tables
from editr2_jax.runtime import signals, workdir

Say = Callable[[str], None]
COST = "cost.json"


class RunFailed(RuntimeError):
    """A run ended with an error; its log says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """Which runs there are: every arm that the questions need, once per seed, below one folder."""

    questions: Sequence[Question]
    seeds: Sequence[int]
    out: Path
    spec: str  # FILE.py[:VARIANT] of what all arms have in common
    overrides: Sequence[tuple[str, str]]  # and what the command line changes in it
    config_of: Callable[[Mapping[str, str]], Any]  # the common config with more values changed
    command: str  # that makes the table again
    name: str = "claims"  # of its files

    @property
    def arms(self) -> tuple[Arm, ...]:
        return needed(self.questions)

    def refuse_overrides(self) -> None:
        """Raises ValueError for an override of what the arms or the matrix decide: it would be lost in some runs."""
        decided = {"seed"} | {name for arm in self.arms for name in arm.values}
        if lost := sorted({name for name, _ in self.overrides} & decided):
            raise ValueError(
                f"--config.{lost[0]}: the claims vary this value themselves ({', '.join(lost)}); choose seeds by --seeds, arms by --only."
            )

    def finished(self, arm: Arm, seed: int) -> bool:
        """Whether this run is there. Raises ValueError where what is there was made with another config."""
        folder = _folder(self.out, arm.name, seed)
        wanted = self.config_of({**{name: str(value) for name, value in arm.values.items()}, "seed": str(seed)}).to_dict()
        if not (folder / "eval" / str(_last(arm, wanted)) / tables.SUMMARY).exists():
            return False
        saved = workdir.read_json(folder / "config.json")
        if told := workdir.differences(saved, wanted, may_change=("data.path",)):
            raise ValueError(f"{folder}: this run was made with another config ({told}); remove the folder, or choose another --out.")
        return True


def run(matrix: Matrix, *, config: Any, say: Say, jobs: int = 1) -> str:
    """Makes what is missing of the runs, `jobs` of them at a time, then the table; returns a line of result.

    Raises RunFailed when a run fails: what runs beside it saves and stops, what was finished stays, and the same command goes on.
    """
    matrix.refuse_overrides()
    out = matrix.out
    with workdir.exclusive(out), signals.stop_flag() as stop_requested:
        data = assemble.data_folder(config, out, say=say)
        waiting = [(arm, seed) for seed in matrix.seeds for arm in matrix.arms if not matrix.finished(arm, seed)]
        total = len(matrix.arms) * len(matrix.seeds)
        say(f"{len(matrix.arms)} arms, {len(matrix.seeds)} seeds: {total - len(waiting)} runs are there, {len(waiting)} to go")
        given = [*(f"--config.{name}={value}" for name, value in matrix.overrides), f"--config.data.path={data.resolve()}"]
        broken = threading.Event()
        stopping = lambda: stop_requested() or broken.is_set()  # noqa: E731

        def make(arm: Arm, seed: int) -> str | None:
            """What there is to say of a run that was made; None for one that was not finished."""
            if stopping():
                return None
            try:
                cost = _attempt(arm, seed, spec=matrix.spec, overrides=given, out=out, stop_requested=stopping)
            except BaseException:
                broken.set()
                raise
            return None if stopping() else f"{arm.name}, seed {seed}: {cost['minutes']:.1f} minutes"

        with futures.ThreadPoolExecutor(jobs) as pool:
            for number, done in enumerate(futures.as_completed([pool.submit(make, arm, seed) for arm, seed in waiting])):
                if told := done.result():
                    say(f"{number + 1} of {len(waiting)}: {told}")
        if stop_requested():
            return "stopped; the same command goes on."
        return f"table: {write_table(matrix)}"


def write_table(matrix: Matrix) -> Path:
    """The table of what has been run. Raises ValueError where a run is missing, or was made with another config."""
    outcomes = {(arm.name, seed): _outcome(matrix, arm, seed) for arm in matrix.arms for seed in matrix.seeds}
    made = table.make(matrix.questions, matrix.seeds, outcomes)
    return table.write(matrix.out, made, command=matrix.command, name=matrix.name)


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / "runs" / arm / str(seed)


def _last(arm: Arm, config: Mapping[str, Any]) -> int:
    return config["loop"]["steps"] if arm.trains else 0


def _attempt(
    arm: Arm, seed: int, *, spec: str, overrides: Sequence[str], out: Path, stop_requested: Callable[[], bool]
) -> dict[str, float]:
    """One run in a process of its own, its output in a log beside its workdir; returns what it has cost so far.

    A stop is passed on: the run saves and ends.
    """
    folder = _folder(out, arm.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    values = [f"--config.{name}={value}" for name, value in arm.values.items()]
    verb = "train" if arm.trains else "evaluate"
    command = [sys.executable, "-m", "editr2_jax", verb, f"--config={spec}", f"--workdir={folder}", *overrides, *values]
    command.append(f"--config.seed={seed}")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(out.resolve() / "cache"), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    begun = time.monotonic()
    with (out / "runs" / arm.name / f"{seed}.log").open("a") as log:
        child = subprocess.Popen(command, env=os.environ | cache, stdout=log, stderr=log)
        status, used = _wait(child, stop_requested)
    cost = _add_cost(folder, minutes=(time.monotonic() - begun) / 60, cpu_minutes=used / 60)
    if status and not stop_requested():
        raise RunFailed(f"{arm.name}, seed {seed}: exit status {status}; see {log.name}. The command was: {' '.join(command)}")
    return cost


def _wait(child: subprocess.Popen, stop_requested: Callable[[], bool]) -> tuple[int, float]:
    """(exit status, seconds of processor time) of a child once it has ended."""
    while True:
        found, status, usage = os.wait4(child.pid, os.WNOHANG)
        if found:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_utime + usage.ru_stime
        if stop_requested():
            child.terminate()
        time.sleep(0.5)


def _add_cost(folder: Path, **spent: float) -> dict[str, float]:
    path = folder / COST
    before = workdir.read_json(path) if path.exists() else {}
    cost = {name: before.get(name, 0.0) + value for name, value in spent.items()}
    workdir.write_json(path, cost | {"machine": table.machine()})
    return cost


def _outcome(matrix: Matrix, arm: Arm, seed: int) -> table.Outcome:
    folder = _folder(matrix.out, arm.name, seed)
    if not matrix.finished(arm, seed):
        raise ValueError(f"{folder}: this run is not finished; run the claims command again without --table.")
    settings = workdir.read_json(folder / "config.json")
    last = _last(arm, settings)
    versions = workdir.read_json(folder / "versions.json")
    return table.Outcome(
        records=tables.read(folder / "eval" / str(last) / tables.SCORES),
        pictures=settings["data"]["sessions"] * settings["data"]["group"] * settings["rollout"]["turns"] * last,
        versions={name: version for name, version in versions.items() if name != "earlier"},
        **(workdir.read_json(folder / COST) if (folder / COST).exists() else {}),  # a run that outlived its parent was not counted
    )
