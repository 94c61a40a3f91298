"""What is printed, and what a check that breaks down leaves behind."""

import pytest

from editr2_jax.doctor import checks, finding, text
from editr2_jax.doctor.finding import Finding, Opinion

ILL = Finding(name="masks", opinion=Opinion.FAIL, evidence="a number (limit 1)", advice="Do something.", details=("a  1",))
WELL = Finding(name="batch", opinion=Opinion.OK, evidence="all " * 60)


def test_a_finding_is_a_line_and_its_table():
    first, table = text.lines(ILL)
    assert first.split() == ["fail", "masks", "a", "number", "(limit", "1)"] and table.strip() == "a  1"
    head, *rest = text.lines(WELL)
    assert rest and all(len(line) <= 140 for line in (head, *rest)) and rest[0].startswith(" " * head.index("all"))


def test_the_last_lines_count_and_advise():
    assert text.summary([WELL]) == ["verdict: 1 ok. Nothing is to be done."]
    assert text.summary([WELL, ILL]) == ["verdict: 1 ok, 1 fail. What to do:", "fail  masks: Do something."]


def test_findings_are_plain_json():
    assert text.plain([ILL]) == [
        {"name": "masks", "opinion": "fail", "evidence": "a number (limit 1)", "advice": "Do something.", "details": ["a  1"]}
    ]


def test_failures_outweigh_warnings_and_both_stand_before_the_evidence():
    found = finding.judged("5 of 6", fail="one is missing", warn=["and one is late"], advice="Wait.")
    assert (found.opinion, found.evidence) == (Opinion.FAIL, "one is missing; and one is late; 5 of 6")
    assert finding.judged("5 of 6", warn="one is late", advice="Wait.").opinion is Opinion.WARN
    assert finding.judged("6 of 6", advice="Wait.") == finding.ok("6 of 6")


@pytest.mark.parametrize("opinion", Opinion)
def test_advice_goes_with_what_is_not_well(opinion):
    advice = "" if opinion in (Opinion.WARN, Opinion.FAIL) else "Do it."
    with pytest.raises(ValueError, match="advice belongs to what is not well"):
        Finding(opinion=opinion, evidence="1", advice=advice)


def test_a_check_that_breaks_down_has_failed_and_says_where():
    found = checks.carried_out(None, checks.CHECKS["batch"])
    assert found.opinion is Opinion.FAIL and found.evidence.startswith("the check ran into an error; AttributeError: ")
    assert found.details[-1].startswith("doctor/batch.py:")


def test_unknown_checks_are_refused_naming_the_nearest():
    assert checks.chosen(["learning", "batch"]) == ("batch", "learning") and checks.chosen([]) == tuple(checks.CHECKS)
    with pytest.raises(ValueError, match="there is no check 'mask', did you mean 'masks'; there are environment, batch"):
        checks.chosen(["mask"])


def test_only_failures_keep_a_run_from_starting():
    checks.refuse_unfit([WELL, Finding(name="rewards", opinion=Opinion.WARN, evidence="1", advice="Look.")])
    with pytest.raises(
        checks.Unfit, match="before step 0 the doctor found: masks: a number .* To start all the same, set doctor.before=False"
    ):
        checks.refuse_unfit([WELL, ILL])
