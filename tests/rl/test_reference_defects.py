"""Defects of reference implementations, by their number in the specification's list: each test says what holds here instead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.training import train_batch
from editr2_jax.training.train_batch import AdvantageConfig

NAN = float("nan")
GROUP = np.array([0, 0, 0, 1, 1, 1])
REWARD = np.float32([[0.9, 0.5, 0.1], [0.8, 0.4, 0.3], [1.0, 0.6, 0.2], [0.7, 0.5, 0.3], [0.8, 0.2, 0.1], [0.9, 0.4, 0.0]])  # falls


def credit(reward=REWARD, *, failures=None, group=GROUP, fallback=None, **settings):
    reward = np.float32(reward)
    rewards = {"cc": reward, "if": np.ones_like(reward) if failures is None else np.float32(failures)}
    fallback = np.zeros(reward.shape, bool) if fallback is None else fallback
    return train_batch.credit(rewards, {"cc": 1.0}, group, fallback, AdvantageConfig(**settings))


def mean_per_turn(metrics) -> np.ndarray:
    return np.array([metrics[f"advantage/mean_turn_{t}"] for t in range(3)])


def test_defect_05_turns_do_not_share_a_baseline():
    made, metrics = credit()
    np.testing.assert_allclose(mean_per_turn(metrics), 0, atol=1e-6)
    _, shared = credit(grouping="dialogue")  # the reference's: early turns are pushed up, late ones down
    assert mean_per_turn(shared)[0] > 0.5 and mean_per_turn(shared)[2] < -0.5
    trajectory, _ = credit(grouping="trajectory")
    np.testing.assert_array_equal(trajectory.image_advantage[:, 0], trajectory.image_advantage[:, 2])
    assert made.image_mask.all()


def test_defect_06_the_filter_spares_the_words_unless_it_is_told_not_to():
    failures = np.ones((6, 3))
    failures[0, 0] = 0.0
    for mode, image, text in (("image", False, True), ("all", False, False), ("off", True, True)):
        made, _ = credit(failures=failures, filter=mode)
        assert (made.image_mask[0, 1:] == image).all() and (made.text_mask[0, 1:] == text).all()
        assert made.image_mask[0, 0] and made.text_mask[0, 0], "the failing turn itself teaches"
    spared, _ = credit(failures=failures, filter="image", filter_first=False)
    unfiltered, _ = credit(failures=failures, filter="off")
    np.testing.assert_array_equal(spared.text_advantage, unfiltered.text_advantage)


@given(st.lists(st.booleans(), min_size=18, max_size=18))
def test_defect_12_a_failed_judge_is_missing_and_no_score(fails):
    outage = np.reshape(fails, (6, 3))
    made, metrics = credit(np.where(outage, NAN, REWARD), std="group")
    np.testing.assert_array_equal(made.image_mask, ~outage)
    np.testing.assert_array_equal(np.isnan(made.reward), outage)
    assert not made.image_advantage[outage].any() and (made.why[outage] == "no verdict").all()
    assert metrics["reward/missing_share"] == pytest.approx(outage.mean())
    for g, t in np.ndindex(2, 3):  # the others are measured against those that were judged
        judged = (g == GROUP) & ~outage[:, t]
        if judged.sum() > 1:
            mine = REWARD[judged, t]
            np.testing.assert_allclose(made.image_advantage[judged, t], (mine - mine.mean()) / (mine.std() + 1e-4), atol=1e-4)


def test_defect_15_an_advantage_of_zero_is_no_reason_to_drop_a_turn():
    reward = np.repeat([[0.0], [0.5], [1.0], [0.3], [0.3], [0.3]], 3, axis=1)
    made, metrics = credit(reward)
    assert not made.image_advantage[[1, 3, 4, 5]].any()
    assert made.image_mask.all() and (made.why == "").all(), "an average rollout and one of a flat group still count in the loss"
    assert metrics["advantage/zero_variance_share"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("ids", [(2**24, 2**24 + 1), (1, 1 + 2**32), (2**62, 2**62 + 1), (-1, 2**32 - 1)])
def test_defect_19_groups_whose_ids_look_alike_in_float32_or_int32_stay_apart(ids):
    group = np.array(ids, np.int64)[GROUP]
    plain, _ = credit()
    np.testing.assert_array_equal(credit(group=group)[0].image_advantage, plain.image_advantage)


@given(st.lists(st.sampled_from([0.0, 0.4, 1.0, NAN]), min_size=18, max_size=18), st.sampled_from(["all", "image", "off"]))
def test_defect_25_one_predicate_says_which_turns_teach(numbers, mode):
    """The reason that is written down, the masks that the loss obeys and the counts that are logged never disagree."""
    reward = np.reshape(numbers, (6, 3))
    fallback = reward == 0.4
    fallback[:, 0] = False
    made, metrics = credit(reward, failures=reward, fallback=fallback, filter=mode)
    np.testing.assert_array_equal(made.why == "", made.image_mask & ~fallback)
    np.testing.assert_array_equal(made.why == "no verdict", np.isnan(reward))
    np.testing.assert_array_equal(made.image_mask, ~np.isin(made.why, ["no verdict", "after a failed turn"]))
    if mode == "all":
        np.testing.assert_array_equal(made.text_mask, made.why == "")
    assert metrics["filter/dropped"] == pytest.approx(1 - np.mean([metrics[f"filter/kept_turn_{t}"] for t in range(3)]))
