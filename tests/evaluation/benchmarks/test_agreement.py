"""Kappas against published and hand-computed values; a judge that wavers is found out."""

import itertools
import math
import time

import numpy as np
import pytest

from editr2_jax import presets
from editr2_jax.evaluation.benchmarks import agreement, judges
from editr2_jax.rewards.base import ServiceError
from editr2_jax.rewards.questions import Question

FLEISS = [  # Fleiss 1971's worked example as it is usually given: 10 subjects, 14 raters, 5 categories; kappa 0.210
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def test_fleiss_published_example():
    answers = [list(itertools.chain.from_iterable([str(i)] * count for i, count in enumerate(row))) for row in FLEISS]
    assert agreement.fleiss(answers) == pytest.approx(0.210, abs=5e-4)


def test_cohen_by_hand():
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert agreement.cohen(pairs) == pytest.approx(0.4)  # observed 0.7, chance 0.5


def test_answers_that_are_all_one_have_no_kappa():
    assert math.isnan(agreement.fleiss([["yes", "yes"]] * 3)) and math.isnan(agreement.cohen([("no", "no")] * 3))


def test_what_answers_are_alike():
    read, ask = Question("read_text", {"carrier": ""}), Question("color", {"object": "ball", "value": "red"})
    assert agreement.category(read, '{"texts": ["A  b", "c"]}') == agreement.category(read, '{"texts": ["C", "a b"]}')
    assert [agreement.category(ask, text) for text in ("Yes.", "no", "eyes", "yes and no")] == ["yes", "no", "unreadable", "unreadable"]


def test_reasons_do_not_part_answers_that_score_the_same():
    about = {"subset": "memory", "instructions": ("a", "b"), "formatted": ("a", "b"), "task_types": ("color_alter",) * 2}
    graded = [
        agreement.category(Question("grades", about), f'{{"reason": "{why}", "grades": [5, {last}]}}') for why, last in ("x4", "y4", "y3")
    ]
    assert graded == ["grades: 5 4", "grades: 5 4", "grades: 5 3"]
    assert agreement.category(Question("grades", about), '{"grades": [9]}') == agreement.UNREADABLE
    prefix = lambda text: agreement.category(Question("r2_prefix", about), text)  # noqa: E731
    assert prefix("one <answer_final>Yes</answer_final>") == prefix("two <answer_final>yes</answer_final>") == "success"
    assert prefix("cut off") == "failure"  # as that arithmetic counts it
    asked = Question("r2_color", {"object": "ball", "value": "red"})
    assert [agreement.category(asked, text) for text in ("YES", "Yes, it is red.", "It is not.")] == ["yes", "yes", "no"]


class Wavering:
    """Says yes to the first votes of every picture, and fails on one of them."""

    def __init__(self):
        self.votes = []

    def ask(self, pictures, question):
        self.votes.append(question.vote)
        if pictures[0][0, 0, 0] == 3:
            raise ServiceError("gone")
        return "yes" if pictures[0][0, 0, 0] == 1 or question.vote % 2 else "no"


def test_a_judge_that_wavers_is_found_out():
    question = Question("color", {"object": "ball", "value": "red"})
    picture = lambda number: (np.full((2, 2, 3), number, np.uint8),)  # noqa: E731
    heard = {f"key{number}": agreement.Heard(picture(number), question, "yes") for number in (1, 2, 3)}
    judge = Wavering()
    lines = agreement.probe(heard, judge, questions_at_most=3, times=4)
    assert min(judge.votes) == agreement.FIRST_VOTE and len(set(judge.votes)) == 4
    told = agreement.summarise(lines)["all"]
    assert (told["questions"], told["complete"], told["unanswered"]) == (3, 2, 4)
    assert told["agreement"]["mean"] == pytest.approx((1 + 1 / 3) / 2)  # two yes and two no: two of six pairs are alike
    assert told["unanimous"] == 0.5
    assert agreement.probe(heard, Wavering(), questions_at_most=2, times=2, seed=5)[0]["answers"] is not None
    with pytest.raises(ValueError, match="at least twice"):
        agreement.probe(heard, judge, questions_at_most=1, times=1)


class Broken:
    """A fault of the program and not of the judge."""

    def __init__(self):
        self.asked = 0

    def ask(self, pictures, question):
        self.asked += 1
        time.sleep(0.005)
        raise TypeError("no such argument")


def test_a_fault_of_the_program_is_no_missing_answer_and_ends_the_asking():
    question = Question("color", {"object": "ball", "value": "red"})
    heard = {f"key{number}": agreement.Heard((np.full((2, 2, 3), number, np.uint8),), question, "yes") for number in range(50)}
    broken = Broken()
    with pytest.raises(TypeError, match="no such argument"):
        agreement.probe(heard, broken, questions_at_most=50, times=40, workers=1)
    assert broken.asked < 2000


VLM = {"answerer": "vlm", "model": "qwen", "urls": ["http://127.0.0.1:1/v1"]}


def test_every_prompt_that_is_asked_is_named():
    rewards = presets.edit_r2().rewards.to_dict()
    usual = judges.prompts(rewards)
    assert "grades" not in usual and "r2_prefix" not in usual
    assert len(judges.prompts(rewards | {"use": ("if", "trajectory_grade")})["grades"]) == 12
    assert {"r2_prefix", "r2_color", "ev_added"} <= judges.prompts(rewards | {"arithmetic": "edit_r2"}).keys()


@pytest.mark.parametrize(
    ("training", "same"),
    [
        (VLM, True),
        (VLM | {"urls": ["http://127.0.0.1:2/v1"]}, True),
        (VLM | {"model": "another name for it"}, True),
        (VLM | {"model": "intern", "urls": ["http://127.0.0.1:2/v1"]}, False),
        (VLM | {"model": "/models/Qwen", "urls": []}, True),
        ({"model": "Qwen/Qwen"}, True),  # a foreign tool tells what it knows
        ({"urls": ["http://127.0.0.1:1/v1"]}, True),
        ({"model": "gpt"}, False),
        ({"answerer": "tabletop"}, False),
        ({"note": "people"}, None),
        (None, None),
    ],
)
def test_the_judge_that_trained_is_recognised(training, same):
    assert judges.same(VLM, training) is same
    assert bool(judges.warning(VLM, training)) == (same is True)
