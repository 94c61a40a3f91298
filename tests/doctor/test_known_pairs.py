"""Known outcomes: right ones are right, wrong ones wrong, whatever folder they come from."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editr2_jax.doctor import known_pairs
from editr2_jax.records import Sample
from editr2_jax.tabletop import perception_report, world

SIZE = (48, 48)


@pytest.mark.slow
@settings(max_examples=4)  # perception takes its time
@given(st.integers(0, 1000))
def test_the_rewards_of_the_world_tell_its_pairs_apart(seed):
    following, consistency, _ = perception_report.tabletop_rewards()
    for pair in known_pairs.of_world(3, seed=seed, turns=3, size=SIZE):
        reward = following if pair.of_edit else consistency
        right, wrong = reward.score(pair.right).value, reward.score(pair.wrong).value
        assert np.isnan(right) or np.isnan(wrong) or right > wrong, (pair.what, right, wrong)


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_shuffled_picture_keeps_its_size_and_nothing_else(height, width):
    picture = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    shuffled = known_pairs.shuffled(picture)
    assert shuffled.shape == picture.shape and sorted(255 - shuffled.reshape(-1)) == sorted(picture.reshape(-1))
    if height > 3 and width > 3:
        assert not np.array_equal(shuffled, picture)


def test_a_folder_gives_what_it_knows():
    session, picture, targets = world.make_session("train", 0, 0, size=SIZE)
    known = Sample(session=session, picture=picture, targets=targets)
    edit, rest = known_pairs.of_samples([known])
    assert edit.of_edit and not rest.of_edit
    np.testing.assert_array_equal(edit.right.pictures[-1], targets[0])
    np.testing.assert_array_equal(edit.wrong.pictures[-1], picture)  # nothing happened
    edit, rest = known_pairs.of_samples([dataclasses.replace(known, targets=())])
    assert edit.right is None and edit.of_edit
    np.testing.assert_array_equal(rest.right.pictures[-1], picture)  # as it was
