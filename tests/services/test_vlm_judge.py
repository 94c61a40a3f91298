"""What the model is shown and asked, what comes back, and what is refused before it is sent."""

import math

import numpy as np
import pytest
import reward_fakes as fakes
from judge_server import answerer

from editr2_jax.rewards import base, questions
from editr2_jax.rewards.instruction_following import InstructionFollowing, InstructionFollowingConfig
from editr2_jax.rewards.questions import JudgeFormatError, Question
from editr2_jax.services import vlm_judge
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.vlm_judge import CHOICES, VlmConfig

YES = Question("color", {"object": "ball", "value": "blue"})
READ = Question("read_text", {"carrier": ""})
PREFIX = Question(
    "prefix", {"subset": "memory", "instructions": ("a", "b"), "formatted": ("a", "b"), "task_types": ("color_alter", "color_alter")}
)


def asked(server):
    (question,) = server.questions()
    return question


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def judge(server):
    with_server = answerer(server)
    yield with_server
    with_server.close()


def test_pictures_and_words_arrive_as_they_are(server, judge):
    assert judge.ask([fakes.picture(3), fakes.picture(8, size=5)], YES) == "yes"
    seen = asked(server)
    assert seen["numbers"] == [3, 8] and seen["sizes"] == [[8, 8], [5, 5]] and seen["prompt"] == YES.text()
    assert seen["settings"] == {"model": "judge", "temperature": 0.0, "seed": 0, "max_tokens": 512}
    assert isinstance(judge, base.SoftAnswerer)


def test_every_answer_is_read_by_the_rewards_own_reader(judge):
    assert questions.prefix_of(judge.ask([fakes.picture(n) for n in (0, 2, 3)], PREFIX), turns=2).first_failed_turn == 2
    assert questions.texts_of(judge.ask([fakes.picture(7)], READ)) == ["7"]


def test_large_pictures_are_made_smaller_with_their_aspect(server):
    judge = answerer(server, vlm={"long_side": 40})
    judge.ask([picture(100, 50), picture(30, 120), picture(20, 40), picture(400, 2)], YES)
    judge.close()
    assert asked(server)["sizes"] == [[20, 40], [40, 10], [40, 20], [1, 40]]


def test_without_a_long_side_pictures_stay_as_they_are(server):
    judge = answerer(server, vlm={"long_side": 0})
    judge.ask([picture(20, 1500)], YES)
    judge.close()
    assert asked(server)["sizes"] == [[1500, 20]]


@pytest.mark.parametrize("how", CHOICES)
def test_yes_and_no_are_made_the_only_answers_as_the_server_wants_it(server, how):
    judge = answerer(server, vlm={"choices": how})
    judge.ask([fakes.picture(0)], YES)
    judge.close()
    wanted = {
        "": {},
        "structured_outputs": {"structured_outputs": {"choice": ["yes", "no"]}},
        "guided_choice": {"guided_choice": ["yes", "no"]},
        "regex": {"regex": "(yes|no)"},
    }[how]
    assert asked(server)["settings"] == {"model": "judge", "temperature": 0.0, "seed": 0, "max_tokens": 512} | wanted


@pytest.mark.parametrize("question", [PREFIX, READ])
def test_json_answers_carry_their_schema_where_it_is_wanted(server, question):
    import jsonschema

    judge = answerer(server, vlm={"json_schema": True, "max_tokens": 99, "temperature": 0.5})
    answer = judge.ask([fakes.picture(n) for n in (0, 2, 3)], Question(question.kind, question.fields, vote=4))
    judge.close()
    settings = asked(server)["settings"]
    assert (settings["seed"], settings["max_tokens"], settings["temperature"]) == (4, 99, 0.5)
    told = settings["response_format"]["json_schema"]
    jsonschema.Draft202012Validator.check_schema(told["schema"])
    jsonschema.validate(questions.json_object(answer), told["schema"])
    assert told["strict"] and not jsonschema.Draft202012Validator(told["schema"]).is_valid({"reason": "r"})


def test_limits_are_checked_before_anything_is_sent(server):
    judge = answerer(server, vlm={"max_pictures": 2, "context_tokens": 1000, "max_tokens": 100})
    with pytest.raises(base.ServiceError, match="shows 3 pictures, max_pictures is 2"):
        judge.ask([fakes.picture(0)] * 3, PREFIX)
    with pytest.raises(base.ServiceError, match=r"may take \d+ tokens \(1338 of them pictures\), context_tokens is 1000; lower long_side"):
        judge.ask([picture(1024, 1024)], YES)
    judge.ask([fakes.picture(0)] * 2, YES)
    judge.close()
    assert len(server.questions()) == 1


def test_a_smaller_patch_makes_more_tokens(server):
    judge = answerer(server, vlm={"pixels_per_token": 1, "context_tokens": 2000})
    with pytest.raises(base.ServiceError, match="4096 of them pictures"):
        judge.ask([picture(64, 64)], YES)
    judge.close()


