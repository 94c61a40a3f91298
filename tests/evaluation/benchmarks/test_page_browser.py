"""The benchmark page in a real browser: a cell opens the verdicts behind it; readable on a phone."""

import pytest

from editr2_jax.evaluation.benchmarks import leaderboard, page
from tests.evaluation import browser
from tests.evaluation.benchmarks.hand_made import dialogue

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
