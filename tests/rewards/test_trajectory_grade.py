"""Grades of whole trajectories: read strictly, put into [0, 1], by turn or once."""

import json

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import questions, suite
from editr2_jax.rewards.questions import JudgeFormatError, Question
from editr2_jax.rewards.trajectory_grade import TrajectoryGrade, TrajectoryGradeConfig
from editr2_jax.rl import turn_aggregation


def answer(*grades, reason="r"):
    return json.dumps({"reason": reason, "grades": list(grades)})


def judge(script, turns=3, subset="plain", planned=3, turns_played=0, **config):
    answerer = fakes.Answerer({"grades": script})
    reward = TrajectoryGrade(answerer, config=TrajectoryGradeConfig(turns=turns_played, **config))
    return suite.verdict_of(reward, fakes.episode([fakes.turn()] * planned, range(turns + 1), subset)), answerer


@pytest.mark.parametrize(("grade", "score"), [(1, 0), (2, 0.25), (3, 0.5), (4, 0.75), (5, 1)])
def test_the_latest_grade_counts_between_0_and_1(grade, score):
    verdict, answerer = judge(answer(5, 1, grade))
    assert verdict.value == score and verdict.detail["grades"] == [[5, 1, grade]] and verdict.detail["reasons"] == ["r"]
    assert verdict.detail["prompt"] == answerer.asked[0].prompt_hash()
    json.dumps(dict(verdict.detail))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "[5, 5, 5]",
        answer(),
        answer(5, 5),
        answer(5, 5, 5, 5),
        answer(5, 5, 6),
        answer(0, 5, 5),
        answer(5, 5, 4.5),
        answer(5, 5, True),
        answer(5, 5, "5"),
        answer(5, 5, None),
        answer(5, 5, 5)[:-1],
        answer(5, 5, 5) + " Well done.",
        answer(5, 5, 5) * 2,
        '{"reason": "r", "grades": 5}',
        '{"reason": "r", "grades": [5, 5, 5], "grades": [1, 1, 1]}',
    ],
)
def test_what_needs_guessing_is_no_score(text):
    with pytest.raises(JudgeFormatError):
        questions.grades_of(text, turns=3)
    assert judge(text)[0].status is Status.JUDGE_FORMAT_ERROR


def test_an_outage_is_no_score():
    reward = TrajectoryGrade(fakes.BrokenAnswerer())
    assert suite.verdict_of(reward, fakes.episode([fakes.turn()], [0, 1])).status is Status.SERVICE_ERROR


def test_votes_are_averaged_and_an_unreadable_one_is_left_out():
    verdict, _ = judge([answer(1, 1, 5), answer(1, 1, 4), "five", answer(1, 1, 3)], votes=4)
    assert verdict.value == pytest.approx(0.75) and len(verdict.detail["grades"]) == 3


def test_by_turn_every_prefix_is_asked_about_in_one_question():
    seen = []
    for turns in (1, 2, 3):
        verdict, answerer = judge(lambda pictures, fields: seen.append(pictures) or answer(*[4] * len(fields["instructions"])), turns)
        assert verdict.value == 0.75 and len(answerer.asked) == 1
    assert seen == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_whole_is_one_question_a_trajectory_and_its_mean():
    for turns in (1, 2):
        verdict, answerer = judge(answer(5), turns, whole=True)
        assert verdict.status is Status.NOT_APPLICABLE and not answerer.asked
    assert judge(answer(5, 1, 3), whole=True)[0].value == pytest.approx(0.5)
    assert judge(answer(5, 1), turns=2, whole=True, turns_played=2)[0].value == pytest.approx(0.5)
    assert judge(answer(5, 2), turns=2, planned=2, whole=True, turns_played=3)[0].value == pytest.approx(0.625), "a shorter session"


def test_whole_leaves_its_weight_to_others_and_is_a_trajectory_s_reward():
    """Before the last turn it does not count, so that an aggregate over turns is its score, whichever."""
    script = lambda pictures, fields: answer(*[5, 3, 1][: len(fields["instructions"])])  # noqa: E731
    rewards = [
        TrajectoryGrade(fakes.Answerer({"grades": script}), config=TrajectoryGradeConfig(whole=True)),
        fakes.FixedReward("cc", default=0.8),
    ]
    turns = [[fakes.episode([fakes.turn()] * 3, range(t + 2), id="s")] * 2 for t in range(3)]
    with suite.Suite(rewards, {"trajectory_grade": 1.0, "cc": 0.3}) as judged:
        scores = judged.score(turns)
    np.testing.assert_allclose(scores.weights["trajectory_grade"], [[0, 0, 1]] * 2)
    np.testing.assert_allclose(scores.combined, [[0.8, 0.8, (0.5 + 0.3 * 0.8) / 1.3]] * 2, rtol=1e-6)
    for how in ("mean", "last", "sum"):
        whole = turn_aggregation.aggregate(scores.values["trajectory_grade"], how, counts=scores.weights["trajectory_grade"] > 0)
        np.testing.assert_allclose(whole, 0.5)


@pytest.mark.parametrize("subset", ["memory", "understanding", "plain"])
@pytest.mark.parametrize("language", questions.LANGUAGES)
def test_the_prompt_asks_for_every_entry_of_the_schema_in_order(subset, language):
    fields = {"subset": subset, "instructions": ("Paint it", "Move it"), "formatted": ("[a]", "[b]"), "task_types": ("x", "y")}
    question = Question("grades", fields, language=language)
    text, schema = question.text(), questions.answer_schema(question)
    assert text.index("Move it") < text.index('"reason"') < text.index('"grades"'), "thoughts come before grades"
    assert list(schema["properties"]) == ["reason", "grades"] and ("[b]" in text) == (subset == "understanding")
    grades = schema["properties"]["grades"]
    assert (grades["minItems"], grades["maxItems"], grades["items"]["minimum"], grades["items"]["maximum"]) == (2, 2, 1, 5)
    assert all(str(grade) in text for grade in range(1, 6))
    assert len({Question("grades", {**fields, "subset": other}, language=language).text() for other in ("memory", subset, "plain")}) > 1


def test_settings_that_cannot_be_are_refused():
    for config, message in (({"votes": 0}, "ask at least once"), ({"turns_played": -1}, "turns is -1"), ({"language": "fr"}, "prompts in")):
        with pytest.raises(ValueError, match=message):
            judge(answer(5), **config)
