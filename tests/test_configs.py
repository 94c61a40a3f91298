"""The configs that ship: every variant loads, and the settings of a run hold together before anything is computed."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from editr2_jax import assemble, experiment, judging
from editr2_jax.cli import common
from editr2_jax.flow.kernels import Kernel
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models.bagel import config as sizes
from editr2_jax.records import Episode, Verdict
from editr2_jax.rewards.base import Tokens
from editr2_jax.rl.policy_average import Schedule
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
BAGEL_7B = [f"bagel_7b_edit_r2.py:{name}{recipe}" for name in ("v5e_8", "v5e_16", "v5e_64", "v5p_16", "v6e_16", "tpu7x_4", "gpu_8")
            for recipe in ("", "_recommended")]  # fmt: skip


@pytest.mark.parametrize("run", RUNS + BAGEL_7B)
def test_a_run_holds_together(run):
    config = common.load_config(str(CONFIGS / run))
    assert config.recipe in experiment.RECIPES and tuple(config.tabletop.size) == ((512, 512) if run in BAGEL_7B else (48, 48))
    assemble.rollout(config), assemble.objective(config)
    assemble.settings(OptimizerConfig, config.optimizer).build()
    assemble.settings(AdvantageConfig, config.advantage)
    if config.recipe == "edit_r2":
        assemble.refuse_contradictions(config)
        step = assemble.settings(StepConfig, config.step)
        edit_r2._deal(range(config.data.sessions * config.data.group // step.rows), step.updates)
    else:
        assert config.train == "full" and config.tabletop.targets


PATH = {"rollout.window.size": "0", "objective.image.kind": "nft", "objective.image.kl": "velocity"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PATH, "rollout.noise=iteration gives all of them the same; set rollout.noise=member"),
        (PATH | {"rollout.noise": "member", "objective.image.draws": "9"}, "objective.image.draws is 9, but the grid has 8 steps"),
        ({"advantage.normalise_by_kept": "true", "objective.intent.reduction": "token_mean"}, "set advantage.normalise_by_kept=False"),
        (
            {"objective.intent.kind": "rwr", "objective.intent.rwr.weighting": "reward", "advantage.transform": "to_go"},
            "'rwr' weighs by the turn's own reward .* choose weighting=best or exp",
        ),
        ({"step.updates": "0"}, "step.updates=0: each must be at least 1"),
        ({"data.group": "0"}, "data.group=0, .* each must be at least 1"),
        ({"rollout.turns": "0"}, "RolloutConfig.turns is 0; play at least 1"),
        ({"rollout.temperature": "0"}, "PolicyConfig.temperature is 0.0; give a positive number"),
        ({"objective.image.kl_weight": "-1"}, "no weight may be below 0"),
        ({"objective.intent.mismatch_cap": "0.5"}, r"a cap is 0 \(none\) or at least 1"),
        ({"objective.intent.grpo.dual_clip": "0.5"}, r"a dual clip is 0 \(none\) or greater than 1"),
        ({"objective.image.grpo.advantage_clip": "-1"}, "a clip is not below 0"),
        (PATH | {"objective.image.nft.advantage_clip": "0"}, "beta and advantage_clip are positive"),
    ],
)
def test_settings_that_would_idle_or_mean_nothing_are_refused_at_the_start(values, message):
    config = common.load_config(str(CONFIGS / "tabletop_edit_r2.py"), list(values.items()))
    with pytest.raises(ValueError, match=message):
        assemble.refuse_contradictions(config)


@pytest.mark.parametrize(("setting", "value"), [("cap", 3.0), ("rate", -1.0), ("decay", 1.5)])
def test_an_average_that_would_not_be_one_is_refused(setting, value):
    with pytest.raises(ValueError, match="the first three lie in"):
        Schedule(kind="delayed", **{setting: value})


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
    with judging.suite(config, whole=None, more=[Half()]) as suite:
        assert suite.names == ("cc", "half")
        scores = suite.score([[Episode(session=session, pictures=(source, source))]])
    assert scores.combined[0, 0] == pytest.approx((0.3 * scores.values["cc"][0, 0] + 0.3 * 0.5) / 0.6)


class Eyes:
    """A detector that finds nothing and a feature extractor that shows its registers."""

    def detect(self, picture, phrases):
        return []

    def tokens(self, pictures):
        return Tokens(tokens=np.ones((len(pictures), 9, 4), np.float32), registers=4, grid=(2, 2), size=(32, 32))

    def embed(self, pictures):
        return self.tokens(pictures).features()


@pytest.mark.parametrize(("arithmetic", "value"), [("fixed", 1.0), ("edit_r2", 0.5), ("edival", 0.5)])
def test_the_arithmetic_of_a_config_is_that_of_its_rewards(monkeypatch, arithmetic, value):
    """Where nothing is found: ours compares the whole picture, Edit-R2 says 0.5, EdiVal takes a lost object for 0."""
    monkeypatch.setattr(judging.perception, "TabletopDetector", lambda eyes: Eyes())
    monkeypatch.setattr(judging.perception, "TabletopFeatures", Eyes)
    config = common.load_config(str(CONFIGS / "tabletop_edit_r2.py"), [("rewards.use", "cc"), ("rewards.arithmetic", arithmetic)])
    session, source, _ = world.make_session("train", 0, 0, turns=1, size=(48, 48))
    named = dataclasses.replace(session.turns[0], bg_consistency=True, unchanged_objects=("ball",), all_objects=("ball",))
    with judging.suite(config, whole=None) as suite:
        scores = suite.score([[Episode(session=dataclasses.replace(session, turns=(named,)), pictures=(source, source))]])
    assert scores.values["cc"][0, 0] == pytest.approx(value, abs=1e-5)


def test_features_without_registers_have_no_published_consistency():
    config = common.load_config(str(CONFIGS / "tabletop_edit_r2.py"), [("rewards.use", "cc"), ("rewards.arithmetic", "edival")])
    with pytest.raises(ValueError, match="rewards.features=tabletop shows none; take a DINOv3, or 'cc' out of rewards.use"):
        judging.suite(config, whole=None)


def test_every_config_is_here():
    assert {path.name for path in CONFIGS.glob("*.py")} == {run.partition(":")[0] for run in RUNS + BAGEL_7B}


def test_pictures_come_in_the_sizes_that_the_config_lists():
    run, rule = str(CONFIGS / "tabletop_edit_r2.py"), sizes.tiny().vae_transform
    by_rule = assemble.buckets(common.load_config(run), sizes.tiny())
    assert by_rule.shapes == () and by_rule.choose(427, 640)[::-1] == rule.shape(640, 427)
    listed = assemble.buckets(common.load_config(run, [("data.shapes", "48x48,48x64")]), sizes.tiny())
    assert listed.shapes == ((48, 48), (48, 64))
    assert [listed.choose(*shape) for shape in ((1024, 1024), (427, 640), (1000, 600))] == [(48, 48), (48, 64), (48, 48)]


@pytest.mark.parametrize("shape", ["40x48", "0x48", "1024x48", "48", "(48, 48)"])
def test_sizes_that_the_model_cannot_draw(shape):
    config = common.load_config(str(CONFIGS / "tabletop_edit_r2.py"))
    config.data.shapes = (shape,)
    with pytest.raises(ValueError, match=re.escape(f"data.shapes has '{shape}'; give HEIGHTxWIDTH in pixels, both multiples of 16")):
        assemble.buckets(config, sizes.tiny())
