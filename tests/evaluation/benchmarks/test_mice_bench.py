"""MICE-Bench's numbers on dialogues that were counted by hand."""

import math

import numpy as np
import pytest
import reward_fakes as fakes
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.data.session_source import SessionFolder
from editr2_jax.evaluation.benchmarks import edival as edival_bench
from editr2_jax.evaluation.benchmarks import leaderboard, measures, scoring, tracing
from editr2_jax.evaluation.benchmarks import mice_bench as mice
from editr2_jax.evaluation.benchmarks.leaderboard import Circumstances
from editr2_jax.records import Episode
from editr2_jax.rewards.instruction_following import InstructionFollowing
from editr2_jax.rewards.questions import YES_NO
from tests.evaluation.benchmarks.hand_made import cell, dialogue, record, tables


def test_raw_and_cumulative_ga_and_the_dialogue_s_success_by_hand():
    records = [
        *dialogue("a", (1, 1, 1), gas=(1, 0, 1), subset="memory"),  # a judge that changes its mind
        *dialogue("b", (1, 0, 1), gas=(1, 1, 0.5), subset="memory"),
        *dialogue("c", (0, 1, None), gas=(0, None, 1), subset="understanding"),
    ]
    made = tables(mice, records)
    assert [cell(made, "turn", f"memory, T{t}", "ga")["mean"] for t in (1, 2, 3)] == [1.0, 0.5, 0.75]
    assert [cell(made, "turn", f"memory, T{t}", "ga_so_far")["mean"] for t in (1, 2, 3)] == [1.0, 0.5, 0.25]
    assert [cell(made, "turn", f"memory, T{t}", "if_so_far")["mean"] for t in (1, 2, 3)] == [1.0, 0.5, 0.5]
    lost = cell(made, "turn", "understanding, T2", "ga")
    assert (lost["mean"], lost["n"], lost["due"], lost["missing"]) == (None, 0, 1, {"judge_format_error": 1})
    before = cell(made, "turn", "understanding, T2", "ga_so_far")
    assert (before["mean"], before["due"], before["missing"]) == (0.0, 1, {})  # 0 before it: nothing can lower it
    unknown = cell(tables(mice, dialogue("d", (1, 1), gas=(None, 1), subset="memory")), "turn", "memory, T2", "ga_so_far")
    assert (unknown["n"], unknown["due"], unknown["missing"]) == (0, 1, {"undecided": 1})
    assert cell(made, "subset", "all", "full_if")["mean"] == pytest.approx(1 / 3)
    assert cell(made, "subset", "memory", "full_ga")["mean"] == pytest.approx(0.25)  # lowest verdicts 0 and 0.5
    assert cell(made, "task_type", "color_alter", "if") | {"from": 0} == {
        **{"mean": pytest.approx(2 / 3), "n": 3, "sessions": 3, "due": 3, "missing": {}, "from": 0},
        **{name: cell(made, "task_type", "color_alter", "if")[name] for name in ("low", "high")},
    }
    assert cell(made, "type_turn", "subject_remove, T3", "if")["n"] == 2
    assert cell(made, "subset_type", "memory, text_change", "if")["mean"] == 0.5


def test_invalid_annotation_stays_in_the_denominator_report():
    """As in the published test set, 7 of 2160 turns have no text to look for."""
    records = [record(f"s{i:03}", t, subset="memory") for i in range(720) for t in range(3)]
    for one in records[:21:3]:
        one["scores"]["if"], one["status"]["if"] = None, "invalid_annotation"
    board = leaderboard.make(records, Circumstances(draws=10))
    assert board["denominators"] == {"if": {"invalid_annotation": 7, "ok": 2153}}
    every = cell(board, "subset", "all", "if")
    assert (every["n"], every["due"], every["missing"]) == (2153, 2160, {"invalid_annotation": 7})
    row = cell(board, "statuses", "if, all", "invalid_annotation"), cell(board, "statuses", "if, all", "turns")
    assert row == ({"count": 7}, {"count": 2160})


