"""EdiVal-Bench's numbers on dialogues that were counted by hand."""

import json

import numpy as np
import pytest

from editr2_jax.evaluation.benchmarks import edival, leaderboard, measures, page, trace
from editr2_jax.evaluation.benchmarks.leaderboard import Circumstances
from tests.evaluation.benchmarks.hand_made import cell, record, tables


def scored(session, turn, followed, parts, *, bg=True):
    """parts: (object, background), None for a part that is not defined."""
    known = {name: value for name, value in zip(("object", "background"), parts, strict=True) if value is not None}
    value = float(np.mean(list(known.values()))) if known else None
    status = {"cc": "ok" if known else "not_applicable"}
    return record(session, turn, scores={"if": followed, "cc": value}, status=status, detail={"cc": known}, bg=bg)


def test_overall_of_the_published_example():
    """FLUX.1-Kontext-dev, T1: IF 59.97 and CC 95.32 give 75.61."""
    assert 100 * edival.OVERALL.combine(np.array([[0.5997], [0.9532], [0.9532]]))[0] == pytest.approx(75.61, abs=0.005)
    assert 100 * edival.OVERALL_IMAGE.combine(np.array([[0.5997], [0.9532]]))[0] == pytest.approx(75.61, abs=0.005)


def test_both_aggregations_of_cc_and_the_rows_they_look_at():
    records = [
        scored("a", 0, 1.0, (0.9, 0.5)),
        scored("b", 0, 1.0, (None, 0.7)),
        scored("c", 0, 0.0, (0.6, None)),
        scored("d", 0, 1.0, (0.1, None), bg=False),  # the background may change: the row is left out
        scored("e", 0, 0.0, (None, None)),
    ]
    made = tables(edival, records)
    by_set, by_image = cell(made, "turn", "T1", "cc_dataset"), cell(made, "turn", "T1", "cc_image")
    assert by_set["mean"] == pytest.approx(((0.9 + 0.6) / 2 + (0.5 + 0.7) / 2) / 2)
    assert by_set["parts"] == {"object": {"mean": pytest.approx(0.75), "n": 2}, "background": {"mean": pytest.approx(0.6), "n": 2}}
    assert by_image["mean"] == pytest.approx((0.7 + 0.7 + 0.6) / 3)
    assert (by_image["n"], by_image["due"]) == (3, 3)
    assert cell(made, "turn", "T1", "overall")["mean"] == pytest.approx(np.sqrt(0.6 * by_set["mean"]))
    assert cell(made, "turn", "T1", "overall_image")["mean"] == pytest.approx(np.sqrt(0.6 * by_image["mean"]))
    assert cell(made, "turn", "T1", "overall")["sessions"] == 5


def test_a_cc_leads_to_the_rows_it_stands_on_and_their_parts():
    records = [scored("a", 0, 1.0, (0.9, 0.5)), scored("b", 0, 1.0, (None, 0.7)), scored("c", 0, 1.0, (0.1, None), bg=False)]
    board = leaderboard.make(records, Circumstances(draws=10))
    source = trace.cell(board, "turn/T1/cc_dataset")["from"]
    lines = [json.loads(line) for line in trace.lines(records, source)]
    assert [line["session"] for line in lines] == ["a", "b"]
    assert [line["parts"] for line in lines] == [{"object": 0.9, "background": 0.5}, {"background": 0.7}]
    assert ".bg_consistency" in trace.jq(source)
    assert [line["session"] for line in map(json.loads, trace.lines(records, trace.cell(board, "turn/T1/cc")["from"]))] == ["a", "b", "c"]


def test_a_part_that_a_verdict_does_not_have_is_not_missing():
    lost = record("d", 0, scores={"if": None, "cc": None}, status={"if": "judge_format_error", "cc": "service_error"})
    records = [scored("a", 0, 1.0, (0.9, 0.5)), scored("b", 0, 1.0, (None, 0.7)), lost]
    made = tables(edival, records)
    found = {name: cell(made, "turn", "T1", name) for name in ("object", "background", "cc_dataset", "overall")}
    assert [(found[name]["n"], found[name]["due"]) for name in ("object", "background", "cc_dataset")] == [(1, 2), (2, 3), (2, 3)]
    assert all(found[name]["missing"] == {"service_error": 1} for name in ("object", "background", "cc_dataset"))
    assert (found["overall"]["due"], found["overall"]["missing"]) == (3, {"judge_format_error": 1})


def test_success_and_marginal_are_two_things():
    records = [record(name, turn, scores={"if": value}) for name, row in {"a": (1, 1, 1), "b": (1, 0, 1), "c": (0, 1, 1)}.items()
               for turn, value in enumerate(row)]  # fmt: skip
    made = tables(edival, records)
    assert [cell(made, "turn", f"T{t}", "if_success")["mean"] for t in (1, 2, 3)] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [cell(made, "turn", f"T{t}", "if_marginal")["mean"] for t in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1])
    assert "cc_dataset" not in {column["name"] for column in made[0]["columns"]}  # CC was not in use


def each(*values):
    status = lambda value: "ok" if value is not None else "service_error"  # noqa: E731
    asked = lambda i: {"verdict": f"v{i}", "requests": [{"kind": "color", "vote": 0, "prompt": "p", "request": f"r{i}", "answer": "yes"}]}  # noqa: E731
    return [{"turn": i, "score": value, "status": status(value), "detail": asked(i)} for i, value in enumerate(values)]


def test_a_single_pass_asks_each_picture_for_all_instructions():
    rows = [(1.0,), (0.0, 1.0), (1.0, 1.0, 1.0)]  # the second picture lost the first edit, the third has all
    records = [record("a", turn, scores={"if": values[-1]}, each=each(*values)) for turn, values in enumerate(rows)]
    records += [record("b", turn, scores={"if": 1.0}, each=each(*([1.0] * turn), 1.0)) for turn in range(2)]
    records.append(record("b", 2, scores={"if": 1.0}, each=each(None, 1.0, 1.0)))
    made = tables(edival, records)
    assert [cell(made, "turn", f"T{t}", "if_success")["mean"] for t in (1, 2, 3)] == [1.0, 0.5, 1.0]
    third = cell(made, "turn", "T3", "if_success")
    assert (third["n"], third["due"], third["missing"]) == (1, 2, {"undecided": 1})  # a missing verdict decides b's
    assert [cell(made, "turn", f"T{t}", "if_marginal")["mean"] for t in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert cell(made, "turn", "T2", "if_asked")["mean"] == 0.75
    assert cell(made, "turn", "T2", "if_success")["from"]["reach"] == "turn"
    board = leaderboard.make(records, Circumstances(draws=10))
    assert (board["benchmark"], board["pass"]) == ("edival_bench", "single")
    line = json.loads(list(trace.lines(records, trace.cell(board, "turn/T3/if_success")["from"]))[0])
    assert [[request["request"] for request in one["requests"]] for one in line["each"]] == [["r0"], ["r1"], ["r2"]]
    assert [one["verdict"] for one in line["each"]] == ["v0", "v1", "v2"]
    assert '"requests":[{"kind":"color","vote":0,"prompt":"p","request":"r1","answer":"yes"}]' in page.page(board, records)


def test_a_single_pass_without_a_picture_is_no_success():
    lost = record("a", 1, scores={"if": None}, status={"if": "no_picture"})
    records = [record("a", 0, each=each(1.0)), lost]
    values = measures.layout(records).values["if_so_far"]
    assert values[0, 0] == 1 and np.isnan(values[0, 1])
