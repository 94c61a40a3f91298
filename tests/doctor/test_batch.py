"""The arithmetic of a step, against numbers known by hand."""

from pathlib import Path

import pytest

from editr2_jax import assemble
from editr2_jax.cli import common
from editr2_jax.doctor import batch
from editr2_jax.doctor.batch import Arithmetic

MAIN = str(Path(__file__).parents[2] / "configs/tabletop_edit_r2.py")
EDIT_R2 = {"data.sessions": 16, "data.group": 6, "rollout.flow.grid_points": 15, "rollout.flow.image_scale": 2.0, "step.rows": 48}


def numbers(spec: str = MAIN, **changes) -> tuple:
    """(config, its arithmetic, its objective)."""
    config = common.load_config(spec, [(name, str(value)) for name, value in changes.items()])
    objective = assemble.objective(config)
    return config, Arithmetic.of(config, assemble.rollout(config), objective), objective


def test_the_published_iteration():
    """Edit-R2: 96 rollouts, 288 pictures, 576 image gradients and 192 text sequences, 2 updates."""
    _, step, _ = numbers(MAIN + ":reference", **EDIT_R2)
    assert (step.rollouts, step.pictures, step.image_gradients, step.text_sequences, step.updates) == (96, 288, 576, 192, 2)
    assert (step.steps, step.branches, step.window, step.batches) == (14, 3, 2, 2)
    table = {what: (number, how) for what, number, how in step.table()}
    assert table["velocities to draw them"] == ("12096", "288 pictures x 14 steps x 3 branches")
    assert table["updates"] == ("2", "of 48 rollouts each")


def test_a_path_objective_has_points_instead_of_steps_and_raw_instructions_no_words():
    _, step, _ = numbers(
        **{"objective.image.kind": "nft", "rollout.window.size": 0, "objective.image.kl_weight": 0.0, "objective.image.draws": 3}
    )
    assert (step.window, step.passes, step.image_gradients) == (0, 3, 576)
    _, step, _ = numbers(**{"rollout.reconstruct": False})
    assert step.text_sequences == 0


@pytest.mark.parametrize("variant", ["recommended", "reference", "claims"])
def test_configs_that_ship_are_beyond_doubt(variant):
    config, step, objective = numbers(f"{MAIN}:{variant}")
    assert batch.contradictions(config, step, objective) == [] == batch.doubts(config, step, 2048)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.group": 1}, "data.group is 1: a rollout without others"),
        ({"objective.image.weight": 0.0, "objective.intent.weight": 0.0}, "are both 0: nothing is learned"),
        ({"rollout.window.size": 0}, "grpo learns from stochastic steps, but rollout.window.size is 0"),
        ({"advantage.filter_reward": "hps"}, "the reward it looks at, 'hps', is not in rewards.use"),
    ],
)
def test_contradictions_are_named(changes, message):
    (told,) = batch.contradictions(*(part for part in numbers(**changes)))
    assert message in told


@pytest.mark.parametrize(
    ("changes", "sessions", "message"),
    [
        ({"step.rows": 60}, 2048, "step.rows=60 is no multiple of data.group=8: 4 rows stay empty"),
        ({"step.rows": 24, "step.updates": 2}, 2048, "3 batches make 2 updates of different size"),
        ({}, 6, "data.sessions=8, but there are 6 training sessions"),
        ({"optimizer.warmup_steps": 16}, 2048, "warmup_steps=16 outlasts all 16 updates"),
        ({"optimizer.decay_steps": 10}, 2048, "decay_steps=10: the last 6 updates do nothing"),
    ],
)
def test_doubts_are_named(changes, sessions, message):
    config, step, _ = numbers(**changes)
    (told,) = batch.doubts(config, step, sessions)
    assert message in told
