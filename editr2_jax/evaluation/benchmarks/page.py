"""A benchmark as one static page in the report's style: tables whose cells are links to the verdicts behind them, and runs side by side.

Everything is inside the page; it opens from a disk and fetches nothing. A cell's address is `index.html#cell=TABLE/ROW/COLUMN`.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from editr2_jax.evaluation import report_html as html
from editr2_jax.evaluation import tables as score_tables
from editr2_jax.evaluation.benchmarks import rendering, trace
from editr2_jax.evaluation.report import POLICY

STYLES, SCRIPTS = ("report", "benchmark"), ("report", "benchmark")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of runs side by side
_OPEN = 3  # tables shown at once; the others unfold


def page(board: Mapping[str, Any], records: Sequence[Mapping[str, Any]] = (), *, pages: Sequence[str] = ()) -> str:
    """The page of a leaderboard file; or of a comparison, whose numbers lead to `pages`, those of its runs, as they are seen from it."""
    links = [""] if records else list(pages)
    tables = "".join(_section(table, number, links) for number, table in enumerate(board["tables"]))
    facts = "".join(f"<li>{html.text(text)}</li>" for text in rendering.facts(board))
    warnings = "".join(f"<li>{html.text(text)}</li>" for text in board["warnings"])
    told = "Shares in percent with their intervals over dialogues; n counts verdicts, of those that are due where some are missing."
    told += " Every number is a link to the verdicts behind it." if links else ""
    title = html.text(rendering.heading(board))
    behind = '<section id="behind" hidden aria-live="polite"></section>' if records else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">
<title>{title} · editr2_jax</title><style>{html.assets("css", *STYLES)}</style></head>
<body><header><div class="bar"><h1>{title}</h1><button id="theme" type="button" hidden>light / dark</button></div>
<ul class="facts quiet">{facts}</ul></header>
<main>{f'<ul class="notices">{warnings}</ul>' if warnings else ""}<p id="script-error" class="failure" role="alert" hidden></p>
{_runs(board)}{_tiles(board)}<p class="quiet">{told}</p>{tables}{behind}{_circumstances(board)}</main>
{html.data([_compact(record) for record in records], "records") if records else ""}
<script>{html.assets("js", *SCRIPTS)}
startBenchmark();</script></body></html>
"""


def _tiles(board: Mapping[str, Any]) -> str:
    """The rows of the table that says most, in large."""
    if "runs" in board:
        return ""
    named = {table["name"]: table for table in board["tables"]}
    table = named.get("subset") if board["benchmark"] == "mice_bench" else named.get("turn")
    if table is None:
        return ""
    shown = [
        column for column in table["columns"] if column["name"] in ("if", "cc", "ga", "full_if", "if_success", "cc_dataset", "overall")
    ]
    tiles = ""
    for row in table["rows"]:
        numbers = [(column["label"], rendering.value(row["cells"][column["name"]])) for column in shown]
        lines = "".join(f'<p><span class="quiet">{html.text(label)}</span> <b>{html.text(number)}</b></p>' for label, number in numbers)
        tiles += f'<div class="tile"><p class="value">{html.text(row["name"])}</p>{lines}</div>'
    return f'<div class="tiles">{tiles}</div>'