def test_a_question_may_be_in_chinese(server, judge):
    chinese = Question("color", YES.fields, language="zh")
    assert judge.ask([fakes.picture(2)], chinese) == "yes"
    assert asked(server)["prompt"] == chinese.text() != YES.text()


def test_probabilities_of_yes(server, judge):
    assert judge.yes_probability([fakes.picture(0)], YES) == pytest.approx(0.75 / 0.9)
    assert judge.yes_probability([fakes.picture(1)], YES) == pytest.approx(0.15 / 0.9)
    assert server.questions()[0]["settings"] | {"logprobs": True, "top_logprobs": 20, "max_tokens": 1} == server.questions()[0]["settings"]
    server.control(answers={"chatty": 1.0})
    with pytest.raises(JudgeFormatError, match="probability of 0.07 together; the likeliest: 'The'"):
        judge.yes_probability([fakes.picture(0)], YES)
    server.control(probabilities=False)
    before = len(server.questions())
    with pytest.raises(base.ServiceError, match="tells no probabilities .*set soft=False"):
        judge.yes_probability([fakes.picture(0)], YES)
    assert len(server.questions()) == before + 1, "it will not tell them the next time"


def test_half_a_character_is_an_answer_and_is_kept(server, tmp_path):
    server.control(answers={"half": 1.0})
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        judge = answerer(server, cache=cache)
        assert [judge.ask([fakes.picture(0)], YES) for _ in range(2)] == ["?", "?"]
    assert len(server.questions()) == 1


@pytest.mark.parametrize("logprob", [-(10**400), "low", None, math.nan, 1.0])
def test_log_probabilities_that_are_none_are_no_answer(logprob):
    top = {"token": "yes", "logprob": logprob}
    with pytest.raises(ValueError, match="top_logprobs|are none|could not convert"):
        vlm_judge._first_token_of({"choices": [{"logprobs": {"content": [{"top_logprobs": [top]}]}}]})


def test_soft_instruction_following_scores_the_probability(judge):
    reward = InstructionFollowing(fakes.Detector({}), judge, config=InstructionFollowingConfig(soft=True))
    verdict = reward.score(fakes.episode([fakes.turn()], [0, 1]))
    assert verdict.value == pytest.approx(0.15 / 0.9) and verdict.detail["votes_color"] == [verdict.value]
    with pytest.raises(ValueError, match="soft wants probabilities, which Answerer does not tell"):
        InstructionFollowing(fakes.Detector({}), fakes.Answerer(), config=InstructionFollowingConfig(soft=True))


def test_what_was_answered_is_not_asked_again(server, tmp_path):
    """By content: pictures, words, settings, vote; not by where the server is."""
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        judge = answerer(server, cache=cache)
        ask = lambda pictures, question=YES, judge=judge: judge.ask([fakes.picture(n) for n in pictures], question)  # noqa: E731
        assert [ask((0, 1)), ask((0, 1))] == ["no", "no"] and len(server.questions()) == 1
        ask((1, 0)), ask((0, 1, 1)), ask((0, 1), Question("color", {"object": "ball", "value": "red"}))
        ask((0, 1), Question("color", YES.fields, vote=1)), ask((0, 1), Question("color", YES.fields, language="zh"))
        judge.yes_probability([fakes.picture(0), fakes.picture(1)], YES)
        ask((0, 1), judge=answerer(server, cache=cache, vlm={"temperature": 0.1}))
        assert len({question["key"] for question in server.questions()}) == len(server.questions()) == 8
        ask((0, 1), judge=answerer(server, cache=cache, timeout_s=3.0))
        assert len(server.questions()) == 8
        assert (judge.counters()["cache_hits"], judge.counters()["cache_misses"]) == (1, 7)
        assert "red" in cache._run("SELECT about FROM answers WHERE about LIKE '%red%'")[0][0]


def test_replay_never_asks(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    judge = answerer(server, cache=AnswerCache(path))
    judge.ask([fakes.picture(2)], YES)
    judge.close()
    server.kill()
    judge = answerer(server, cache=AnswerCache(path, mode="replay"))
    assert judge.ask([fakes.picture(2)], YES) == "yes"
    with pytest.raises(base.ServiceError, match="Replay has no answer to 'color', vote 0: 'The first picture was taken before"):
        judge.ask([fakes.picture(3)], YES)
    judge.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "VlmConfig.model is empty; give the name"),
        ({"choices": "magic"}, "choices is 'magic'; choose from '', 'structured_outputs'"),
        ({"max_pictures": 0}, "max_pictures is 0; give at least 1"),
        ({"temperature": -1.0}, "neither may be below 0"),
        ({"long_side": -1}, "neither may be below 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VlmConfig(**{"model": "judge"} | settings)


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language is 'fr'; there are prompts in en, zh"):
        InstructionFollowing(fakes.Detector({}), fakes.Answerer(), config=InstructionFollowingConfig(language="fr"))