def judged(session, turn, edits, rules, task_type="color_alter"):
    detail = {"ga": {"edits": [list(vote) for vote in edits], "rules": [list(vote) for vote in rules]}}
    return record(session, turn, subset="memory", task_type=task_type, scores={"ga": 0.5}, detail=detail)


def test_rule_compliance_looks_only_at_edits_that_were_done_and_reached():
    records = [
        judged("a", 0, [[True], [True], [False]], [[True], [False], [False]]),  # two votes find it done, one of them the rule kept
        judged("a", 1, [[True, True], [True, False], [False, False]], [[True, True], [True, True], [False, False]]),  # the last stopped
        judged("b", 0, [[False]], [[True]], task_type="subject_remove"),
    ]
    made = tables(mice, records)
    under, every = "T1, edits under the rule", "T1, all edits"
    assert cell(made, "rule", under, "edit")["mean"] == pytest.approx(2 / 3)
    assert cell(made, "rule", under, "rule")["mean"] == pytest.approx(1 / 2)
    assert cell(made, "rule", every, "edit")["mean"] == pytest.approx(1 / 3)  # (2/3 + 0) / 2
    kept = cell(made, "rule", every, "rule")
    assert (kept["n"], kept["due"], kept["missing"]) == (1, 1, {})  # nothing was done in b
    second = "T2, all edits"
    assert (cell(made, "rule", second, "edit")["mean"], cell(made, "rule", second, "rule")["mean"]) == (0.5, 1.0)


def test_the_shift_of_the_first_edit_by_hand():
    records = [record(f"s{i}", 0, task_type=kind, scores={"if": value}) for i, (kind, value) in enumerate(
        [("background_change", 0.0), ("background_change", 1.0), ("background_change", 0.0), ("color_alter", 1.0)]
    )]  # fmt: skip
    board = measures.layout(records)
    made = [mice.shift(board, "plain", ["color_alter"] * 3 + ["background_change"], draws=50)]
    assert cell(made, "shift_plain", "background_change", "test") == {"share": 0.75, "count": 3}
    assert cell(made, "shift_plain", "background_change", "train") == {"share": 0.25, "count": 1}
    assert "0.500" in made[0]["note"]
    assert cell(made, "shift_plain", "as tested", "if")["mean"] == 0.5
    assert cell(made, "shift_plain", "at the train split's mix", "if")["mean"] == pytest.approx(0.75 * 1.0 + 0.25 / 3)
    alone = mice.shift(board, "plain", None, draws=50)
    assert "no such sessions in a train split" in alone["note"] and [column["name"] for column in alone["columns"]] == ["test", "if"]


def test_a_type_that_was_not_tested_leaves_the_mix():
    board = measures.layout([record("a", 0, task_type="color_alter", scores={"if": 1.0})])
    made = [mice.shift(board, "plain", ["color_alter", "count_change"], draws=10)]
    assert cell(made, "shift_plain", "at the train split's mix", "if")["mean"] == 1.0
    assert cell(made, "shift_plain", "count_change", "test") == {"share": 0.0, "count": 0}


def test_a_trajectory_grade_has_a_column_where_it_was_asked_for():
    records = [record("a", t, scores={"if": 1.0, "trajectory_grade": grade}) for t, grade in enumerate((None, None, 0.75))]
    made = tables(mice, records)
    whole, last = cell(made, "subset", "plain", "trajectory_grade"), cell(made, "turn", "plain, T3", "trajectory_grade")
    assert (whole["mean"], whole["n"], whole["due"], last["mean"]) == (0.75, 1, 1, 0.75)
    assert cell(tables(edival_bench, records), "turn", "T3", "trajectory_grade")["mean"] == 0.75
    assert "trajectory_grade" not in [column["name"] for column in tables(mice, dialogue("a", (1, 1, 1)))[0]["columns"]]


