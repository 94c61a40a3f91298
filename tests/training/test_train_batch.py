import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.training import train_batch
from editr2_jax.training.train_batch import AdvantageConfig

GROUP = np.array([7, 7, 7, 7], np.int32)
NAN = np.nan
REWARD = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.5], [1.0, 0.5]], np.float32)
SOUND = np.ones((4, 2), np.float32)
SPOKE = np.zeros((4, 2), bool)
BY_GROUP = {"std": "group"}


def _credit(reward=REWARD, failures=SOUND, fallback=SPOKE, **config):
    return train_batch.credit(np.float32(reward), failures, GROUP, fallback, AdvantageConfig(**config))


def _at(*places) -> np.ndarray:
    mask = np.zeros((4, 2), bool)
    for place in places:
        mask[place] = True
    return mask


def test_rewards_are_measured_against_their_turn_and_group():
    made, metrics = _credit(**BY_GROUP)
    np.testing.assert_allclose(made.image_advantage[:, 0], [-1, 1, -1, 1], rtol=1e-3)
    np.testing.assert_allclose(made.image_advantage[:, 1], np.sqrt(2) * np.array([1, -1, 0, 0]), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(made.text_advantage, made.image_advantage)
    assert made.image_mask.all() and made.text_mask.all() and not (made.why != "").any()
    assert metrics["advantage/mean_turn_0"] == pytest.approx(0, abs=1e-6)
    assert metrics["advantage/max"] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert metrics["filter/dropped"] == metrics["reward/missing_share"] == metrics["advantage/zero_variance_share"] == 0


def test_a_missing_reward_silences_its_turn_and_enters_no_baseline():
    reward = REWARD.copy()
    reward[0, 0] = NAN
    made, metrics = _credit(reward, **BY_GROUP)
    np.testing.assert_array_equal(~made.image_mask, _at((0, 0)))
    np.testing.assert_array_equal(~made.text_mask, _at((0, 0)))
    assert made.image_advantage[0, 0] == made.text_advantage[0, 0] == 0 and made.why[0, 0] == "no verdict"
    np.testing.assert_allclose(made.image_advantage[1:, 0], np.array([1, -2, 1]) / np.sqrt(2), rtol=1e-3)
    assert metrics["reward/missing_share"] == 1 / 8


@pytest.mark.parametrize(("mode", "image", "text"), [("all", False, False), ("image", False, True), ("off", True, True)])
def test_a_turn_after_a_failure_teaches_what_the_filter_lets_through(mode, image, text):
    failures = SOUND.copy()
    failures[2, 0] = 0.0
    made, metrics = _credit(failures=failures, filter=mode)
    assert (made.image_mask[2, 1], made.text_mask[2, 1]) == (image, text)
    assert made.image_mask[2, 0] and made.text_mask[2, 0]  # the failure itself teaches
    assert made.image_mask.sum() == 7 + image and made.text_mask.sum() == 7 + text
    assert made.why[2, 1] == ("" if mode == "off" else "after a failed turn")
    assert metrics["filter/dropped"] == (0 if mode == "off" else 1 / 8)
    assert metrics["filter/kept_turn_1"] == (1 if mode == "off" else 3 / 4)


def test_the_floor_says_what_a_failure_is_and_no_verdict_is_none():
    failures = SOUND.copy()
    failures[:, 0] = [0.25, 0.26, NAN, 1.0]
    made, _ = _credit(failures=failures, floor=0.25)
    np.testing.assert_array_equal(made.image_mask[:, 1], [False, True, True, True])


def test_filtered_turns_enter_the_statistics_or_not():
    """Row 0 fails in turn 0; its turn 1 has the only high reward."""
    failures, reward = SOUND.copy(), np.array([[0, 1.0], [0, 0.2], [0, 0.1], [0, 0.0]])
    failures[0, 0] = 0.0
    first, _ = _credit(reward, failures, filter="all", filter_first=True, **BY_GROUP)
    last, _ = _credit(reward, failures, filter="all", filter_first=False, **BY_GROUP)
    spread = np.std([0.2, 0.1, 0.0])
    np.testing.assert_allclose(first.image_advantage[1:, 1], np.array([0.1, 0, -0.1]) / (spread + 1e-4), atol=1e-4)
    assert np.all(last.image_advantage[1:, 1] < 0)
    spared, _ = _credit(reward, failures, filter="image", filter_first=True, **BY_GROUP)
    np.testing.assert_allclose(spared.image_advantage, first.image_advantage, atol=1e-6)
    np.testing.assert_allclose(spared.text_advantage, last.text_advantage, atol=1e-6)  # words that are spared keep their baseline


def test_a_fallback_silences_the_words_and_not_the_picture():
    fallback = _at((1, 1), (3, 1))
    made, metrics = _credit(fallback=fallback)
    assert made.image_mask.all()
    np.testing.assert_array_equal(~made.text_mask, fallback)
    np.testing.assert_array_equal(made.why == "no intent in the answer", fallback)
    assert metrics["intent/fallback_share"] == 0.5  # of later turns
    assert _credit(fallback=fallback, learn_from_fallback=True)[0].text_mask.all()


def test_one_baseline_for_all_turns_lets_their_difficulty_in():
    reward = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.9, 0.0]])
    over_turns, _ = _credit(reward, grouping="dialogue")
    per_turn, _ = _credit(reward, grouping="dialogue_turn")
    assert np.all(over_turns.image_advantage[:, 0] > 0) and np.all(over_turns.image_advantage[:, 1] < 0)
    assert not per_turn.image_advantage[:, 1].any()


def test_a_group_without_spread_teaches_nothing_and_is_counted():
    made, metrics = _credit(np.full((4, 2), 0.3))
    assert not made.image_advantage.any() and metrics["advantage/zero_variance_share"] == 1


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0, NAN]), min_size=8, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_what_is_masked_is_a_number_and_what_has_no_verdict_is_masked(rewards, fell):
    reward, fallback = np.reshape(rewards, (4, 2)), np.reshape(fell, (4, 2))
    fallback[:, 0] = False
    made, metrics = _credit(reward, np.float32(reward), fallback, filter="all")
    for advantage in (made.image_advantage, made.text_advantage):
        assert np.isfinite(advantage).all() and not advantage[np.isnan(reward)].any()
    assert not (made.image_mask | made.text_mask)[np.isnan(reward)].any()
    assert np.all(made.text_mask <= made.image_mask)
    np.testing.assert_array_equal(made.why == "", made.text_mask)
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_filter_without_its_reward_is_refused():
    with pytest.raises(ValueError, match=r"filter \('image'\) needs the reward 'if', .* add it to rewards.use or set advantage.filter=off"):
        _credit(failures=None)
    assert _credit(failures=None, filter="off")[0].image_mask.all()


@pytest.mark.parametrize(("field", "value"), [("grouping", "turn"), ("std", "batch"), ("filter", "none")])
def test_an_unknown_setting_is_refused(field, value):
    with pytest.raises(ValueError, match=f"AdvantageConfig.{field} is '{value}'; choose one of"):
        AdvantageConfig(**{field: value})


def test_shorter_sessions_are_filled_up():
    rows = [np.ones((1, 2)), np.zeros((2, 3))]
    np.testing.assert_array_equal(train_batch.pad_turns(rows, 3, NAN), [[1, 1, NAN], [0, 0, 0], [0, 0, 0]])
