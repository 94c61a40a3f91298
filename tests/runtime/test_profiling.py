"""Traces: the chosen steps and no others, on request too, and never at the cost of the run."""

import jax
import jax.numpy as jnp
import pytest

from editr2_jax.runtime import profiling
from editr2_jax.runtime.profiling import ProfileConfig, Profiler


@pytest.fixture
def fake(monkeypatch):
    """What was started (folders) and stopped (None), without a profiler."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, profiler_options: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(None))
    return calls


def run(profiler, steps, phases=("rollout", "update")):
    for step in steps:
        with profiler.step(step):
            for name in phases:
                with profiler.phase(name):
                    pass


def test_chosen_steps_are_traced(fake, tmp_path):
    run(Profiler(ProfileConfig(steps=(1, 3)), tmp_path), range(5))
    assert fake == [tmp_path / "profile" / "1", None, tmp_path / "profile" / "3", None]


def test_of_a_chosen_step_single_phases_are_traced(fake, tmp_path):
    run(Profiler(ProfileConfig(steps=(1,), phases=("update",)), tmp_path), range(3))
    assert fake == [tmp_path / "profile" / "1" / "update", None]


def test_a_phase_that_does_not_come_is_told(fake, tmp_path):
    said = []
    run(Profiler(ProfileConfig(steps=(1,), phases=("updat", "rollout")), tmp_path, say=said.append), range(3))
    assert "profile.phases: step 1 has no updat; it has rollout, update." in said


def test_touching_a_file_traces_the_next_step_once(fake, tmp_path):
    profiler = Profiler(ProfileConfig(phases=("update",)), tmp_path)
    run(profiler, [0])
    request = tmp_path / profiling.FOLDER / profiling.REQUEST
    request.parent.mkdir()
    request.touch()
    run(profiler, [1, 2])
    assert fake == [tmp_path / "profile" / "1", None] and not request.exists()


def test_a_step_that_raises_ends_its_trace(fake, tmp_path):
    with pytest.raises(ZeroDivisionError), Profiler(ProfileConfig(steps=(0,)), tmp_path).step(0):
        raise ZeroDivisionError
    assert fake[-1] is None


def test_other_processes_trace_only_when_asked(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run(Profiler(ProfileConfig(steps=(0,)), tmp_path), [0])
    assert not fake
    run(Profiler(ProfileConfig(steps=(0,), everyone=True), tmp_path), [0])
    assert fake == [tmp_path / "profile" / "0" / "process_1", None]


@pytest.mark.parametrize("part", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_is_told_once_and_the_run_goes_on(fake, tmp_path, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("no profiler here")

    monkeypatch.setattr(jax.profiler, part, fail)
    said = []
    run(Profiler(ProfileConfig(steps=(0, 1)), tmp_path, say=said.append), range(2))
    assert len(said) == 1 and "no profiler here" in said[0]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="peak_tflops"):
        ProfileConfig(peak_tflops=-1.0)
    with pytest.raises(ValueError, match="counted from 0"):
        ProfileConfig(steps=(-1,))


@pytest.mark.slow
def test_a_small_program_leaves_a_trace_that_names_step_and_phase(tmp_path):
    said, work = [], jax.jit(lambda x: x @ x)
    profiler = Profiler(ProfileConfig(steps=(7,)), tmp_path, say=said.append)
    with profiler.step(7), profiler.phase("update"):
        jax.block_until_ready(work(jnp.ones((32, 32))))
    (file,) = (tmp_path / "profile" / "7").rglob("*.xplane.pb")
    raw = file.read_bytes()
    assert b"update" in raw and b"step_num" in raw
    assert said == [f"profile: a trace lies in {tmp_path / 'profile' / '7'}"]
