"""The inspector in a real browser: 500 sessions, filtered and sorted by the address, opened, read with the keyboard."""

import itertools
import json
import re

import pytest

from editr2_jax.evaluation import report
from tests.evaluation import browser, fake_workdir

pytestmark = [browser.needed, pytest.mark.slow]

STEPS, GROUPS, MEMBERS = 125, 4, 2
SHOWN = 20  # rows of a page


def _turn(step: int, group: int, member: int, t: int) -> dict:
    """Numbers without chance: every kind of trouble at known places."""
    failed = (step + group + member + t) % 7 == 0
    absent = t == 1 and (step * GROUPS + group) % 50 == 3 and member == 1
    reward = None if absent else ((37 * step + 11 * group + 5 * member + 3 * t) % 101) / 101
    return {
        "picture": "p.png", "intent": f"do {t}" if t else None, "intent_raw": None, "intent_fallback": False,
        "scores": {"if": None if absent else float(not failed)}, "status": {"if": "service_error" if absent else "ok"},
        "reward": reward, "advantage": 0.0, "image_learns": not absent, "text_learns": False, "why_filtered": None, "detail": {},
    }  # fmt: skip


def _rollout(step: int, group: int, member: int) -> list[dict]:
    return [_turn(step, group, member, t) for t in range(3)]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(page of a run of 500 recorded sessions, a folder for the browser)."""
    root = tmp_path_factory.mktemp("runs") / "many"
    said = [{"instruction": f"edit {t}", "formatted_instruction": "", "task_type": "subject_add"} for t in range(3)]
    for step in range(STEPS):
        groups = [
            {
                "session": {"id": f"s{step}-{g}", "subset": ("plain", "memory")[g % 2], "turns": said},
                "source": "p.png",
                "rollouts": [{"turns": _rollout(step, g, m)} for m in range(MEMBERS)],
            }
            for g in range(GROUPS)
        ]
        fake_workdir.picture(root / "sessions" / str(step), "p.png", 8, step)
        (root / "sessions" / str(step) / "rollouts.json").write_text(json.dumps({"step": step, "groups": groups}))
    return report.write(root), tmp_path_factory.mktemp("browser")


def _recorded() -> list[tuple[str, list[dict]]]:
    """(key, turns) of every rollout in the order of the page: latest step first."""
    places = itertools.product(reversed(range(STEPS)), range(GROUPS), range(MEMBERS))
    return [(f"{step}.{g}.{m}", _rollout(step, g, m)) for step, g, m in places]


def _mean(turns: list[dict]) -> float:
    values = [turn["reward"] for turn in turns if turn["reward"] is not None]
    return sum(values) / len(values)


def _first_failure(turns: list[dict]) -> int | None:
    return next((t for t, turn in enumerate(turns) if turn["scores"]["if"] == 0), None)


def test_500_sessions_are_filtered_and_sorted_by_the_address(many):
    page, folder = many
    views = {
        "worst": "rows=rollouts&sort=reward",
        "best": "rows=rollouts&sort=-reward&page=2",
        "missing": "rows=rollouts&filter=missing",
        "early": "rows=rollouts&sort=first-failure",
        "failed_late": "rows=rollouts&filter=failed&first=2",
        "memory": "subset=memory&find=s12-",
    }
    script = """
      const keys = () => all("tr[data-key]").map((row) => row.dataset.key);
      const look = () => ({ keys: keys(), told: document.querySelector(".pager").innerText });
      seen.first = look(); seen.unread = all("script[id^=group-]").length; seen.elements = all("*").length;
      for (const [name, fragment] of Object.entries(VIEWS)) { await visit(fragment); seen[name] = look(); }
      seen.left = all("script[id^=group-]").length;
    """.replace("VIEWS", json.dumps(views))
    seen = browser.read(page, folder, script, fragment="#sort=reward&filter=missing")
    recorded = _recorded()
    missing = [(key, turns) for key, turns in recorded if any(turn["reward"] is None for turn in turns)]
    assert seen["error"] is None and seen["overflow"] <= 0
    sessions = {key.rpartition(".")[0]: [turns for other, turns in recorded if other.rpartition(".")[0] == key.rpartition(".")[0]]
                for key, _ in missing}  # fmt: skip
    by_mean = sorted(sessions, key=lambda name: sum(map(_mean, sessions[name])) / MEMBERS)
    assert [key.rpartition(".")[0] for key in seen["first"]["keys"]] == by_mean and len(by_mean) == 10
    assert seen["unread"] == STEPS * GROUPS - len(by_mean), "only the blocks of the rows that are shown have been read"
    assert seen["elements"] < 3000
    worst = sorted(recorded, key=lambda one: _mean(one[1]))
    assert seen["worst"]["keys"] == [key for key, _ in worst[:SHOWN]] and "1 to 20 of 1000" in seen["worst"]["told"]
    best = sorted(recorded, key=lambda one: -_mean(one[1]))
    assert seen["best"]["keys"] == [key for key, _ in best[SHOWN : 2 * SHOWN]]
    assert seen["missing"]["keys"] == [key for key, _ in missing]
    early = [key for key, turns in recorded if _first_failure(turns) == 0]
    assert seen["early"]["keys"] == early[:SHOWN]
    late = [key for key, turns in recorded if _first_failure(turns) == 2]
    assert seen["failed_late"]["keys"] == late[:SHOWN] and f"of {len(late)}" in seen["failed_late"]["told"]
    assert seen["memory"]["keys"] == ["12.1.0", "12.3.0"]
    assert seen["left"] >= STEPS * GROUPS - 7 * SHOWN


def test_a_session_is_read_with_the_keyboard(tmp_path):
    root = fake_workdir.build(tmp_path / "run")
    script = """
      const dialog = document.querySelector("dialog.sheet"), token = () => all("dialog .token")[0];
      const button = (text, where) => all(`${where} button`).find((one) => one.textContent.startsWith(text));
      const click = async (target) => { target.click(); await rest(); };
      const tint = () => getComputedStyle(token()).backgroundColor, readout = () => document.querySelector("dialog .readout").textContent;
      seen.rows = all("tr[data-key]").length;
      all("a.open")[0].focus(); await press("ArrowDown"); seen.focus = document.activeElement === all("a.open")[1];
      await click(document.activeElement); await until(() => dialog.open);
      seen.open = dialog.open; seen.columns = all("dialog thead th").length; seen.address = location.hash;
      await press("d", dialog);
      seen.stacks = all("dialog .stack").length; seen.blend = getComputedStyle(all("dialog .stack img")[1]).mixBlendMode;
      await press("g", dialog); await press("d", dialog);
      seen.turns = all("dialog .turn-row").length; seen.tokens = all("dialog .token").length; seen.text = dialog.innerText;
      const before = tint(); await click(button("ratio", "dialog")); seen.recoloured = tint() !== before;
      token().focus(); seen.readout = readout(); await press("ArrowRight"); seen.next = readout();
      const key = location.hash; await press("ArrowRight", dialog); seen.moved = location.hash !== key;
      dialog.close(); await until(() => !location.hash.includes("open=")); seen.closed = !location.hash.includes("open=");
      await click(button("missing", ".filters")); seen.filtered = location.hash;
      await visit("where=held-out&sort=gain");
      seen.held = all("tr[data-key]").length; seen.gains = all("td[data-name=reward]").map((one) => one.innerText);
      await visit("where=held-out&open=held-out.0.0");
      seen.pictures = all("dialog img").length; seen.heads = all("dialog thead th").map((one) => one.innerText);
    """
    seen = browser.read(report.write(root), tmp_path, script)
    assert seen["error"] is None and seen["overflow"] <= 0
    assert seen["rows"] == 6 and seen["focus"] and seen["open"] and "open=59.1.0" in seen["address"]
    assert seen["columns"] == 4 and seen["stacks"] == 12 and seen["blend"] == "difference"
    assert seen["turns"] == 3 and seen["tokens"] == 18 and seen["recoloured"]
    for part in (
        "the ball is where it was asked for",
        "advantage",
        "window",
        "KL to reference",
        "picture ratio",
        "Change the count of it to 3",
    ):
        assert part in seen["text"], part
    assert seen["readout"].startswith("“ Change” · log-prob") and "ratio" in seen["readout"] and seen["next"].startswith("“ the”")
    assert seen["moved"] and seen["closed"] and seen["filtered"] == "#filter=missing"
    gains = [float(re.search(r"[+-][\d.]+$", told.replace("\N{MINUS SIGN}", "-"))[0]) for told in seen["gains"]]
    assert seen["held"] == 20 and gains == sorted(gains)
    assert seen["pictures"] == 1 + 2 * 3 and [head.split("\n")[0] for head in seen["heads"]] == ["step 0", "step 60"]


def test_a_phone_sees_the_whole_width_and_older_records_open(tmp_path):
    root = fake_workdir.build(tmp_path / "run")
    newer = ("tokens", "advantage_text", "reward_parts", "changed", "window", "image_ratio", "kl")
    for path in (root / "sessions").glob("*/rollouts.json"):
        told = json.loads(path.read_text())
        for turn in (turn for group in told["groups"] for rollout in group["rollouts"] for turn in rollout["turns"]):
            for name in newer:
                del turn[name]
        path.write_text(json.dumps(told))
    script = """
      const dialog = document.querySelector("dialog.sheet");
      seen.width = window.innerWidth; seen.text = dialog.innerText; seen.wide = dialog.scrollWidth - dialog.clientWidth;
      await press("g", dialog); seen.group = dialog.scrollWidth - dialog.clientWidth; seen.columns = all("dialog thead th").length;
      await visit("rows=rollouts"); seen.rows = all("tr[data-key]").length;
      seen.folded = all("#curves svg").length; document.querySelector("#curves details").open = true; await rest(50);
      seen.charts = all("#curves svg").length;
      setTimeout(() => { throw new Error("planted"); }); await rest();
    """
    seen = browser.read(report.write(root), tmp_path, script, fragment="#view=turns&open=0.0.1", width=390)
    assert "planted" in seen["error"], "a fault of the script is told on the page"
    assert seen["width"] == 390
    assert seen["overflow"] <= 0 and seen["wide"] <= 0 and seen["group"] <= 0
    assert 0 < seen["folded"] < seen["charts"], "curves are drawn when their fold opens"
    assert seen["columns"] == 4 and seen["rows"] == 20 and "advantage" in seen["text"] and "window" not in seen["text"]
