"""--at: which checkpoint of a run the verbs read that take one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_checkpoint import CONFIG, call

from editr2_jax import assemble
from editr2_jax.cli import common
from editr2_jax.resuming import arrays_of, fresh_state
from editr2_jax.runtime.checkpoints import Checkpoints


def saved_run(folder, checkpoint, *, best=None):
    """A run that has saved steps 2, 4 and 6, each with other numbers, as training leaves it; `best` is the one that evaluations named."""
    config = common.load_config(str(CONFIG), [("model.checkpoint", str(checkpoint)), ("loop.keep", "3")])
    common.claim_workdir(str(folder), config)
    state = fresh_state(config, assemble.model(config))
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        for step in (2, 4, 6):
            trainable = jax.tree.map(lambda x, step=step: jnp.full_like(x, 0.1 * step), state.trainable)
            checkpoints.save(step, arrays_of(dataclasses.replace(state, trainable=trainable, step=jnp.int32(step))), {"step": step})
        checkpoints.confirm(4)
        if best is not None:
            checkpoints.report(best, 0.5, metric="eval/reward")
    return folder


def verbs(run, folder):
    """verb -> the command, without --at."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / "photo.png")
    return {
        "edit": ("edit", f"--run={run}", f"--image={folder / 'photo.png'}", "--say=Remove ball"),
        "evaluate": ("evaluate", f"--run={run}", "--pictures-only"),
        "export": ("port", "export", f"--workdir={run}", "--adapter"),
    }


def out(verb, folder):
    return f"--{'workdir' if verb == 'evaluate' else 'out'}={folder}"


def learned(folder):
    """The number that all of an exported adapter are."""
    return float(
        np.unique(
            load_file(folder / "adapter_model.safetensors")["base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_B.weight"]
        ).item()
    )


@pytest.mark.parametrize("at, step", [(None, 6), ("latest", 6), ("best", 2), ("healthy", 4), ("4", 4)])
def test_the_checkpoint_that_was_asked_for_is_exported(small_checkpoint, tmp_path, at, step):
    run = saved_run(tmp_path / "run", small_checkpoint, best=2)
    done = call(*verbs(run, tmp_path)["export"], out("export", tmp_path / "adapter"), *([f"--at={at}"] if at else []))
    named = "" if at == "4" else f" ({at or 'latest'})"
    assert done.status == 0 and f"step {step} of {run}{named} in" in done.out, done.err
    assert learned(tmp_path / "adapter") == pytest.approx(0.1 * step)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_the_checkpoint_that_was_asked_for_draws(small_checkpoint, tmp_path):
    run, drawn = saved_run(tmp_path / "run", small_checkpoint, best=2), {}
    command = verbs(run, tmp_path)["edit"]
    for at in ("best", "2", "latest"):
        done = call(*command, out("edit", tmp_path / at), f"--at={at}")
        assert done.status == 0, done.err
        drawn[at] = done.out.splitlines()[0], (tmp_path / at / "turn_0.png").read_bytes()
    assert [line for line, _ in drawn.values()] == [f"step 2 of {run} (best)", f"step 2 of {run}", f"step 6 of {run} (latest)"]
    assert drawn["best"][1] == drawn["2"][1] != drawn["latest"][1]


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_the_checkpoint_that_was_asked_for_is_evaluated(small_checkpoint, tmp_path):
    run, played = saved_run(tmp_path / "run", small_checkpoint, best=2), tmp_path / "played"
    for at, step in (("best", 2), ("latest", 6)):
        done = call(*verbs(run, tmp_path)["evaluate"], out("evaluate", played), f"--at={at}")
        assert done.status == 0 and f"step {step} of {run} ({at})" in done.out.splitlines(), done.err
        assert any((played / "eval" / str(step) / "pictures").glob("**/turn_1.png"))
    assert sorted(path.name for path in (played / "eval").iterdir()) == ["2", "6"]


@pytest.mark.parametrize("verb", ["edit", "evaluate", "export"])
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(small_checkpoint, tmp_path, verb, monkeypatch):
    run = saved_run(tmp_path / "run", small_checkpoint)
    monkeypatch.setattr(assemble, "model", lambda *_, **__: pytest.fail("no weights are read for it"))
    for at, message in {
        "3": "there is no step 3; there are 2, 4, 6",
        "best": "no evaluation has named a best one yet, so there is no best checkpoint; ask for the latest, or for one of the steps 2, 4",
        "bets": "no step is called 'bets'; ask for latest, healthy, best, or for one of the steps 2, 4, 6",
    }.items():
        done = call(*verbs(run, tmp_path)[verb], out(verb, tmp_path / "out"), f"--at={at}")
        assert done.status == 2 and message in done.err, (at, done.err)


def test_it_is_for_checkpoints_of_runs(small_checkpoint, tmp_path):
    for flag, command in {
        "run": ("evaluate", f"--config={CONFIG}", f"--workdir={tmp_path}"),
        "workdir": ("port", "export", f"--checkpoint={small_checkpoint}", f"--out={tmp_path / 'out'}"),
    }.items():
        done = call(*command, "--at=best")
        assert done.status == 2 and f"--at=best chooses a checkpoint of a run; give --{flag}=DIR, or leave --at out" in done.err