SCORES = st.sampled_from([0.0, 0.25, 1.0, None])
DIALOGUES = st.lists(
    st.tuples(st.sampled_from(["memory", "understanding"]), st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


def made_of(drawn):
    return [
        one
        for number, (subset, turns) in enumerate(drawn)
        for one in dialogue(f"s{number}", [a for a, _ in turns], gas=[b for _, b in turns], subset=subset)
    ]


@given(DIALOGUES)
def test_cumulative_ga_never_rises(drawn):
    values = measures.layout(made_of(drawn)).values["ga_so_far"]
    for row in values:
        known = row[~np.isnan(row)]
        assert np.all(np.diff(known) <= 0)


@given(DIALOGUES)
def test_denominators_add_up(drawn):
    records = made_of(drawn)
    made = tables(mice, records, draws=1)
    for name in ("turn", "subset", "task_type", "type_turn", "subset_type", "rule"):
        for line in next((found["rows"] for found in made if found["name"] == name), ()):
            for found in line["cells"].values():
                assert 0 <= found["n"] <= found["due"] and found["sessions"] <= found["n"]
                assert found["n"] + sum(found["missing"].values()) == found["due"]
    for column in ("if", "ga"):
        parts = [line["cells"][column] for found in made if found["name"] == "turn" for line in found["rows"]]
        whole = cell(made, "subset", "all", column)
        assert sum(part["n"] for part in parts) == whole["n"] and sum(part["due"] for part in parts) == whole["due"] == len(records)
        told = sum(part["mean"] * part["n"] for part in parts if part["n"])
        assert whole["n"] == 0 or math.isclose(told / whole["n"], whole["mean"])


@given(DIALOGUES, st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(drawn, random):
    records = made_of(drawn)
    mixed = list(records)
    random.shuffle(mixed)
    assert tables(mice, records, draws=20) == tables(mice, mixed, draws=20)


def test_the_published_test_set_s_denominators_and_shift(mice_bench):
    """7 of 2160 annotations are invalid, and the background opens 7.7 % of the training and 35.6 % of the test dialogues."""
    folder = SessionFolder(mice_bench, "test", pictures=False, drop_invalid=False)
    always = fakes.Answerer(dict.fromkeys(YES_NO, "yes") | {"read_text": '{"texts": []}'})
    reward = tracing.Tracer().reward(InstructionFollowing(fakes.Detector({}), always))
    picture = np.zeros((2, 2, 3), np.uint8)
    records = []
    for session in folder.sessions:
        for turn, about in enumerate(session.turns):
            verdict = reward.score(Episode(session=session, pictures=(picture,) * (turn + 2)))
            told = scoring.told({"if": verdict}) | {"reward": None, "changed": None, "intent": None}
            records.append(
                {"session": session.id, "subset": session.subset, "turn": turn, "task_type": about.task_type}
                | {"instruction": about.instruction, "bg_consistency": about.bg_consistency, **told}
            )
    train = [
        session.turns[0].task_type for session in SessionFolder(mice_bench / "cm", "train", pictures=False, drop_invalid=False).sessions
    ]
    memory = [record for record in records if record["subset"] == "memory"]
    flags = leaderboard.count_flags(folder.flags, {session.id for session in folder.sessions})
    board = leaderboard.make(records, Circumstances(draws=2, flags=flags))
    assert board["denominators"]["if"] == {"invalid_annotation": 7, "ok": 2153}
    assert (board["data"]["flags"]["empty_text_target"], board["data"]["flags"]["leaked_generator_text"]) == (7, 3)
    assert any("3 turns name an object by words" in text for text in board["warnings"])
    assert [cell(board, "turn", f"memory, T{t}", "if")["due"] for t in (1, 2, 3)] == [360] * 3
    kept = measures.layout(memory).kept.sum(axis=0)
    assert kept.tolist() == [232, 200, 168]
    shift = [mice.shift(measures.layout(memory), "memory", train, draws=2)]
    assert cell(shift, "shift_memory", "background_change", "train")["share"] == pytest.approx(0.077, abs=5e-4)
    assert cell(shift, "shift_memory", "background_change", "test")["share"] == pytest.approx(0.356, abs=5e-4)
