"""Runs from the command line to their last file: finished, stopped, killed, resumed; every recipe; photographs."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from small_checkpoint import CONFIG, PATIENCE, billed, call, handles, small_config, start

from editr2_jax import assemble, experiment
from editr2_jax.cli import common
from editr2_jax.data.session_source import SessionFolder
from editr2_jax.runtime import metrics, signals

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]
STEPS = 6  # of small_run.py


def train(workdir, checkpoint, *more, variant: str = "edit_r2") -> tuple:
    """The arguments of a training run."""
    return ("train", f"--config={CONFIG}:{variant}", f"--workdir={workdir}", f"--config.model.checkpoint={checkpoint}", *more)


def succeed(*argv) -> str:
    """Runs a command that must not fail; what it printed."""
    outcome = call(*argv)
    assert outcome.status == 0, outcome.err
    return outcome.out


def steps(workdir: Path) -> list[int]:
    """The steps that metrics.jsonl tells about."""
    return [line["step"] for line in metrics.read(workdir)]


def saved(workdir: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdecimal())


def made(workdir: Path) -> dict[str, bytes]:
    """Everything that a finished run never touches again."""
    kept = ("checkpoints", "eval", "sessions", "metrics.jsonl")
    return {name: file for name, file in content(workdir).items() if name.split("/")[0] in kept}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# finished --------------------------------------------------------------------------------------------------------------------------


def test_a_run_from_its_start_to_its_report(small_checkpoint, tmp_path):
    run = tmp_path / "run"
    out = succeed(*train(run, small_checkpoint))
    result = (run / "report/result.txt").read_text()
    assert out.endswith(result) and "on 2 held-out dialogues" in result and "held-out reward at step 0" in out

    assert json.loads((run / "config.json").read_text())["loop"]["steps"] == STEPS
    assert json.loads((run / "versions.json").read_text())["jax"] == jax.__version__
    assert steps(run) == list(range(STEPS)) and saved(run) == [4, 6]
    assert list((run / "tensorboard").iterdir())
    for step in (0, STEPS):
        assert {"scores.jsonl", "strips.json", "summary.json", "s0", "s1"} <= {path.name for path in (run / f"eval/{step}").iterdir()}
    assert sorted(int(folder.name) for folder in (run / "sessions").iterdir()) == [0, 2, 4, 5]
    rollouts = json.loads((run / "sessions/5/rollouts.json").read_text())["groups"][0]["rollouts"]
    assert len(rollouts) == 2 and len(rollouts[0]["turns"]) == 2 and rollouts[0]["turns"][1]["intent_fallback"]
    assert "Session inspector" in (run / "report/index.html").read_text()
    learned = metrics.read(run)
    assert all(line["image/first_log_ratio_max"] <= 1e-4 and line["intent/fallback_share"] == 1.0 for line in learned)
    assert any(line["optimizer/update_norm"] > 0 for line in learned)

    kept = made(run)
    assert succeed(*train(run, small_checkpoint)).endswith(result)  # the same command again
    other = call(*train(run, small_checkpoint, "--config.seed=1", "--config.lora.rank=4"))  # another run's
    assert other.status == 2 and "belongs to another config (lora.rank was 2, is 4; seed was 0, is 1)" in other.err
    assert succeed("report", f"--workdir={run}").splitlines() == [result.strip(), str(run / "report/index.html")]
    assert made(run) == kept

    tables = succeed("evaluate", f"--workdir={tmp_path / 'again'}", f"--run={run}")
    assert "| turn" in tables.lower()
    assert (tmp_path / f"again/eval/{STEPS}/scores.jsonl").read_text() == (run / f"eval/{STEPS}/scores.jsonl").read_text()

    picture, drawn = next((run / "data/images").iterdir()), tmp_path / "drawn"
    say = ("--say=Remove ball", "--say=Change the background to snow")
    told = succeed("edit", f"--run={run}", f"--image={picture}", f"--out={drawn}", *say).splitlines()
    assert told[0] == f"step {STEPS} of {run} (latest)"
    assert len(told) == 3 and told[2].startswith("turn 1: Change the background to snow")
    assert sorted(path.name for path in drawn.iterdir()) == ["session.json", "strip.png", "turn_0.png", "turn_1.png"]
    assert np.asarray(Image.open(drawn / "strip.png")).shape == (48, 3 * 48, 3)


def test_a_run_with_an_average_keeps_it_and_can_be_looked_at_before_any_step(small_checkpoint, tmp_path):
    """The average is what is evaluated, and part of every checkpoint that a later look needs."""
    run = tmp_path / "run"
    succeed(*train(run, small_checkpoint, "--config.ema.kind=constant", "--config.loop.steps=2", "--config.evaluate.before=false"))
    assert [line["average/ema_decay"] for line in metrics.read(run)] == [0.9, 0.9]
    config = common.saved_config(run)
    model = assemble.model(config)
    before, after = (experiment.state_at(config, model, run, step) for step in (0, 2))
    moved = lambda state: float(optax.tree.norm(jax.tree.map(lambda a, b: a - b, state.ema, before.ema)))  # noqa: E731
    assert int(before.step) == 0 and int(after.step) == 2 and moved(before) == 0 < moved(after)
    kind = lambda state: [(leaf.shape, leaf.dtype, leaf.committed) for leaf in jax.tree.leaves(state)]  # noqa: E731
    assert kind(after) == kind(before), "what was compiled for one serves the other"
    with pytest.raises(ValueError, match="there is no step 1; there are 2"):
        experiment.state_at(config, model, run, 1)


# stopped and killed ----------------------------------------------------------------------------------------------------------------


def wait_for(process, condition, what: str) -> None:
    """Returns once the condition holds; fails if the process ends before."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"the run ended before {what}:\n{process.communicate()[0]}")
        if time.monotonic() > ends:
            process.kill()
            pytest.fail(f"no {what} in {PATIENCE} s:\n{process.communicate()[0]}")
        time.sleep(0.02)


def lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def finish(*argv, bill: Path | None = None) -> str:
    """Runs a command in a process of its own to its end; what it printed."""
    process = start(*argv, bill=bill)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    return out


def final_arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint by its name: parameters, moments, step."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(workdir / "checkpoints" / str(saved(workdir)[-1]) / "arrays")
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def without_times(workdir: Path) -> list[dict]:
    """The metrics without what depends on the machine and on stops."""
    passing = ("time/", "resume/", "idle/", "compile/", "memory/", "mfu/")
    return [{name: value for name, value in line.items() if not name.startswith(passing)} for line in metrics.read(workdir)]


def interrupt(process, sent: signal.Signals, workdir: Path, total: int) -> None:
    """Ends the run; a polite signal is obeyed after the step at hand, and what was reached is saved."""
    process.send_signal(sent)
    out, _ = process.communicate(timeout=PATIENCE)
    if sent is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL, out
        return
    assert process.returncode == 0, out
    stopped = saved(workdir)[-1]
    assert steps(workdir) == list(range(stopped)) and stopped < total
    assert out.endswith(f"stopped at step {stopped} of {total}; the same command goes on.\n")


@pytest.mark.nightly
def test_stops_and_kills_leave_no_trace(small_checkpoint, tmp_path):
    """`kill -9`, then SIGTERM, each time the same command again. EDITR2_KILLS says how often it is killed."""
    kills = int(os.environ.get("EDITR2_KILLS", "1"))
    total = int(os.environ.get("EDITR2_KILL_STEPS", 4 * kills))  # so that two steps are left where the last kill comes
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = (f"--config.loop.steps={total}", f"--config.evaluate.every={total // 2}", "--config.loop.save_every=3")
    finish(*train(whole, small_checkpoint, *more))
    step_seconds = float(np.median([line["time/step_s"] for line in metrics.read(whole)]))
    moments, told = random.Random(int(os.environ.get("EDITR2_KILL_SEED", "0"))), []
    order = [signal.SIGKILL, signal.SIGTERM, *[signal.SIGKILL] * (kills - 1)]
    for number, sent in enumerate(order):
        least = round(number * total / len(order))  # the first kill comes while the untrained model is being evaluated
        process = start(*train(broken, small_checkpoint, *more))
        wait_for(process, lambda: (broken / "eval").exists() and lines(broken) >= least, f"step {least}")  # noqa: B023
        time.sleep(moments.uniform(0, 2 * step_seconds) if sent is signal.SIGKILL else 0)
        interrupt(process, sent, broken, total)
        told.append(f"{sent.name} after {lines(broken)} steps, checkpoints {saved(broken)}")
        print(told[-1])
    assert f"resuming at step {saved(broken)[-1]} of {total}" in finish(*train(broken, small_checkpoint, *more))

    assert steps(broken) == list(range(total)), told
    assert without_times(broken) == without_times(whole), told
    expected, found = final_arrays(whole), final_arrays(broken)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert array.dtype == found[name].dtype and array.tobytes() == found[name].tobytes(), (name, told)
    assert any(np.any(array) for name, array in found.items() if "lora_b" in name)
    for step in range(0, total + 1, total // 2):
        assert content(broken / f"eval/{step}") == content(whole / f"eval/{step}"), (step, told)


def test_a_stop_in_an_evaluation_leaves_it_for_the_next_start(small_checkpoint, tmp_path, monkeypatch):
    """Before the first step; then after one that nothing else would have saved."""
    run, asked = tmp_path / "run", {"stop": lambda: True}
    monkeypatch.setattr(signals, "stop_flag", lambda: contextlib.nullcontext(lambda: asked["stop"]()))
    more = ("--config.loop.steps=2", "--config.evaluate.every=1", "--config.loop.save_every=9", "--config.doctor.before=false")
    assert succeed(*train(run, small_checkpoint, *more)).endswith("stopped at step 0 of 2; the same command goes on.\n")
    assert not list((run / "eval").glob("*/summary.json")) and not lines(run)

    asked["stop"] = lambda: lines(run) == 1  # no sooner than in the evaluation after step 0
    assert succeed(*train(run, small_checkpoint, *more)).endswith("stopped at step 1 of 2; the same command goes on.\n")
    assert saved(run) == [1] and sorted(path.parent.name for path in (run / "eval").glob("*/summary.json")) == ["0"]


@pytest.mark.nightly
def test_sigterm_at_any_moment_loses_nothing_and_pays_once(small_checkpoint, tmp_path):
    """Every fourth time while the run starts, else once it has something new to be judged: in play, update, save or evaluation.
    EDITR2_STOPS=20 EDITR2_KILL_STEPS=30 makes the full check of it."""
    stops, total = int(os.environ.get("EDITR2_STOPS", "3")), int(os.environ.get("EDITR2_KILL_STEPS", "6"))
    whole, broken, moments, told = tmp_path / "whole", tmp_path / "broken", random.Random(int(os.environ.get("EDITR2_KILL_SEED", "0"))), []
    more, bills = (
        (f"--config.loop.steps={total}", f"--config.evaluate.every={total // 2}"),
        (tmp_path / "whole.bill", tmp_path / "broken.bill"),
    )
    finish(*train(whole, small_checkpoint, *more), bill=bills[0])
    step_seconds = float(np.median([line["time/step_s"] for line in metrics.read(whole)]))
    while len(told) < stops and lines(broken) < total:
        asked = billed(bills[1]).total()
        process = start(*train(broken, small_checkpoint, *more), bill=bills[1])
        wait_for(process, lambda: handles(process, signal.SIGTERM), "handler of SIGTERM")  # noqa: B023
        if len(told) % 4 != 3:
            wait_for(process, lambda: billed(bills[1]).total() > asked, "verdict")  # noqa: B023
        time.sleep(moments.uniform(0, 2 * step_seconds))
        done, sent = lines(broken), time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, (told, out)
        kept = saved(broken)[-1] if (broken / "checkpoints").exists() and saved(broken) else 0
        assert steps(broken) == list(range(kept)) and kept >= done, (told, out)
        told.append(f"SIGTERM after {done} steps, exit 0 at step {kept} in {time.monotonic() - sent:.1f} s")
        print(told[-1])
    assert len(told) == stops, "the run was over too soon; give more EDITR2_KILL_STEPS"
    finish(*train(broken, small_checkpoint, *more), bill=bills[1])
    assert without_times(broken) == without_times(whole), told
    assert billed(bills[1]) == billed(bills[0]), told
    assert all(np.array_equal(array, final_arrays(whole)[name]) for name, array in final_arrays(broken).items()), told


# the other recipes -----------------------------------------------------------------------------------------------------------------


def test_a_base_is_made_in_stages(small_checkpoint, tmp_path):
    """As launch/tiny_base.sh does, without its last stage: autoencoder, export, supervised training on it, export; the result draws."""
    from editr2_jax.porting import bagel_weights

    folder, tensors = small_checkpoint, {}
    for recipe in ("autoencoder", "supervised"):
        run, out = tmp_path / recipe, tmp_path / f"{recipe}_exported"
        succeed(*train(run, folder, "--config.loop.steps=2", variant=recipe))
        assert steps(run) == [0, 1] and saved(run)[-1] == 2 and "0 evaluation(s)" in (run / "report/result.txt").read_text()
        succeed("port", "export", f"--workdir={run}", f"--out={out}")
        tensors[recipe] = bagel_weights.open_folder(out)
        folder = out
    before = bagel_weights.open_folder(small_checkpoint)
    same = {
        (recipe, part): all(np.array_equal(ours[name], tensors_before[name]) for name in tensors_before)
        for recipe, files in tensors.items()
        for part, ours, tensors_before in zip(("model", "autoencoder"), files, before, strict=True)
    }
    assert same == {
        ("autoencoder", "model"): True, ("autoencoder", "autoencoder"): False,
        ("supervised", "model"): False, ("supervised", "autoencoder"): False,
    }  # fmt: skip
    assert all(np.array_equal(tensors["supervised"][1][name], tensors["autoencoder"][1][name]) for name in before[1])
    scale = json.loads((folder / "bagel_config.json").read_text())["vae"]["scale_factor"]
    assert np.isfinite(scale) and scale != small_config().vae.scale  # measured on the pictures
    picture, drawn = next((tmp_path / "supervised/data/images").iterdir()), tmp_path / "drawn"
    succeed("edit", f"--config={CONFIG}", f"--checkpoint={folder}", f"--image={picture}", "--say=Remove ball", f"--out={drawn}")
    assert (drawn / "turn_0.png").exists()


@pytest.mark.nightly
def test_a_run_that_kept_its_base_needs_nothing_else(small_checkpoint, tmp_path):
    """It goes on, is drawn with, evaluated and exported after the checkpoint that it started from is gone."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(small_checkpoint, base)
    short = ("--config.loop.save_frozen=true", "--config.loop.save_every=1", "--config.evaluate.before=false", "--config.evaluate.every=0")
    succeed(*train(run, base, "--config.loop.steps=1", *short))
    succeed("port", "export", f"--workdir={run}", f"--out={tmp_path / 'before'}")
    shutil.rmtree(base)
    succeed("port", "export", f"--workdir={run}", f"--out={tmp_path / 'after'}")
    for name in ("ema.safetensors", "ae.safetensors", "llm_config.json", "vocab.json", "README.md"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes(), name
    succeed(*train(run, base, "--config.loop.steps=2", *short))
    assert steps(run) == [0, 1] and saved(run)[-1] == 2
    picture, played = next((run / "data/images").iterdir()), tmp_path / "played"
    assert f"step 2 of {run}" in succeed("edit", f"--run={run}", f"--image={picture}", "--say=Remove ball", f"--out={tmp_path / 'drawn'}")
    assert f"step 2 of {run}" in succeed("evaluate", f"--run={run}", f"--workdir={played}", "--pictures-only")
    absent = tmp_path / "absent"
    other = call("edit", f"--run={run}", f"--checkpoint={absent}", f"--image={picture}", "--say=Go", f"--out={tmp_path / 'drawn'}")
    assert other.status == 2 and f"'{absent}' is no folder" in other.err, "what was asked for by name is not replaced"
    another = call(*train(run, small_checkpoint, *short))
    assert another.status == 2 and "belongs to another config (model.checkpoint was" in another.err


# photographs -----------------------------------------------------------------------------------------------------------------------


def test_photographs_take_the_usual_path(small_checkpoint, tmp_path):
    """Written by a command, checked, trained on with the checkpoint's own ViT as the judge's eyes, edited: in their aspect ratios."""
    pytest.importorskip("skimage")
    photos, run, checkpoint = tmp_path / "photos", tmp_path / "run", tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, checkpoint)
    sizes = json.loads((checkpoint / "bagel_config.json").read_text())
    sizes["vae_transform"]["max_size"] = 48  # smaller pictures, same shapes
    (checkpoint / "bagel_config.json").write_text(json.dumps(sizes))

    assert "9 sessions" in succeed("data", "photos", f"--out={photos}")
    assert "train: 9 sessions: sound" in succeed("data", "check", photos)
    settings = {
        "data.path": photos, "loop.steps": 1, "loop.record_every": 1, "advantage.filter": "off",
        "rewards.use": "cc", "rewards.features": "vit", "rewards.detector": "none",
    }  # fmt: skip
    out = succeed(*train(run, checkpoint, *(f"--config.{name}={value}" for name, value in settings.items())))
    assert "has no test split" in out and "0 evaluation(s) so far" in out
    (learned,) = metrics.read(run)
    assert learned["step"] == 0 and 0 < learned["reward/cc/mean"] <= 1
    (group,) = json.loads((run / "sessions/0/rollouts.json").read_text())["groups"]
    (photo,) = photos.glob(f"images/{group['session']['id'].split('/')[-1]}*")
    (width, height), drawn = Image.open(photo).size, Image.open(run / "sessions/0/g0/source.png").size
    assert drawn[0] / drawn[1] == pytest.approx(width / height, rel=0.25)  # to whole tokens

    say = ("--say=Change the color of white cup to red", "--say=Remove spoon")
    succeed("edit", f"--run={run}", f"--image={photos / 'images/coffee.png'}", *say, f"--out={tmp_path / 'drawn'}")
    assert np.asarray(Image.open(tmp_path / "drawn/turn_1.png")).shape == (32, 48, 3)  # as wide as the photograph is


def test_a_run_reads_shards_behind_an_address(small_checkpoint, tmp_path, bucket):
    """Trained and evaluated on what tfds opens too: the same sessions and pictures as from the folder that it was made of."""
    folder, address = tmp_path / "sessions", "gs://bucket/sessions"
    succeed("data", "make", f"--out={folder}", "--train=6", "--test=2", "--size=48x48", "--turns=2")
    assert "train: 6 sessions, 6 pictures" in succeed("data", "convert", folder, "--from=sessions", "--to=tfds", f"--out={address}")
    settings = {"data.path": address, "loop.steps": 1, "loop.record_every": 1}
    run = tmp_path / "run"
    out = succeed(*train(run, small_checkpoint, *(f"--config.{name}={value}" for name, value in settings.items())))
    assert "on 2 held-out dialogues" in out
    (group,) = json.loads((run / "sessions/0/rollouts.json").read_text())["groups"]
    source = SessionFolder(folder, "train")
    (session,) = (session for session in source.sessions if session.id == group["session"]["id"])
    np.testing.assert_array_equal(np.asarray(Image.open(run / "sessions/0/g0/source.png")), source.read(session.image))
