"""The decomposition agent's rewards: form first, then three F1."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rewards import decomposition
from editr2_jax.rewards.decomposition import Decomposition, Score

WANTED = Decomposition(actions=("recolor", "remove"), subjects=("coat", "lamp"), goals=("scarlet",))
ANSWER = '{"actions": ["recolor", "remove"], "subjects": ["coat", "lamp"], "goals": ["scarlet"]}'
GOOD = f"<think>The coat is grey.</think>\n<answer>{ANSWER}</answer>"


def test_a_right_answer_earns_all():
    score = decomposition.score(GOOD, WANTED)
    assert score == Score(format=1, actions=1, subjects=1, goals=1) and (score.total, score.share) == (4, 1)


def test_parts_are_scored_apart():
    said = {"actions": ["Recolor"], "subjects": ["coat", "hat", "lamp "], "goals": ["blue"]}
    score = decomposition.score(f"<think></think><answer>{json.dumps(said)}</answer>", WANTED)
    assert (score.format, score.goals) == (1, 0)
    assert score.actions == pytest.approx(2 / 3) and score.subjects == pytest.approx(4 / 5)
    assert score.total == pytest.approx(1 + 2 / 3 + 4 / 5) and score.share == pytest.approx(score.total / 4)


def test_a_part_that_is_empty_in_both_is_a_convention():
    wanted = Decomposition(actions=("remove",), subjects=("lamp",), goals=())
    answer = decomposition.written(wanted)
    assert decomposition.score(answer, wanted).total == 3 and decomposition.score(answer, wanted, empty=1.0).total == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        ANSWER,
        f"<answer>{ANSWER}</answer>",
        f"<answer>{ANSWER}</answer><think>late</think>",
        f"<think>a</think><think>b</think><answer>{ANSWER}</answer>",
        f"<think>a</think><answer>{ANSWER}</answer><answer>{ANSWER}</answer>",
        f"<think><answer>{ANSWER}</answer></think><answer>{ANSWER}</answer>",
        f"<think>a<answer>{ANSWER}</answer>",
        f"<think>a</think><answer>{ANSWER}",
        f"Sure! {GOOD}",
        f"{GOOD} Done.",
        "<think>a</think><answer>recolor the coat</answer>",
        "<think>a</think><answer>[]</answer>",
        '<think>a</think><answer>{"actions": [], "subjects": []}</answer>',
        '<think>a</think><answer>{"actions": [], "subjects": [], "goals": [], "steps": []}</answer>',
        '<think>a</think><answer>{"actions": "recolor", "subjects": [], "goals": []}</answer>',
        '<think>a</think><answer>{"actions": [1], "subjects": [], "goals": []}</answer>',
        '<think>a</think><answer>{"actions": [], "actions": ["recolor"], "subjects": [], "goals": []}</answer>',
        GOOD.upper(),
    ],
)
def test_what_is_out_of_form_earns_nothing(text):
    assert decomposition.read(text) is None and decomposition.score(text, WANTED).total == 0


def test_brackets_without_end_earn_nothing():
    assert decomposition.score(f"<think>a</think><answer>{'[' * 100_000}</answer>", WANTED).total == 0


def test_a_fence_and_white_space_are_in_form():
    assert decomposition.read(f"\n<think>a\nb</think>\n\n<answer>\n```json\n{ANSWER}\n```\n</answer>\n") == WANTED


words = st.lists(st.text(alphabet='abé"\\{}[] \n', max_size=8), max_size=4).map(tuple)


@given(actions=words, subjects=words, goals=words, think=st.text(alphabet="ab< />\n", max_size=20))
def test_what_is_written_is_read(actions, subjects, goals, think):
    wanted = Decomposition(actions=actions, subjects=subjects, goals=goals)
    text = decomposition.written(wanted, think=think)
    assert decomposition.read(text) == wanted
    assert 1 <= decomposition.score(text, wanted).total <= 4


def test_thoughts_with_tags_are_refused():
    with pytest.raises(ValueError, match="cannot hold the tags"):
        decomposition.written(WANTED, think="</think>")
