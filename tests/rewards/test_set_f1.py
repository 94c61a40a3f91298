import golden_vectors as golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rewards import set_f1

words = st.lists(st.sampled_from(["add", "remove", "the ball", "blue"]), max_size=5)


def test_two_of_three_by_hand():
    assert set_f1.f1(["add", "ball", "blue"], ["add", "ball", "red"]) == pytest.approx(2 / 3)
    assert set_f1.f1(["add"], ["remove"]) == 0


def test_case_white_space_and_repetition_do_not_matter():
    assert set_f1.f1(["  The  Red\tBall", "the red ball", " "], ["the red ball"]) == 1


def test_both_empty_is_a_convention_and_one_empty_is_nothing():
    assert set_f1.f1([], [" "]) == 0 and set_f1.f1([], [], empty=1.0) == 1
    assert set_f1.f1([], ["ball"], empty=1.0) == 0 == set_f1.f1(["ball"], [], empty=1.0)


@given(words, words)
def test_it_is_symmetric_bounded_and_one_for_equal_sets_alone(said, wanted):
    score = set_f1.f1(said, wanted)
    assert score == set_f1.f1(wanted, said) and 0 <= score <= 1
    assert (score == 1) == (set(said) == set(wanted) and bool(said))


def test_a_string_in_place_of_a_set_is_refused():
    with pytest.raises(ValueError, match="the one string 'ball'; put it into a list"):
        set_f1.f1("ball", ["ball"])


@golden.each("discrete_reward")
def test_f1_matches_its_definition(case, bits):
    pairs = zip(case["pred"], case["gold"], strict=True)
    ours = [set_f1.f1(*([f"edit {id}" for id in row if id >= 0] for row in pair)) for pair in pairs]
    golden.near(np.float64(ours), case["f1"], bits, what=case.name, closed=True)
