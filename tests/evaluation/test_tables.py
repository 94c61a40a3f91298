"""From score records to tables, alone and paired."""

import json
import math

import numpy as np
import pytest

from editr2_jax.evaluation import tables
from tests.evaluation import fake_workdir


def record(session="a", turn=0, *, score=1.0, subset="plain", task_type="color_alter", status=None, reward=0.5, instruction="paint it"):
    status = status or ("ok" if score is not None else "service_error")
    return {"session": session, "subset": subset, "turn": turn, "task_type": task_type, "instruction": instruction, "intent": None} | {
        "scores": {"if": score},
        "status": {"if": status},
        "reward": reward,
        "detail": {},
    }


def cell(summary, table, row, column):
    return next(found for found in summary["tables"][table]["rows"] if found["name"] == row)["cells"][column]


def test_tables_of_two_dialogues_by_hand():
    records = [record("a", 0, score=1.0), record("a", 1, score=0.0, task_type="text_change"), record("b", 0), record("b", 1, score=None)]
    summary = tables.summarise(records)
    assert (summary["sessions"], summary["turns"]) == (2, 2)
    assert cell(summary, "turn", "turn 0", "if")["mean"] == 1.0
    assert cell(summary, "turn", "turn 1", "if") == {"mean": 0.0, "low": None, "high": None, "n": 1, "sessions": 1}
    assert cell(summary, "task_type", "color_alter", "if")["n"] == 2
    assert summary["full_success"]["mean"] == 0.0 and summary["full_success"]["n"] == 1  # b's is unknown
    assert summary["statuses"] == {"if": {"ok": 3, "service_error": 1}}


def test_session_reward_is_the_mean_over_turns_that_have_one():
    records = [record("a", 0, reward=0.2), record("a", 1, reward=0.4), record("b", 0, reward=0.9), record("b", 1, reward=None)]
    assert tables.summarise(records)["reward"]["mean"] == pytest.approx((0.3 + 0.9) / 2)


def test_rewards_that_do_not_apply_are_no_missing_verdicts():
    records = [record("a", 0, score=None, status="not_applicable"), record("a", 1, score=1.0)]
    assert tables.summarise(records)["full_success"]["mean"] == 1.0


def test_without_if_nobody_knows_whether_a_dialogue_succeeded():
    renamed = [row | {"scores": {"cc": 0.5}, "status": {"cc": "ok"}} for row in (record("a", 0), record("a", 1))]
    summary = tables.summarise(renamed)
    assert summary["full_success"] == {"mean": None, "low": None, "high": None, "n": 0, "sessions": 0}
    assert cell(summary, "turn", "turn 1", "cc")["mean"] == 0.5 and "| CC" in tables.markdown(summary["tables"]["turn"], title="turn")


def test_sessions_of_different_length_share_a_table():
    summary = tables.summarise([record("a", 0), record("b", 0), record("b", 1)])
    assert cell(summary, "turn", "turn 1", "if")["sessions"] == 1
    assert cell(summary, "subset", "all", "full_success")["n"] == 2


def test_a_comparison_pairs_by_session_and_turn_whatever_the_order():
    before = [record("a", 0, score=0.0, reward=0.1), record("b", 0, score=0.0, reward=0.3), record("c", 0)]
    after = [record("b", 0, score=1.0, reward=0.5), record("d", 0), record("a", 0, score=0.0, reward=0.1)]
    compared = tables.compare(before, after)
    assert compared["unpaired"] == {"before": 1, "after": 1} and compared["sessions"] == 2
    assert compared["reward"]["mean"] == pytest.approx(0.1)
    assert (compared["reward"]["before"], compared["reward"]["after"]) == (pytest.approx(0.2), pytest.approx(0.3))
    assert cell(compared, "turn", "turn 0", "if")["after"] == 0.5


def test_a_turn_without_reward_on_one_side_leaves_the_session_mean_on_both():
    before = [record("a", 0, reward=0.0), record("a", 1, reward=1.0)]
    after = [record("a", 0, reward=0.2), record("a", 1, reward=None)]
    assert tables.compare(before, after)["reward"]["mean"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([record("a")], [record("b")], "no turn is in both"),
        ([record("a")], [record("a", instruction="paint them")], "another instruction"),
        ([record("a"), record("a")], [record("a")], "there twice"),
        ([{"session": "a"}], [record("a")], "missing; a record has"),
        ([], [record("a")], "no score records"),
    ],
)
def test_what_can_not_be_compared_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        tables.compare(before, after)


def test_a_gain_is_found_and_told_in_one_line():
    before = fake_workdir.records(200, 0.0, np.random.default_rng(0))
    after = fake_workdir.records(200, 0.25, np.random.default_rng(1))
    compared = tables.compare(before, after, draws=500)
    assert compared["reward"]["low"] > 0
    line = tables.headline(compared)
    assert line.startswith("mean session reward 0.") and "paired 95% interval +0." in line and "200 held-out dialogues" in line
    text = tables.markdown(compared["tables"]["subset_turn"], title="By turn")
    assert text.count("\n| memory, turn") == 3 and "→" in text
    assert "ga_so_far" in compared["tables"]["turn"]["columns"]


def test_files_come_back_and_hold_no_nan(tmp_path):
    records = fake_workdir.records(6, 0.0, np.random.default_rng(0))
    assert any(math.isnan(value) for one in records for value in one["scores"].values() if value is not None)
    summary = tables.write(tmp_path / "eval" / "3", records, draws=50)
    text = (tmp_path / "eval" / "3" / "scores.jsonl").read_text() + (tmp_path / "eval" / "3" / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads((tmp_path / "eval" / "3" / "summary.json").read_text()) == summary
    assert tables.summarise(tables.read(tmp_path / "eval" / "3" / "scores.jsonl"), draws=50) == summary


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "scores.jsonl").write_text(json.dumps(record()) + "\n{torn")
    with pytest.raises(ValueError, match=r"scores\.jsonl:2: not a score record"):
        tables.read(tmp_path / "scores.jsonl")
