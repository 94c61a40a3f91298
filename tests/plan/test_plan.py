"""plan: every phase of a run compiled from shapes, for the devices at hand, and for a TPU where libtpu is installed."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small_checkpoint import PATIENCE, call, start

from editr2_jax.cli import common
from editr2_jax.plan import compiled, phases, search, told, topology
from editr2_jax.plan.compiled import Examined
from editr2_jax.policies import flops
from editr2_jax.runtime import chips, mesh

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


@pytest.mark.slow
@pytest.mark.parametrize("mesh_", ["mesh.tensor=2", "mesh.tensor=2 mesh.rollout=tensor", "mesh.sequence=2"])
def test_a_device_executes_what_plan_counts(mesh_):
    """Against the compiled programs of eight devices, also where some of them do the same over again."""
    command = [sys.executable, str(ROOT / "tests/plan/flops_on_a_mesh.py"), "perceive,instruct,recall", *mesh_.split()]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "64", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"perceive", "instruct", "recall"}
    for phase, (counted, executed) in found.items():
        assert counted == pytest.approx(executed, rel=0.01), phase


@pytest.mark.slow
def test_the_reference_of_the_divergence_is_no_second_copy_of_the_weights():
    """In the compiled buffers of the gradient: without the divergence as with it, but for what a pass of one layer holds."""
    bytes_, frozen = [], 0
    for weight in ("0", "0.01"):
        small = [("step.rows", "8"), ("evaluate.rows", "8"), ("objective.image.kl_weight", weight), ("model.remat", "full")]
        subject = phases.Subject(common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"), small), topology.of("here"), size=(48, 48))
        phase = next(one for one in phases.of_learning(subject) if one.name == "gradient")
        bytes_.append(phase.trace().lower().compile().memory_analysis())
        frozen = phases.bytes_of(subject.learn.frozen)
    off, on = bytes_
    assert on.argument_size_in_bytes == off.argument_size_in_bytes > frozen
    assert on.temp_size_in_bytes - off.temp_size_in_bytes < 0.25 * frozen


def test_mistakes_are_named(tmp_path):
    for argument, message in (
        ("--topology=v5litepod-16", "give GENERATION:AxB"),
        ("--topology=tpu7x:2x2", "chips of tpu7x stand in three dimensions, such as 2x2x1"),
        ("--topology=v5e:4x4x4", "chips of v5e stand in two dimensions, such as 4x4"),
        ("--topology=here --only=draw", "there is no phase draw"),
        ("--topology=here --size=512", "give HEIGHTxWIDTH"),
        ("--topology=here --search=depth=2", "the knobs are rows"),
        ("--topology=here --config.mesh.fsdp=3", "does not hold 1 devices"),
        ("--topology=here --config.recipe=supervised", "recipe is 'supervised'; plan knows the phases of edit_r2 alone"),
        (
            "--topology=here --config.model.dtype=bf16",
            "model.dtype: there is no 'bf16', did you mean 'bfloat16'; choose from bfloat16, float16",
        ),
        ("--topology=here --config.train=whole", "train is 'whole'; choose lora or full"),
        ("--topology=here --search=rows=8,many", "--search: rows=many wants values of type int, such as 64"),
    ):
        outcome = call("plan", CONFIG, *argument.split())
        assert outcome.status == 2 and message in outcome.err, (argument, outcome.err)


def test_a_missing_compiler_and_a_shape_that_no_chips_have_are_told_apart(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(topology.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"libtpu, which compiles for TPUs, is not installed: pip install 'editr2_jax\[plan\]'"):
            topology.of("v5e:4x4")
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "editr2_jax", "plan", CONFIG, "--topology=v5e:3x5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2 and "does not know it" in done.stderr and "pip install" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_search_goes_on_where_one_combination_cannot_be_and_its_file_makes_a_table(tmp_path):
    out = tmp_path / "search.json"
    process = start("plan", CONFIG, "--topology=here", "--only=decode", "--search=tensor=1,3;rows=8", f"--json={out}")
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1 and "cannot be: the mesh data 1 x fsdp 0 x tensor 3" in said, said
    assert said.rindex("tensor=1, rows=8: no seconds, at most") < said.rindex("tensor=3, rows=8: cannot be")
    first, second = json.loads(out.read_text())["plans"]
    assert first["step"] is None, "some of the phases are no step"
    assert first["rows"] == 8 and "refused" not in first and "does not hold 1 devices" in second["refused"]
    table = call("plan", f"--table={out}")
    assert table.status == 0 and "| here (tensor=1, rows=8) | decode |" in table.out and "NOT FIT" not in table.out, table.err
    (tmp_path / "other.json").write_text("{}")
    assert "other.json: no plan; give files that plan --json wrote" in call("plan", f"--table={tmp_path / 'other.json'}").err


def test_what_phases_are_asked_to_do_adds_up_to_a_session_and_its_update():
    """As policies/flops.py counts them: nothing twice, and what play perceived is perceived once."""
    more = [
        ("model.size", "7b"),
        ("data.group", "1"),
        ("step.rows", "4"),
        ("step.updates", "2"),
        ("data.sessions", "8"),
        ("rollout.turns", "4"),
    ]
    more += [("evaluate.rows", "4"), ("rollout.slots.later", "72")]
    subject = phases.Subject(common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"), more), topology.of("here"), size=(512, 512))
    useful = {phase.name: phase.useful * phase.calls / 8 for phase in phases.of(subject)}  # of one session
    played, learned = subject.dialogue(), subject.dialogue(rank=subject.rank)
    perceived = 4 * (flops.encode(played) + flops.see(played))
    play = ("perceive", "begin", "instruct", "read", "intent", "denoise", "decode")
    assert sum(useful[name] for name in play) == pytest.approx(flops.session(played), rel=1e-5)
    assert useful["replay"] / 2 + useful["recall"] == pytest.approx(flops.recall(learned) - perceived, rel=1e-5)
    assert useful["replay"] / 2 + useful["gradient"] == pytest.approx(flops.update(learned) - perceived, rel=1e-5)


def test_an_evaluation_is_planned_for_its_own_turns_and_rows():
    config = common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"), [("evaluate.turns", "6"), ("evaluate.rows", "128")])
    subject = phases.Subject(config, topology.of("here"), size=(48, 48))
    denoise, decode, intent = phases.of_evaluation(subject)
    assert denoise.arguments[1].full.capacity > 1.4 * subject.context(64).full.capacity
    assert {one.arguments[1].rows for one in (denoise, intent)} == {128} and decode.arguments[1].shape[0] == 128


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


ASKED = (  # what compilers say; both numbers hold arguments and temporaries
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.00G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.00G of 15.75G hbm. Exceeded hbm",
)


@pytest.mark.parametrize("message", ASKED)
def test_a_phase_without_room_says_how_much_it_would_have_taken(message):
    def trace():
        def compile_():
            raise RuntimeError(message)

        return types.SimpleNamespace(jaxpr=jax.make_jaxpr(jnp.sin)(1.0), lower=lambda: types.SimpleNamespace(compile=compile_))

    subject = phases.Subject(common.load_config(str(ROOT / "configs/tabletop_edit_r2.py")), topology.of("here"), size=(48, 48))
    given = subject.shape(2**30, dtype=jnp.int8)  # 1 GiB of arguments
    found = compiled.examine(phases.Phase(name="x", trace=trace, calls=1, useful=1.0, arguments=(given,)), subject)
    assert (found.arguments, found.temporaries) == (2**30, 17 * 2**30) and found.need > 18 * 2**30
    assert found.too_much.startswith(("Ran out of memory on HBM", "XLA:TPU compile")) and not told.fits(found, chips.of("v5p"))
    lines = told.summary([_examined("y", 2**40), found], subject, chips.of("v5e"))
    assert lines[0].startswith("DOES NOT FIT: at most 18.") and "(x)" in lines[0]


def _examined(name: str, need: int, **more) -> Examined:
    common_ = {"calls": 1, "beside": 0, "temporaries": 0, "results": 0, "code": 0, "compile_seconds": 1.0, "flops": 1.0, "useful": 1.0}
    return Examined(name=name, arguments=need, memory=1.0, collectives={}, **common_ | more)


@pytest.mark.parametrize(
    ("phase", "settings", "knob"),
    [
        ("gradient", {"model.remat": "none"}, "model.remat=full"),
        ("gradient", {"model.remat": "full"}, "step.rows=48"),
        ("recall", {"model.remat": "none"}, "step.rows=48"),  # nothing is kept for a way back there
        ("evaluation: denoise", {"evaluate.rows": "128"}, "evaluate.rows=120"),
        ("apply", {}, "a larger topology"),
        ("denoise", {"step.rows": "24", "data.sessions": "1"}, "a larger topology, fewer turns, or smaller pictures"),
    ],
)
def test_the_first_knob_is_one_that_helps_the_phase(phase, settings, knob):
    config = common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"), [("step.rows", "72"), *settings.items()])
    layout = mesh.Layout(types.SimpleNamespace(shape={"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1}), "fsdp")
    layouts = mesh.Layouts(train=layout, rollout=layout, words=layout)
    subject = types.SimpleNamespace(config=config, layouts=layouts, rows=config.step.rows, group=24)
    chip = chips.of("v5e")
    found = [_examined(phase, int(2 * chip.memory)), _examined("decode", int(1.5 * chip.memory))]
    assert told.knob(found, subject, chip) == knob


def test_the_published_table_is_that_of_the_published_plans():
    folder = ROOT / "editr2_jax/assets/plan"
    names = ("v5e_8", "v5e_16", "v5e_64", "v5p_16", "v6e_16", "tpu7x_4")
    made = call("plan", f"--table={','.join(str(folder / f'{name}.json') for name in names)}").out
    assert made == (folder / "plans.md").read_text()
    readme, topologies = (ROOT / "README.md").read_text(), made.split("\n\n")[0]
    assert topologies in readme


def test_a_phase_is_bound_by_its_slowest_resource():
    chip = chips.of("v5e")
    common_ = {"calls": 2, "beside": 2**30, "arguments": 2**30, "temporaries": 2**30, "results": 0, "code": 0, "compile_seconds": 1.0}
    phase = Examined(
        name="x", flops=chip.peak, useful=chip.peak / 2, memory=chip.bandwidth * 2, collectives={"all-gather": chip.links / 2}, **common_
    )
    assert phase.times(chip) == {"compute": 1.0, "memory": 2.0, "wires": 0.5} and phase.need == 3 * 2**30
    assert told.share(phase, chip) == 0.25 and told.fits(phase, chip) and "memory" in told.row(phase, chip)
