"""The configs that ship: every variant loads, and the settings of a run hold together before anything is computed."""

from pathlib import Path

import pytest

from editr2_jax import assemble, experiment
from editr2_jax.cli import common
from editr2_jax.training import edit_r2
from editr2_jax.training.edit_r2 import StepConfig
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.train_batch import AdvantageConfig

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = [
    "tabletop_edit_r2.py",
    "tabletop_edit_r2.py:reference",
    "tabletop_supervised.py",
    "tabletop_supervised.py:habit",
    "tabletop_autoencoder.py",
]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_holds_together(run):
    config = common.load_config(str(CONFIGS / run))
    assert config.recipe in experiment.RECIPES and tuple(config.tabletop.size) == (48, 48)
    assemble.policy(config), assemble.objective(config)
    assemble.settings(OptimizerConfig, config.optimizer).build()
    assemble.settings(AdvantageConfig, config.advantage)
    if config.recipe == "edit_r2":
        assemble.refuse_contradictions(config)
        step = assemble.settings(StepConfig, config.step)
        edit_r2._deal(range(config.data.sessions * config.data.group // step.rows), step.updates)
    else:
        assert config.train == "full" and config.tabletop.targets


def test_every_config_is_here():
    assert {path.name for path in CONFIGS.glob("*.py")} == {run.partition(":")[0] for run in RUNS}
