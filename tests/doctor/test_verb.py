"""The verb from the command line, and what training asks of the doctor before step 0."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_checkpoint import CONFIG, call

from editr2_jax import assemble, experiment
from editr2_jax.cli import common
from editr2_jax.doctor import checks
from editr2_jax.rewards.base import Features
from editr2_jax.runtime import metrics
from editr2_jax.runtime.checkpoints import Checkpoints
from editr2_jax.tabletop import perception, world

MAIN = Path(__file__).parents[2] / "configs/tabletop_edit_r2.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "doctor wants --config=FILE.py (an untrained model), or --workdir=RUN"),
        ((f"--config={MAIN}", "--json=nowhere/at/all.json"), "there is no folder nowhere/at; make it first"),
        ((f"--config={MAIN}", "--onyl=masks"), "unknown flag --onyl (the nearest is --only)"),
        ((f"--config={MAIN}", "--only=mask"), "there is no check 'mask', did you mean 'masks'"),
        ((f"--config={MAIN}", "--config.doctor.members=1"), "2 sessions of 1 rollouts"),
        ((f"--config={MAIN.with_name('tabletop_supervised.py')}",), "this config's recipe is 'supervised'"),
        (("--workdir=nowhere",), "config.json: not found; give the --workdir of a run that has started"),
    ],
)
def test_a_mistake_is_told_before_anything_is_computed(argv, message):
    outcome = call("doctor", *argv)
    assert outcome.status == 2 and message in outcome.err and "Traceback" not in outcome.err


def small(checkpoint, *more) -> tuple[str, ...]:
    return (f"--config={CONFIG}", f"--config.model.checkpoint={checkpoint}", *more)


def findings(path: Path) -> dict[str, dict]:
    return {found["name"]: found for found in json.loads(path.read_text())["findings"]}


def test_checks_on_paper_need_no_play(small_checkpoint, tmp_path):
    """A session folder with ground truth in the place of the embedded world."""
    world.write_folder(tmp_path / "sessions", {"train": 3}, turns=2, size=(48, 48))
    out, only = tmp_path / "found.json", f"--only={','.join(checks.ON_PAPER)}"
    outcome = call("doctor", *small(small_checkpoint, f"--config.data.path={tmp_path / 'sessions'}", only, f"--json={out}"))
    assert outcome.status == 0, outcome
    assert "untrained" in outcome.out and outcome.out.endswith("verdict: 4 ok. Nothing is to be done.\n")
    assert list(findings(out)) == list(checks.ON_PAPER) and "jax" in json.loads(out.read_text())["versions"]
    assert findings(out)["rewards"]["evidence"].startswith("6 known pairs")


def test_a_failure_is_an_exit_status_and_stops_what_would_be_played(small_checkpoint, tmp_path):
    out = tmp_path / "found.json"
    outcome = call("doctor", *small(small_checkpoint, "--config.data.group=1", "--only=batch,masks", f"--json={out}"))
    assert outcome.status == 1 and "What to do:" in outcome.out and not outcome.err
    assert {name: found["opinion"] for name, found in findings(out).items()} == {"batch": "fail", "masks": "skipped"}


def test_a_time_grid_that_depends_on_the_picture_can_be_examined(small_checkpoint):
    outcome = call("doctor", *small(small_checkpoint, "--config.rollout.flow.schedule=dynamic", "--only=batch"))
    assert outcome.status == 0, outcome


def test_training_asks_before_step_0(small_checkpoint, tmp_path, monkeypatch):
    same = lambda self, pictures: Features(cls=np.ones((len(pictures), 2)), patches=np.ones((len(pictures), 2, 2, 2)))  # noqa: E731
    monkeypatch.setattr(perception.TabletopFeatures, "embed", same)
    outcome = call("train", *small(small_checkpoint, f"--workdir={tmp_path}"))
    assert outcome.status == 1 and "Traceback" not in outcome.err
    assert "before step 0 the doctor found: rewards: cc is constant: 1 for right and wrong alike" in outcome.err
    assert "doctor.before=False" in outcome.err and not metrics.read(tmp_path)


def saved_run(checkpoint: Path, folder: Path) -> Path:
    """A run that has saved step 1, made without training."""
    config = common.load_config(str(CONFIG), [("model.checkpoint", str(checkpoint))])
    common.claim_workdir(str(folder), config)
    model = assemble.model(config)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, experiment.arrays_of(experiment.fresh_state(config, model)), {"step": 1})
    assemble.data_folder(config, folder)
    return folder


@pytest.mark.slow
def test_a_run_is_examined_where_it_stands(small_checkpoint, tmp_path):
    """Random weights draw noise and never answer: that is said, and nothing else; the run's folder stays as it is."""
    run, out = saved_run(small_checkpoint, tmp_path / "run"), tmp_path / "found.json"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    played = [name for name in checks.CHECKS if name not in ("padding", "masks", "reference", "adapters", "learning")]
    outcome = call("doctor", f"--workdir={run}", f"--json={out}", f"--only={','.join(played)}")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert f"on cpu; step 0 of {run}" in outcome.out
    said = {name: found["opinion"] for name, found in findings(out).items() if found["advice"]}
    assert said == {"drift": "fail", "intents": "warn"} and outcome.status == 1, findings(out)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_main_job_is_well(tmp_path):
    out = tmp_path / "found.json"
    outcome = call("doctor", f"--config={MAIN}", f"--json={out}", "--config.doctor.members=2")
    assert outcome.status == 0, outcome
    assert {found["opinion"] for found in findings(out).values()} == {"ok"} and list(findings(out)) == list(checks.CHECKS)
