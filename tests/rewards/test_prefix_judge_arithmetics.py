"""GA and CU as Edit-R2 counts them: the final-answer tag alone, and nothing made up of an outage."""

import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import suite
from editr2_jax.rewards.compat import prefix_judge


def final(word):
    return f"<answer_final>{word}</answer_final>"


READ = [
    (final("yes"), True),
    (final("no"), False),
    (final(" YES\n"), True),
    ("<answer_1>yes</answer_1><reason_1>done</reason_1>" + final("yes"), True),
    ("<answer_1>no</answer_1>" + final("yes"), True),  # contradicts itself: the final one counts
    ("<Answer_Final>No</Answer_Final>", False),
    (final("yes") + final("no"), True),  # the first one counts
    ("<answer_1>yes</answer_1>", None),
    ("<answer_final>yes", None),  # cut off
    (final("yes."), None),
    ("yes", None),
    ("", None),
]


@pytest.mark.parametrize(("answer", "wanted"), READ)
def test_only_the_final_answer_is_read(answer, wanted):
    assert prefix_judge.final_answer(answer) is wanted


def judge(script, subset="memory", turns=2, votes=1):
    answerer = fakes.Answerer({"r2_prefix": script})
    episode = fakes.episode([fakes.turn()] * 3, range(turns + 1), subset)
    return suite.verdict_of(prefix_judge.CompatPrefixJudge(answerer, votes=votes), episode), answerer


@pytest.mark.parametrize(("answer", "wanted"), READ)
def test_a_missing_tag_is_a_failure_and_is_counted(answer, wanted):
    verdict, _ = judge(answer)
    assert verdict.value == float(wanted is True) and verdict.detail["votes_without_tag"] == (wanted is None)


def test_four_votes_are_averaged():
    verdict, answerer = judge([final("yes"), "nothing", final("no"), final("Yes")], votes=4)
    assert verdict.value == 0.5 and verdict.detail["votes"] == [True, False, False, True] and len(answerer.asked) == 4
    with pytest.raises(ValueError, match="ask at least once"):
        judge("", votes=0)


@pytest.mark.parametrize(("subset", "name"), [("memory", "ga"), ("understanding", "cu")])
def test_which_judge_and_what_it_is_told(subset, name):
    verdict, answerer = judge(final("yes"), subset)
    text = answerer.asked[0].text()
    assert verdict.detail["judge"] == name and ("[red ball]" in text) == (subset == "understanding") and text.count("answer_final") == 2
    assert len(answerer.asked[0].fields["instructions"]) == 2


def test_plain_sessions_and_outages_have_no_score():
    assert judge(final("yes"), "plain")[0].status is Status.NOT_APPLICABLE
    reward = prefix_judge.CompatPrefixJudge(fakes.BrokenAnswerer())
    assert suite.verdict_of(reward, fakes.episode([fakes.turn()], [0, 1], "memory")).status is Status.SERVICE_ERROR