def _runs(board: Mapping[str, Any]) -> str:
    """Which runs are side by side."""
    rows = ""
    for letter, run in zip(_LETTERS, board.get("runs", ()), strict=False):
        cells = (
            letter,
            run["name"],
            run["model"],
            run["date"] or "–",
            run["pass"],
            run["judge"],
            f"{run['sessions']}",
            f"{run['unpaired']}",
        )
        rows += "<tr>" + "".join(f"<td>{html.text(cell)}</td>" for cell in cells) + "</tr>"
    head = "".join(f"<th>{name}</th>" for name in ("", "run", "model", "date", "pass", "judge", "dialogues", "of them not in all"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""


def _section(table: Mapping[str, Any], number: int, links: Sequence[str]) -> str:
    head = "".join(f'<th title="{html.text(column.get("about"))}">{html.text(column["label"])}</th>' for column in table["columns"])
    rows = ""
    for row in table["rows"]:
        names = [column["name"] for column in table["columns"]]
        cells = "".join(_cell(row["cells"].get(name), (table["name"], row["name"], name), links) for name in names)
        rows += f"<tr><th>{html.text(row['name'])}</th>{cells}</tr>"
    about = "; ".join(f"{column['label']}: {column['about']}" for column in table["columns"] if column.get("about"))
    told = " ".join(part for part in (table["note"], f"{about}." if about else "") if part)
    content = f"""<div class="scroll"><table class="scores"><thead><tr><th>{html.text(table["key"])}</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>{f'<p class="quiet">{html.text(told)}</p>' if told else ""}"""
    if number < _OPEN:
        return f'<section id="{html.text(table["name"])}"><h2>{html.text(table["title"])}</h2>{content}</section>'
    return f'<details id="{html.text(table["name"])}"><summary>{html.text(table["title"])}</summary>{content}</details>'


def _cell(cell: Mapping[str, Any] | None, address: Sequence[str], links: Sequence[str]) -> str:
    if cell and "runs" in cell:
        lines = (_run_line(_LETTERS[i], run, links[i] if links else "", address) for i, run in enumerate(cell["runs"]))
        return f"<td>{''.join(lines)}</td>"
    text = html.text(rendering.value(cell))
    if text == "–":
        lost = f'<span class="n">0/{cell["due"]}</span>' if cell and cell.get("due") else ""
        return f'<td class="none">–{lost}</td>'
    if links and "from" in cell:
        source = html.text(json.dumps(cell["from"], ensure_ascii=False))
        text = f'<a href="{_address(address)}" data-from="{source}" data-jq="{html.text(trace.jq(cell["from"]))}">{text}</a>'
    count = rendering.counts(cell)
    missing = ", ".join(f"{name} {number}" for name, number in (cell.get("missing") or {}).items())
    n = f'<span class="n" title="{html.text(missing)}">n {html.text(count)}</span>' if count else ""
    return f"<td><b>{text}</b>{n}<br><small>{html.text(rendering.spread(cell))}</small></td>"


def _run_line(letter: str, run: Mapping[str, Any], page: str, address: Sequence[str]) -> str:
    difference, number = run.get("difference"), html.text(rendering.value(run))
    told = f"<small>{html.text(rendering.spread(run))}</small>"
    if difference and difference["mean"] is not None:
        seen = any(round(100 * difference[end], 1) for end in ("mean", "low", "high") if difference[end] is not None)
        told = f'<small class="{html.tone(difference) if seen else "even"}">{html.text(rendering.change(difference))}</small>'
    if page and number != "–":
        number = f'<a href="{html.text(page)}{_address(address)}">{number}</a>'
    return f'<div class="run"><span class="tag">{letter}</span> <b>{number}</b> {told}</div>'


def _address(address: Sequence[str]) -> str:
    """The fragment of a cell, fit for an attribute."""
    return html.text("#cell=" + urllib.parse.quote("/".join(address), safe="/,()"))


def _circumstances(board: Mapping[str, Any]) -> str:
    """Judge, hashes and seeds, word for word."""
    told = {name: board[name] for name in ("schema", "version", "judge", "training_judge", "hashes", "pictures", "data") if name in board}
    text = json.dumps(told, indent=2, ensure_ascii=False)
    return f"<details><summary>Judge, prompts, hashes</summary><pre class='scroll listing'>{html.text(text)}</pre></details>"


def _compact(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells about a turn."""
    said = {}
    for name, status in record["status"].items():
        detail = record["detail"].get(name) or {}
        parts = {part: detail[part] for part in (*trace.PARTS, "reason") if part in detail}
        said[name] = {
            "score": record["scores"].get(name),
            "status": status,
            "verdict": detail.get("verdict"),
            "parts": parts,
            "requests": _requests(detail),
        }
    words = {name: record.get(name) for name in ("session", "subset", "turn", "task_type", "instruction", "intent", "bg_consistency")}
    each = [
        {"turn": one["turn"], "score": one["score"], "status": one["status"], "requests": _requests(one["detail"])}
        for one in record.get("each", ())[:-1]  # the last is the turn's own
    ]
    return score_tables.plain(words | {"said": said} | ({"each": each} if each else {}))


def _requests(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {part: request[part] for part in ("kind", "vote", "prompt", "request", "answer") if part in request}
        for request in detail.get("requests", ())
    ]
