"""The runs behind the claims: one workdir per arm and seed, each an ordinary training run that can be repeated by its own command.

    OUT/data            the sessions of the embedded world, written once
    OUT/runs/ARM/SEED   a workdir; cost.json in it adds up the minutes of all attempts
    OUT/cache           compiled programs, shared by the runs
    OUT/claims.json, claims.md, claims.svg

A run that is complete is not made again; one that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path

from editr2_jax import assemble
from editr2_jax.claims import table
from editr2_jax.claims.questions import Arm, Question, needed
from editr2_jax.evaluation import tables
from editr2_jax.runtime import signals, workdir

Say = Callable[[str], None]


class RunFailed(RuntimeError):
    """A run ended with an error; its log says why."""


def run(
    questions: Sequence[Question], seeds: Sequence[int], *, spec: str, config, overrides: Sequence[str], out: Path, say: Say, jobs: int = 1
) -> str:
    """Makes what is missing of the runs, `jobs` of them at a time, then the table; returns a line of result.

    `spec` and `overrides` are the config as the command line would give it.

    Raises RunFailed when a run fails: what runs beside it saves and stops, what was finished stays, and the same command goes on.
    """
    with workdir.exclusive(out), signals.stop_flag() as stop_requested:
        data = assemble.data_folder(config, out, say=say)
        arms = needed(questions)
        waiting = [(arm, seed) for seed in seeds for arm in arms if not _finished(_folder(out, arm.name, seed), arm, config)]
        say(f"{len(arms)} arms, {len(seeds)} seeds: {len(arms) * len(seeds) - len(waiting)} runs are there, {len(waiting)} to go")
        given = [*overrides, f"--config.data.path={data.resolve()}"]
        broken = threading.Event()
        stopping = lambda: stop_requested() or broken.is_set()  # noqa: E731

        def make(arm: Arm, seed: int) -> str | None:
            """What there is to say of a run that was made; None for one that was not finished."""
            if stopping():
                return None
            try:
                cost = _attempt(arm, seed, spec=spec, overrides=given, out=out, stop_requested=stopping)
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
        return f"table: {write_table(questions, seeds, config=config, out=out, made_by=command(spec, overrides))}"


def write_table(questions: Sequence[Question], seeds: Sequence[int], *, config, out: Path, made_by: str) -> Path:
    """The table of what has been run. Raises ValueError where a run is missing."""
    outcomes = {(arm.name, seed): _outcome(out, arm, seed, config) for arm in needed(questions) for seed in seeds}
    return table.write(out, table.make(questions, seeds, outcomes), command=made_by)


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / "runs" / arm / str(seed)


def _last(arm: Arm, config) -> int:
    return config.loop.steps if arm.trains else 0


def _finished(folder: Path, arm: Arm, config) -> bool:
    return (folder / "eval" / str(_last(arm, config)) / tables.SUMMARY).exists()


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
    path = folder / "cost.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    cost = {name: before.get(name, 0.0) + value for name, value in spent.items()}
    workdir.write_json(path, cost)
    return cost


def _outcome(out: Path, arm: Arm, seed: int, config) -> table.Outcome:
    folder = _folder(out, arm.name, seed)
    if not _finished(folder, arm, config):
        raise ValueError(f"{folder}: this run is not finished; run the claims command again without --table.")
    settings = json.loads((folder / "config.json").read_text())
    pictures = settings["data"]["sessions"] * settings["data"]["group"] * settings["rollout"]["turns"] * _last(arm, config)
    cost = json.loads((folder / "cost.json").read_text())
    return table.Outcome(
        records=tables.read(folder / "eval" / str(_last(arm, config)) / tables.SCORES),
        pictures=pictures,
        minutes=cost["minutes"],
        cpu_minutes=cost["cpu_minutes"],
    )


def command(spec: str, overrides: Sequence[str]) -> str:
    """How to make the table again."""
    return " ".join(["python -m editr2_jax claims --out=DIR", f"--config={spec}", *overrides])
