"""Runs of several processes: one order of the data, one result; killed, named, and gone on with, on another number of hosts too.

`bash launch/test.sh -m nightly tests/end_to_end/test_hosts.py` runs them, as .ci/run does. EDITR2_KILLS=20 EDITR2_HOST_STEPS=24 makes the
long check of kills; EDITR2_HOSTS=4 takes four processes where it says two.
"""

import json
import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_checkpoint import CONFIG, PATIENCE, billed, start

from editr2_jax.runtime import metrics

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
DEVICES = 4  # of a run, over all its processes
HOSTS = int(os.environ.get("EDITR2_HOSTS", "2"))
STEPS = int(os.environ.get("EDITR2_HOST_STEPS", "3"))


def _run(workdir: Path, checkpoint: Path, *more: str, processes: int = 1) -> list:
    """The processes of one run, started. What their judges are asked is in WORKDIR.bill."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = [
        "train", f"--config={CONFIG}", f"--workdir={workdir}", f"--config.model.checkpoint={checkpoint}", f"--config.loop.steps={STEPS}",
        "--config.data.sessions=2", "--config.step.rows=4", "--config.evaluate.rows=4", "--config.evaluate.sessions=4",
        "--config.evaluate.before=false", "--config.loop.save_every=1", "--config.loop.keep=4", "--config.hosts.silence_s=12",
        "--config.hosts.join_s=60", *more,
    ]  # fmt: skip
    together = (f"--coordinator=localhost:{port}", f"--processes={processes}")
    flags = [(*together, f"--process={i}") for i in range(processes)] if processes > 1 else [()]
    return [start(*common, *own, devices=DEVICES // processes, bill=workdir.with_suffix(".bill")) for own in flags]


def _ended(processes: list) -> list[tuple[int, str]]:
    """Status and output of every process."""
    told = [(process.communicate(timeout=PATIENCE)[0], process.returncode) for process in processes]
    return [(status, out) for out, status in told]


def _succeed(processes: list) -> None:
    for status, out in _ended(processes):
        assert status == 0, out


def _sessions(workdir: Path) -> dict[int, list[str]]:
    """Ids of the recorded sessions by step."""
    found = {}
    for path in (workdir / "sessions").glob("*/rollouts.json"):
        told = json.loads(path.read_text())
        found[told["step"]] = [group["session"]["id"] for group in told["groups"]]
    return found


def _arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        shapes = reader.metadata(workdir / "checkpoints" / str(step) / "arrays").item_metadata
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes.tree if hasattr(shapes, "tree") else shapes)
        tree = reader.restore(workdir / "checkpoints" / str(step) / "arrays", restore_args=kinds)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def _alike(ours: Path, theirs: Path) -> None:
    """The same losses at every step, and rewards as near as pictures rounded to 256 levels let them be. Gradients are sums in another
    order, which Adam's first steps make more of."""
    first, second = metrics.read(ours), metrics.read(theirs)
    assert [line["step"] for line in first] == [line["step"] for line in second] == list(range(STEPS))
    for one, other in zip(first, second, strict=True):
        for name, apart in {"loss/total": 1e-6, "image/kl": 1e-6, "reward/mean": 1e-5, "reward/cc/mean": 1e-5}.items():
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), abs=apart), (one["step"], name)
        assert one["optimizer/gradient_norm"] == pytest.approx(other["optimizer/gradient_norm"], rel=1e-3), one["step"]


@pytest.fixture(scope="module")
def whole(small_checkpoint, tmp_path_factory) -> Path:
    """An uninterrupted run of HOSTS processes."""
    workdir = tmp_path_factory.mktemp("hosts") / "whole"
    _succeed(_run(workdir, small_checkpoint, processes=HOSTS))
    return workdir


@pytest.fixture(scope="module")
def alone(small_checkpoint, tmp_path_factory) -> Path:
    """An uninterrupted run of one process, on as many devices."""
    workdir = tmp_path_factory.mktemp("hosts") / "alone"
    _succeed(_run(workdir, small_checkpoint))
    return workdir


