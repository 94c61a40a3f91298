"""The configs that ship: every variant loads, and the settings of a run hold together before anything is computed."""

from pathlib import Path

import pytest

from editr2_jax import assemble, experiment
from editr2_jax.cli import common
from editr2_jax.flow.kernels import Kernel
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.records import Episode, Verdict
from editr2_jax.tabletop import world
from editr2_jax.training import edit_r2
from editr2_jax.training.edit_r2 import StepConfig
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.train_batch import AdvantageConfig

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = [
    "tabletop_edit_r2.py",
    "tabletop_edit_r2.py:reference",
    "tabletop_edit_r2.py:claims",
    "tabletop_mt_editflow.py",
    "tabletop_mt_editflow.py:nft",
    "tabletop_supervised.py",
    "tabletop_supervised.py:habit",
    "tabletop_autoencoder.py",
]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_holds_together(run):
    config = common.load_config(str(CONFIGS / run))
    assert config.recipe in experiment.RECIPES and tuple(config.tabletop.size) == (48, 48)
    assemble.rollout(config), assemble.objective(config)
    assemble.settings(OptimizerConfig, config.optimizer).build()
    assemble.settings(AdvantageConfig, config.advantage)
    if config.recipe == "edit_r2":
        assemble.refuse_contradictions(config)
        step = assemble.settings(StepConfig, config.step)
        edit_r2._deal(range(config.data.sessions * config.data.group // step.rows), step.updates)
    else:
        assert config.train == "full" and config.tabletop.targets


def test_the_main_job_draws_two_steps_of_the_first_half():
    """Steps 1 to 3 of 8, two in a row; noise and window are new in every iteration, and a group's own."""
    rollout = assemble.rollout(common.load_config(str(CONFIGS / "tabletop_edit_r2.py")))
    assert (rollout.window, rollout.noise, rollout.policy.flow.steps) == (WindowConfig(size=2, first=1, last=4), "iteration", 8)
    assert (rollout.policy.flow.schedule, rollout.policy.flow.kernel) == ("bagel", Kernel(kind="sde", noise_level=0.9))


def test_a_reward_of_one_s_own_joins_those_of_a_config():
    class Half:
        name = "half"

        def score(self, episode):
            return Verdict(value=0.5)

    config = common.load_config(str(CONFIGS / "tabletop_edit_r2.py"), [("rewards.use", "cc")])
    with config.unlocked():
        config.rewards.weights.half = 0.3
    session, source, drawn = world.make_session("train", 0, 0, turns=1, size=(48, 48))
    with assemble.suite(config, whole=None, more=[Half()]) as suite:
        assert suite.names == ("cc", "half")
        scores = suite.score([[Episode(session=session, pictures=(source, source))]])
    assert scores.combined[0, 0] == pytest.approx((0.3 * scores.values["cc"][0, 0] + 0.3 * 0.5) / 0.6)


def test_every_config_is_here():
    assert {path.name for path in CONFIGS.glob("*.py")} == {run.partition(":")[0] for run in RUNS}
