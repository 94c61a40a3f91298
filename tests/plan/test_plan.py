"""plan: every phase of a run compiled from shapes, for the devices at hand, and for a TPU where libtpu is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_checkpoint import PATIENCE, call, start

from editr2_jax.cli import common
from editr2_jax.plan import phases, search, told, topology
from editr2_jax.plan.compiled import Examined
from editr2_jax.runtime import chips

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs/tabletop_edit_r2.py'}"


@pytest.mark.slow
def test_every_phase_of_the_main_job_compiles_on_the_devices_at_hand(tmp_path):
    small = ("--config.step.rows=8", "--config.evaluate.rows=8")
    process = start("plan", CONFIG, "--topology=here", f"--json={tmp_path / 'plan.json'}", *small)  # `call` puts its own jit in jax's place
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out
    plan = json.loads((tmp_path / "plan.json").read_text())
    names = [phase["name"] for phase in plan["phases"]]
    assert names[:7] == ["perceive", "begin", "instruct", "read", "intent", "denoise", "decode"]
    assert {"replay", "recall", "gradient", "apply", "evaluation: denoise", "evaluation: intent"} <= set(names)
    assert all(phase["need"] > 0 for phase in plan["phases"])
    executed = {phase["name"]: phase for phase in plan["phases"]}
    assert executed["gradient"]["flops"] > executed["recall"]["flops"] > 0
    assert "8 sessions x 8 = 64 rollouts a step" in out


@pytest.mark.slow
def test_a_phase_compiles_for_a_tpu_that_is_not_there():
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "editr2_jax", "plan", CONFIG, "--topology=v5e:2x2", "--only=instruct,gradient", "--config.step.rows=8"]
    # The kernel in it: the gradient's blocks are long enough only where pictures are; so it is asked for.
    command += ["--config.model.attention=kernel", "--config.evaluate.rows=8", "--config.mesh.tensor=2", "--config.mesh.train=tensor"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "v5e:2x2 (4 devices" in done.stdout and "gradient" in done.stdout


def test_a_plan_of_7b_says_where_everything_lies_without_an_array():
    config = common.load_config(str(ROOT / "configs/bagel_7b_edit_r2.py:v5e_16"))
    with config.unlocked():
        config.mesh.update(fsdp=1, tensor=1)
    subject = phases.Subject(config, topology.of("here"), size=(512, 512))
    names = [phase.name for phase in phases.of(subject)]
    assert "gradient" in names and "stage" not in names  # one copy of the weights: nothing is moved after an update
    assert phases.bytes_of(subject.learn.frozen) > 29e9 and 1.2e9 < phases.bytes_of(subject.learn.trainable) < 1.4e9
    assert subject.dialogue(rank=64).picture == 1024 + 2 + 37 * 37 + 2


def test_mistakes_are_named(tmp_path):
    for argument, message in (
        ("--topology=v5litepod-16", "give GENERATION:AxB"),
        ("--topology=here --only=draw", "there is no phase draw"),
        ("--topology=here --size=512", "give HEIGHTxWIDTH"),
        ("--topology=here --search=depth=2", "the knobs are rows"),
        ("--topology=here --config.mesh.fsdp=3", "does not hold 1 devices"),
    ):
        outcome = call("plan", CONFIG, *argument.split())
        assert outcome.status == 2 and message in outcome.err, (argument, outcome.err)


def test_variants_are_all_combinations():
    config = common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"))
    found = [(told, varied.step.rows, varied.model.remat) for told, varied in search.variants(config, "rows=8,16;remat=full,none")]
    assert found[0] == ("rows=8, remat=full", 8, "full") and len(found) == 4 and config.step.rows == 64


def test_plans_stand_side_by_side(tmp_path):
    chip = {"memory": 2**34}
    phase = {"name": "denoise", "calls": 3, "arguments": 2**30, "temporaries": 2**31, "need": 2**32, "flops": 2e12, "share": 0.5}
    phase |= {"fits": True, "seconds": {"compute": 2.0, "memory": 1.0, "wires": 0.5}, "too_much": ""}
    step = {"bound": 6.0, "apart": 10.5, "sessions": 96, "useful": 3.0, "peak": 1.0, "chip_hours_per_1000": 0.3}
    plan = {
        "topology": "v5e:4x4",
        "devices": 16,
        "rows": 48,
        "chip": chip,
        "mesh": {"train": "fsdp", "rollout": "fsdp", "words": "resident"},
        "step": step,
    }
    (tmp_path / "a.json").write_text(json.dumps(plan | {"phases": [phase], "command": "plan it", "compiler": "jax"}))
    told = call("plan", f"--table={tmp_path / 'a.json'}")
    assert (
        told.status == 0
        and "| v5e:4x4 | 16 | fsdp, fsdp, resident | 48 | 4.00 of 16.00 (denoise) | 6 (10) | 50% | 57600 | 0.3 |" in told.out
    )
    assert "| v5e:4x4 | denoise | 3 | 1.00 | 2.00 | 4.00 | 2.0 | 2.000 | 1.000 | 0.500 | compute | 50% |" in told.out
    assert "there is no missing.json" in call("plan", "--table=missing.json").err


def test_a_phase_is_bound_by_its_slowest_resource():
    chip = chips.of("v5e")
    common_ = {"calls": 2, "beside": 2**30, "arguments": 2**30, "temporaries": 2**30, "results": 0, "code": 0, "compile_seconds": 1.0}
    phase = Examined(
        name="x", flops=chip.peak, useful=chip.peak / 2, memory=chip.bandwidth * 2, collectives={"all-gather": chip.links / 2}, **common_
    )
    assert phase.times(chip) == {"compute": 1.0, "memory": 2.0, "wires": 0.5} and phase.need == 3 * 2**30
    assert told.share(phase, chip) == 0.25 and told.fits(phase, chip) and "memory" in told.row(phase, chip)
