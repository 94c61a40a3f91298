"""A run that sees itself: metrics of a step, and lines when there is something to look into."""

import jax
import jax.numpy as jnp
import pytest

from editr2_jax.runtime.clock import Clock
from editr2_jax.runtime.compile_cache import CompileCacheConfig, Compiling
from editr2_jax.runtime.profiling import ProfileConfig
from editr2_jax.training.seeing import Seeing

COMPILED = "/jax/core/compile/backend_compile_duration"


class Run:
    """Steps of 10 s under a time set by hand."""

    def __init__(self, **parts):
        self.now, self.said, self._step = 0.0, [], 0
        self.seeing = Seeing(clock=Clock(now=lambda: self.now, memory=list), **parts)

    def step(self, *, wait: float = 0.0):
        with self.seeing.step(self._step):
            for name, seconds in (("data", 0.5), ("rollout", 4.0), ("reward_wait", wait), ("update", 5.5 - wait)):
                with self.seeing.phase(name):
                    self.now += seconds
            metrics = self.seeing.times({"rollout": 8e12, "update": 1e12})
        metrics |= self.seeing.after(self._step, metrics, seconds=10.0, say=self.said.append)
        self._step += 1
        return metrics


def test_metrics_of_a_step():
    told = Run(peak=4e12).step(wait=0.5)
    assert told == pytest.approx(
        {
            "time/data_s": 0.5,
            "time/rollout_s": 4.0,
            "time/reward_wait_s": 0.5,
            "time/update_s": 5.0,
            "time/step_s": 10.0,
            "mfu/rollout": 0.5,
            "mfu/update": 0.05,
            "idle/data_share": 0.05,
            "idle/reward_share": 0.05,
        }
    )


def test_without_a_peak_there_is_no_share_of_it():
    assert not [name for name in Run().step() if name.startswith("mfu/")]


def test_what_comes_between_steps_is_told_with_the_next():
    run = Run()
    run.step()
    with run.seeing.phase("save"):
        run.now += 3.0
    assert run.step()["time/save_s"] == 3.0


def test_judges_that_are_waited_for_are_complained_of():
    run = Run()
    for _ in range(5):
        run.step(wait=2.0)
    (line,) = run.said
    assert line.startswith("step 2: the devices wait for judges in 20% of this step, and in more than 10% of each of the last 3: ")


def test_compilations_are_told_after_the_first_step_and_later_ones_by_name():
    compiling = Compiling()
    run = Run(compiling=compiling)
    for seconds in (30.0, 5.0, 7.0):
        compiling.on_duration(COMPILED, seconds, fun_name="update")
        assert run.step()["compile/seconds"] > 0
    assert run.said[0] == "step 0: compile cache: off, 30.0 s compiling"
    assert run.said[1].startswith("step 2: compiled again: update (7.0 s)") and len(run.said) == 2


def test_a_whole_one_on_this_machine(tmp_path):
    said, profile = [], ProfileConfig(steps=(1,), peak_tflops=1.0)
    with Seeing.of(profile, CompileCacheConfig(), tmp_path, say=said.append) as seeing:
        for step in range(2):
            with seeing.step(step), seeing.phase("update"):
                jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
            told = seeing.times({"update": 1e3})
            told |= seeing.after(step, told, seconds=1.0, say=said.append)
    assert told["mfu/update"] > 0 and told["compile/seconds"] >= 0
    assert list((tmp_path / "profile" / "1").rglob("*.xplane.pb")) and not (tmp_path / "profile" / "0").exists()
    assert any(line.startswith("step 0: compile cache: ") for line in said)
