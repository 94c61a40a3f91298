"""The rewards of a config: the checkpoint's own ViT as CC's eyes."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from editr2_jax import judging, presets
from editr2_jax.records import Episode, Session, Status, Turn, Verdict
from editr2_jax.rewards import content_consistency as cc

PATCH, GRID = 4, 3


@dataclasses.dataclass(frozen=True)
class Vit:
    patch: int = PATCH


@dataclasses.dataclass(frozen=True)
class Sizes:
    vit: Vit = Vit()
    vit_side: int = GRID


class Colours(nnx.Module):
    """A model whose features of a patch are its mean colour."""

    def __init__(self):
        self.config = Sizes()
        self.one = nnx.Param(jnp.ones(()))

    def picture_features(self, pictures):
        rows = pictures.shape[0]
        return self.one[...] * pictures.reshape(rows, GRID, PATCH, GRID, PATCH, 3).astype(jnp.float32).mean(axis=(2, 4))


@pytest.mark.parametrize("shape", [(12, 36), (36, 12), (12, 12)])
def test_the_patches_of_a_checkpoint_s_own_vit_cover_the_whole_picture(shape):
    """As CC's masks do, which are told in shares of the picture."""
    height, width = shape
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 3, 0] = picture[: height // 3, :, 1] = 240
    patches = judging.VitFeatures(Colours()).embed([picture]).patches[0]
    assert patches.shape == (GRID, GRID, 3)
    np.testing.assert_allclose(patches[:, 0, 0], 240, atol=20)
    np.testing.assert_allclose(patches[0, :, 1], 240, atol=20)
    outside = cc.background_weights([(0.0, 0.0, 1 / 3, 1.0), (0.0, 0.0, 1.0, 1 / 3)], (GRID, GRID), floor=0.5) > 0
    assert outside.sum() == 4 and patches[outside].max() < 20


def test_a_vit_that_learns_is_no_judge():
    """Its features would change under the reward, and its weights are given away to the update that makes the next ones."""
    config = presets.edit_r2()
    config.rewards.update(use=("cc",), features="vit", detector="none")
    config.train = "full"
    judging.suite(config, Colours).close()
    config.parts = ("decoder", "latent", "vit")
    with pytest.raises(ValueError, match=r"rewards\.features='vit' .* parts .*take 'vit' out of parts"):
        judging.suite(config, Colours)


class Fixed:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def score(self, episode):
        return Verdict(value=self.value, status=Status.UNMEASURABLE if math.isnan(self.value) else Status.OK)


def scored(config, subset, *rewards):
    """The combined reward of one turn of that subset under rewards of one's own."""
    names = {"unchanged_objects": (), "available_objects": (), "all_objects": (), "bg_consistency": True}
    turn = Turn(instruction="", formatted_instruction="", task_type="subject_add", **names)
    session = Session(id="s", image="", turns=(turn,), subset=subset)
    episode = Episode(session=session, pictures=(np.zeros((4, 4, 3), np.uint8),) * 2)
    with judging.suite(config, Colours, more=rewards) as suite:
        return suite.score([[episode]]).combined


@pytest.mark.parametrize(("subset", "reward"), [("plain", 0.25), ("memory", 0.5), ("understanding", math.nan)])
def test_rewards_may_count_otherwise_in_another_subset(subset, reward):
    config = presets.edit_r2()
    with config.rewards.unlocked():
        config.rewards.update(use=())
        config.rewards.weights = {"plain": {"if": 1.0, "cc": 1.0}, "memory": {"if": 1.0, "seen": 1.0}}
    np.testing.assert_array_equal(scored(config, subset, Fixed("if", 0.25), Fixed("seen", 0.75)), [[np.float32(reward)]])


@pytest.mark.parametrize(("least", "reward"), [(0.0, 0.5), (0.3, 0.5), (0.31, math.nan)])
def test_a_turn_may_want_a_share_of_its_weight_to_be_seen(least, reward):
    """IF weighs 0.3 of 1, and what weighs the rest cannot be measured."""
    config = presets.edit_r2()
    with config.rewards.unlocked():
        config.rewards.update(use=(), min_valid_weight=least, weights={"if": 0.3, "seen": 0.7})
    np.testing.assert_array_equal(scored(config, "plain", Fixed("if", 0.5), Fixed("seen", math.nan)), [[np.float32(reward)]])