def test_layouts_change_nothing_but_where_things_lie(alone, small_checkpoint, tmp_path):
    """Heads cut over devices in play, words in a layout of their own, slots of the context cut over devices."""
    layouts = ("--config.mesh.tensor=2", "--config.mesh.rollout=tensor", "--config.mesh.words=resident", "--config.mesh.sequence=2")
    _succeed(_run(tmp_path / "laid", small_checkpoint, *layouts))
    _alike(tmp_path / "laid", alone)


def test_several_processes_learn_what_one_learns_and_another_number_goes_on(alone, whole, small_checkpoint, tmp_path):
    handed = tmp_path / "handed"
    _alike(alone, whole)
    assert _sessions(alone) == _sessions(whole)

    _succeed(_run(handed, small_checkpoint, "--config.loop.steps=1", processes=HOSTS))  # begun by several, ended by one
    _succeed(_run(handed, small_checkpoint))
    _alike(handed, alone)
    assert _sessions(handed) == _sessions(alone)


def _await(condition, processes: list) -> None:
    """Until it holds, or a process has ended."""
    ends = time.monotonic() + PATIENCE
    while not condition() and all(process.poll() is None for process in processes) and time.monotonic() < ends:
        time.sleep(0.05)


def _lines(workdir: Path) -> int:
    """How many steps are told of, also while the next is being written."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_process_is_named_and_the_same_command_goes_on(whole, small_checkpoint, tmp_path):
    """Every fourth kill comes while the run starts, the others in what it does: play, judging, update, save."""
    workdir, moments, told = tmp_path / "broken", random.Random(int(os.environ.get("EDITR2_KILL_SEED", "0"))), []
    kills = int(os.environ.get("EDITR2_KILLS", "1"))
    seconds = float(np.median([line["time/step_s"] for line in metrics.read(whole)]))
    asked = lambda: billed(workdir.with_suffix(".bill")).total()  # noqa: E731
    while len(told) < kills and len(metrics.read(workdir)) < STEPS:
        before = asked()
        processes = _run(workdir, small_checkpoint, processes=HOSTS)
        if len(told) % 4 != 3:
            _await(lambda: asked() > before, processes)  # noqa: B023
        ends, done = time.monotonic() + moments.uniform(0, 1.5 * seconds), _lines(workdir)
        _await(lambda: time.monotonic() > ends or _lines(workdir) > done, processes)  # noqa: B023
        victim, at = moments.randrange(HOSTS), len(metrics.read(workdir))
        processes[victim].send_signal(signal.SIGKILL)
        outcomes = _ended(processes)
        if outcomes[victim][0] == 0:
            break  # the run was over before
        assert outcomes[victim][0] == -signal.SIGKILL, outcomes
        for host, (status, out) in enumerate(outcomes):
            if host != victim:
                found = re.search(rf"host {victim}\b.*(has not been heard from|did not come|stopped)[^;.]*[;.][^.]*", out)
                assert status == 75 and found, (told, out)
        told.append(f"kill {len(told) + 1}, after {at} steps: {found.group()}")
        print(told[-1], flush=True)
    assert len(told) == kills, "the run was over too soon; give more EDITR2_HOST_STEPS"
    _succeed(_run(workdir, small_checkpoint, processes=HOSTS))
    assert [line["step"] for line in metrics.read(workdir)] == list(range(STEPS)), told
    _same(_arrays(workdir, STEPS), _arrays(whole, STEPS))
    assert _sessions(workdir) == _sessions(whole)
    paid, once = billed(workdir.with_suffix(".bill")), billed(whole.with_suffix(".bill"))
    print(f"{paid.total() - once.total()} of {once.total()} verdicts were in flight at a kill and paid again")
    assert paid.keys() == once.keys() and paid.total() - once.total() <= kills * HOSTS * 2, (
        told
    )  # rewards.workers: so many are asked at a time on a host
