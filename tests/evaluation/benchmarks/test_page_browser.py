"""The benchmark page in a real browser: a cell opens the verdicts behind it; readable on a phone."""

import pytest

from editr2_jax.evaluation.benchmarks import comparison, leaderboard, page
from tests.evaluation import browser
from tests.evaluation.benchmarks.hand_made import dialogue, record

pytestmark = [browser.needed, pytest.mark.slow]
SCRIPT = """
seen.open = !document.getElementById("behind").hidden;
seen.title = document.querySelector("#behind h3")?.textContent;
seen.lines = all("#behind .verdict").map((line) => line.querySelector("b").textContent);
await press("Escape", document.body); await rest(60);
seen.closed = document.getElementById("behind").hidden;
await visit("#cell=subset/all/full_if");
seen.whole = all("#behind .verdict").length;
document.querySelector("#behind button").click(); await rest(60);
seen.closedAgain = document.getElementById("behind").hidden;
"""


@pytest.mark.parametrize("width", [1400, 390])
def test_a_cell_opens_the_verdicts_behind_it(tmp_path, width):
    records = [one for i in range(60) for one in dialogue(f"s{i:02}", (1, i % 2, 1), gas=(1, 0, 0), subset="memory")]
    path = tmp_path / "index.html"
    path.write_text(page.page(leaderboard.make(records, leaderboard.Circumstances(draws=20)), records))
    seen = browser.read(path, tmp_path, SCRIPT, fragment="#cell=turn/memory,%20T2/if_so_far", width=width)
    assert seen["error"] is None and seen["overflow"] <= 0
    assert seen["open"] and seen["title"] == "turn/memory, T2/if_so_far: 50.00 from 120 turns"
    assert seen["lines"][:3] == ["s00, T1", "s00, T2", "s01, T1"] and len(seen["lines"]) == 100  # the rest on demand
    assert seen["closed"] and seen["whole"] == 100 and seen["closedAgain"]


SHOWN = """
seen.lines = all("#behind .verdict").map((line) => line.querySelector("b").textContent);
seen.asked = all("#behind .verdict summary").map((line) => line.textContent);
seen.requests = all("#behind .verdict .request code").map((code) => code.textContent);
"""


def test_a_cell_of_turns_whose_background_stays_opens_those_alone(tmp_path):
    records = [record(f"s{i}", 0, bg=i != 1, scores={"if": 1.0, "cc": 0.5}, detail={"cc": {"object": 0.5}}) for i in range(3)]
    path = tmp_path / "index.html"
    path.write_text(page.page(leaderboard.make(records, leaderboard.Circumstances(draws=20)), records))
    seen = browser.read(path, tmp_path, SHOWN, fragment="#cell=turn/T1/cc_dataset")
    assert seen["error"] is None and seen["lines"] == ["s0, T1", "s2, T1"]


def test_a_picture_of_a_single_pass_shows_what_was_asked_about_all_its_instructions(tmp_path):
    asked = [{"verdict": f"v{i}", "requests": [{"kind": "color", "vote": 0, "prompt": "p", "request": f"r{i}"}]} for i in range(2)]
    each = [{"turn": i, "score": 1.0, "status": "ok", "detail": asked[i]} for i in range(2)]
    records = [record("s", t, each=each[: t + 1], detail={"if": asked[t]}) for t in range(2)]
    path = tmp_path / "index.html"
    path.write_text(page.page(leaderboard.make(records, leaderboard.Circumstances(draws=20)), records))
    seen = browser.read(path, tmp_path, SHOWN, fragment="#cell=turn/T2/if_success")
    assert seen["error"] is None and seen["lines"] == ["s, T2"] and seen["asked"] == ["2 requests"]
    assert [text for text in seen["requests"] if text.startswith("r")] == ["r0", "r1"]


BOXES = """
all("details").forEach((one) => { one.open = true; }); await rest(60);
window.scrollTo(500, 0); await rest(60);
seen.moved = window.scrollX;
seen.boxes = all(".scroll").filter((box) => box.scrollWidth > box.clientWidth).length;
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_wide_tables_of_many_runs_scroll_in_their_boxes_and_the_page_does_not(tmp_path, width):
    names, runs = ("a" * 90, "b_" * 45, "c", "d", "e"), []
    for number, name in enumerate(names):
        records = [one for i in range(4) for one in dialogue(f"s{i}", (1, i % 2, number % 2), gas=(1, 0, 0), subset="memory")]
        board = leaderboard.make(records, leaderboard.Circumstances(draws=20, warnings=["w" * 200]))
        runs.append(comparison.Run(name=name, board=board, records=records))
    path = tmp_path / "index.html"
    path.write_text(page.page(comparison.make(runs, draws=20), pages=[f"../{name}/index.html" for name in names]))
    seen = browser.read(path, tmp_path, BOXES, width=width)
    assert seen["error"] is None and seen["overflow"] <= 0 and seen["moved"] == 0 and seen["boxes"] >= 1
