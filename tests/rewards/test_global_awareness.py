"""GA and CU: who is judged, what the judge sees, what is kept of the answer."""

import json

import pytest
import reward_fakes as fakes

from editr2_jax.evaluation import tables
from editr2_jax.records import Status
from editr2_jax.rewards import global_awareness as ga
from editr2_jax.rewards import suite


def answer(first, *pairs):
    return json.dumps({"reason": "r", "turns": [{"edit": e, "rule": r} for e, r in pairs], "first_failed_turn": first})


def judge(script, subset="memory", turns=2, **config):
    answerer = fakes.Answerer({"prefix": script})
    reward = ga.GlobalAwareness(answerer, config=ga.GlobalAwarenessConfig(**config))
    return suite.verdict_of(reward, fakes.episode([fakes.turn()] * 3, range(turns + 1), subset)), answerer


def test_all_edits_so_far_must_succeed():
    assert judge(answer(0, (True, True), (True, True)))[0].value == 1
    assert judge(answer(1, (False, True), (True, True)))[0].value == 0


def test_a_broken_rule_is_a_failure_and_is_kept_apart_from_the_edit():
    verdict, _ = judge(answer(2, (True, True), (True, False)))
    assert verdict.value == 0 and verdict.detail["edits"] == [[True, True]] and verdict.detail["rules"] == [[True, False]]
    json.dumps(dict(verdict.detail))


def test_half_a_character_of_a_judge_can_be_written_wherever_reasons_are(tmp_path):
    said = answer(1, (False, True), (True, True)).replace('"r"', r'"it shows \ud83d"')
    verdict, _ = judge(said)
    assert verdict.value == 0 and verdict.status is Status.OK and verdict.detail["reasons"] == ["it shows ?"]
    about = {"session": "a", "subset": "memory", "turn": 0, "task_type": "color_alter", "instruction": "x", "intent": None, "changed": 0.0}
    given = {"scores": {"ga": verdict.value}, "status": {"ga": "ok"}, "reward": 0.0, "detail": {"ga": verdict.detail}}
    tables.write(tmp_path, [about | given], draws=2)
    assert "it shows ?" in (tmp_path / tables.SCORES).read_text(encoding="utf-8")


def test_the_latest_edit_and_its_rule_are_told_apart():
    """Of the votes that found all before it well; a judge may stop at the first failure."""
    all_well, no_rule = answer(0, (True, True), (True, True)), answer(2, (True, True), (True, False))
    no_edit = answer(2, (True, True), (False, True))
    detail = judge([all_well, no_rule, no_edit, no_rule], votes=4)[0].detail
    assert (detail["edit"], detail["rule"]) == (0.75, 0.5)
    detail = judge([all_well, answer(1, (False, True))], votes=2)[0].detail
    assert (detail["edit"], detail["rule"]) == (1, 1)
    assert not {"edit", "rule"} & set(judge(answer(1, (True, False)))[0].detail)


def test_the_judge_sees_all_pictures_and_the_instructions_so_far():
    seen = []
    judge(lambda pictures, fields: seen.append((pictures, len(fields["instructions"]))) or answer(0, *[(True, True)] * 3), turns=3)
    assert seen == [([0, 1, 2, 3], 3)]


def test_plain_sessions_are_not_judged_unless_asked():
    verdict, answerer = judge(answer(0), "plain")
    assert verdict.status is Status.NOT_APPLICABLE and not answerer.asked
    assert judge(answer(0, (True, True), (True, True)), "plain", plain=True)[0].value == 1


@pytest.mark.parametrize(("subset", "name"), [("memory", "ga"), ("understanding", "cu")])
def test_the_detail_says_which_judge(subset, name):
    assert judge(answer(0, (True, True), (True, True)), subset)[0].detail["judge"] == name


def test_votes_are_averaged():
    good, bad = answer(0, (True, True), (True, True)), answer(1, (False, True), (True, True))
    verdict, _ = judge([good, bad, good, "yes"], votes=4)
    assert verdict.value == pytest.approx(2 / 3) and verdict.detail["votes"] == [True, False, True]


def test_an_unreadable_answer_is_no_score():
    assert judge("<answer>yes</answer>")[0].status is Status.JUDGE_FORMAT_ERROR
    reward = ga.GlobalAwareness(fakes.BrokenAnswerer())
    assert suite.verdict_of(reward, fakes.episode([fakes.turn()], [0, 1], "memory")).status is Status.SERVICE_ERROR
