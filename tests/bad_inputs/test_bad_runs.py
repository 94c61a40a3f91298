"""Bad inputs that a run meets on its way: what happens to the run, and to what it had saved. The table stands in test_bad_inputs.py."""

import itertools
import json
from pathlib import Path

import pytest
from small_checkpoint import CONFIG, Outcome, call

from editr2_jax.cli import main as entry
from editr2_jax.runtime import metrics
from editr2_jax.tabletop import perception, world

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]


@pytest.fixture
def sessions(tmp_path) -> Path:
    """Six sessions of the embedded world, and none held out: nothing is evaluated."""
    folder = tmp_path / "sessions"
    world.write_folder(folder, {"train": 6}, turns=2, size=(48, 48), targets=True)
    return folder


@pytest.fixture
def train(tmp_path, small_checkpoint, sessions):
    """train(steps, "--config.a.b=VALUE", ...) -> Outcome, always in the same workdir."""

    def run(steps: int, *more: str, variant: str = "edit_r2") -> Outcome:
        settings = {"model.checkpoint": small_checkpoint, "data.path": sessions, "loop.steps": steps, "loop.save_every": 1}
        where = (f"--config={CONFIG}:{variant}", f"--workdir={tmp_path / 'run'}")
        return call("train", *where, *(f"--config.{name}={value}" for name, value in settings.items()), *more)

    return run


def saved(tmp_path: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (tmp_path / "run/checkpoints").iterdir() if folder.name.isdecimal())


def steps(tmp_path: Path) -> list[int]:
    return [line["step"] for line in metrics.read(tmp_path / "run")]


def turns_of(tmp_path: Path, step: int) -> list[dict]:
    groups = json.loads((tmp_path / f"run/sessions/{step}/rollouts.json").read_text())["groups"]
    return [turn for group in groups for rollout in group["rollouts"] for turn in rollout["turns"]]


def failing(monkeypatch, when) -> None:
    """Makes the feature service refuse to answer whenever `when()` says so."""
    embed = perception.TabletopFeatures.embed

    def sometimes(self, pictures):
        if when():
            raise ConnectionError("no answer from the feature server")
        return embed(self, pictures)

    monkeypatch.setattr(perception.TabletopFeatures, "embed", sometimes)


def test_what_cannot_be_parsed_and_what_was_not_judged_is_counted_and_teaches_nothing(train, tmp_path, monkeypatch):
    """Random weights never close their thought; the feature service refuses every second time."""
    calls = itertools.count()
    failing(monkeypatch, lambda: next(calls) % 2 == 0)
    assert train(1, "--config.rewards.max_error_share=0.9").status == 0
    (line,) = metrics.read(tmp_path / "run")

    assert line["intent/fallback_share"] == 1.0
    (group,) = json.loads((tmp_path / "run/sessions/0/rollouts.json").read_text())["groups"]
    for turn in (rollout["turns"][1] for rollout in group["rollouts"]):
        assert turn["intent_fallback"] and "</think>" not in turn["intent_raw"]
        assert turn["intent"] == group["session"]["turns"][1]["instruction"]

    assert 0 < line["reward/error_share"] < 0.5 and 0 < line["reward/missing_share"] < 1
    lost = [turn for turn in turns_of(tmp_path, 0) if turn["status"]["cc"] == "service_error"]
    assert lost
    for turn in lost:
        assert turn["scores"]["cc"] is None and turn["reward"] is None and not turn["image_learns"] and not turn["text_learns"]
        assert turn["why_filtered"] == "no verdict" and "no answer from the feature server" in turn["detail"]["cc"]["reason"]


def test_too_many_failed_judges_stop_the_run_and_nothing_is_lost(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        failing(patched, lambda: steps(tmp_path) == [0])  # from its second step on
        outcome = train(3)
    assert outcome.status == entry.FAILED and "Traceback" not in outcome.err
    for part in ("verdicts failed (", "the limit is 5.0%", "no answer from the feature server", "Repair the judge or raise"):
        assert part in outcome.err, outcome.err
    assert steps(tmp_path) == [0] and saved(tmp_path) == [1]
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert train(2).status == 0  # repaired, the same command goes on
    assert steps(tmp_path) == [0, 1] and saved(tmp_path) == [1, 2]
    assert (tmp_path / "run/metrics.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("variant", ["edit_r2", pytest.param("autoencoder", marks=pytest.mark.nightly)])
def test_a_loss_that_is_no_number_stops_the_run(train, tmp_path, variant):
    outcome = train(4, "--config.optimizer.learning_rate=1e15", variant=variant)
    assert outcome.status == entry.FAILED and "Traceback" not in outcome.err
    assert f"step {steps(tmp_path)[-1] + 1}" in outcome.err and "loss/total = " in outcome.err, outcome.err
    assert "The last checkpoint is sound" in outcome.err and "lower optimizer.learning_rate" in outcome.err
    assert saved(tmp_path)[-1] == steps(tmp_path)[-1] + 1 < 4


def test_a_picture_that_breaks_during_a_run_is_named(train, tmp_path, sessions):
    for picture in (sessions / "images").glob("*.png"):
        picture.write_bytes(picture.read_bytes()[:200])
    outcome = train(1, variant="autoencoder")
    assert outcome.status == entry.USAGE and "Traceback" not in outcome.err
    assert ".png is damaged or incomplete" in outcome.err and "copy it again or remove its session" in outcome.err
    assert not steps(tmp_path) and not saved(tmp_path)
