"""The runs behind the claims: one workdir per arm and seed, each an ordinary training run that can be repeated by its own command.

    OUT/data            the sessions of the embedded world, written once
    OUT/runs/ARM/SEED   a workdir; cost.json in it adds up the seconds of all attempts
    OUT/cache           compiled programs, shared by the runs
    OUT/claims.json, claims.md, claims.svg

A run that is complete is not made again; one that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from editr2_jax import assemble
from editr2_jax.claims import table
from editr2_jax.claims.questions import Arm, Question, needed
from editr2_jax.evaluation import tables
from editr2_jax.runtime import workdir

Say = Callable[[str], None]


class RunFailed(RuntimeError):
    """A run ended with an error; its log says why."""


def run(questions: Sequence[Question], seeds: Sequence[int], *, spec: str, config, overrides: Sequence[str], out: Path, say: Say) -> Path:
    """Makes what is missing of the runs, then the table. `spec` and `overrides` are the config as the command line would give it.

    Raises RunFailed when a run fails; everything that was finished stays, and the same command goes on.
    """
    with workdir.exclusive(out):
        data = assemble.data_folder(config, out, say=say)
        arms = needed(questions)
        waiting = [(arm, seed) for seed in seeds for arm in arms if not _finished(_folder(out, arm.name, seed), arm, config)]
        say(f"{len(arms)} arms, {len(seeds)} seeds: {len(arms) * len(seeds) - len(waiting)} runs are there, {len(waiting)} to go")
        for number, (arm, seed) in enumerate(waiting):
            begun = time.monotonic()
            _attempt(arm, seed, spec=spec, overrides=[*overrides, f"--config.data.path={data.resolve()}"], out=out)
            say(f"{number + 1} of {len(waiting)}: {arm.name}, seed {seed}: {(time.monotonic() - begun) / 60:.1f} minutes")
        return write_table(questions, seeds, config=config, out=out, command=command(spec, overrides))


def write_table(questions: Sequence[Question], seeds: Sequence[int], *, config, out: Path, command: str) -> Path:
    """The table of what has been run. Raises ValueError where a run is missing."""
    outcomes = {(arm.name, seed): _outcome(out, arm, seed, config) for arm in needed(questions) for seed in seeds}
    return table.write(out, table.make(questions, seeds, outcomes), command=command)


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / "runs" / arm / str(seed)


def _last(arm: Arm, config) -> int:
    return config.loop.steps if arm.trains else 0


def _finished(folder: Path, arm: Arm, config) -> bool:
    return (folder / "eval" / str(_last(arm, config)) / tables.SUMMARY).exists()


def _attempt(arm: Arm, seed: int, *, spec: str, overrides: Sequence[str], out: Path) -> None:
    """One run in a process of its own; its output goes to run.log beside it."""
    folder = _folder(out, arm.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    values = [f"--config.{name}={value}" for name, value in arm.values.items()]
    verb = "train" if arm.trains else "evaluate"
    command = [sys.executable, "-m", "editr2_jax", verb, f"--config={spec}", f"--workdir={folder}", *overrides, *values]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(out.resolve() / "cache"), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    begun = time.monotonic()
    with (out / "runs" / arm.name / f"{seed}.log").open("a") as log:
        status = subprocess.run([*command, f"--config.seed={seed}"], env=os.environ | cache, stdout=log, stderr=log, check=False).returncode
    _add_cost(folder, time.monotonic() - begun)
    if status:
        raise RunFailed(f"{arm.name}, seed {seed}: exit status {status}; see {log.name}. The command was: {' '.join(command)}")


def _add_cost(folder: Path, seconds: float) -> None:
    path = folder / "cost.json"
    before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
    workdir.write_json(path, {"seconds": before + seconds})


def _outcome(out: Path, arm: Arm, seed: int, config) -> table.Outcome:
    folder = _folder(out, arm.name, seed)
    if not _finished(folder, arm, config):
        raise ValueError(f"{folder}: this run is not finished; run the claims command again without --table.")
    settings = json.loads((folder / "config.json").read_text())
    pictures = settings["data"]["sessions"] * settings["data"]["group"] * settings["rollout"]["turns"] * _last(arm, config)
    cost = folder / "cost.json"
    return table.Outcome(
        records=tables.read(folder / "eval" / str(_last(arm, config)) / tables.SCORES),
        pictures=pictures,
        minutes=json.loads(cost.read_text())["seconds"] / 60 if cost.exists() else float("nan"),
    )


def command(spec: str, overrides: Sequence[str]) -> str:
    """How to make the table again."""
    return " ".join(["python -m editr2_jax claims --out=DIR", f"--config={spec}", *overrides])
