"""A run as one static page: report/index.html, made from a workdir, finished or not.

Style, script and pictures are inside the page: it opens from a disk and fetches nothing. What the run has not written yet, and what
does not parse, becomes a line on the page and never an error. Everything that comes from data is escaped, and the page's own policy
forbids the network.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editr2_jax.evaluation import recorded_run, report_charts, tables
from editr2_jax.evaluation.recorded_run import Evaluation, Run
from editr2_jax.runtime import workdir

OPEN_STRIPS = 6  # sessions shown at once; the rest unfolds
TITLES = {"turn": "By turn", "subset": "By subset", "subset_turn": "By subset and turn", "task_type": "By task type"}
POLICY = "default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(directory: str | os.PathLike) -> Path:
    """Write report/index.html of a workdir, replacing an older one as a whole, and result.txt beside it; the page's path.

    Raises ValueError where there is no workdir, or none that can be written.
    """
    root = Path(directory).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{root}: no such workdir; give the --workdir of a run.")
    text = page(recorded_run.read(root))
    path = workdir.writable(root / "report") / "index.html"
    workdir.replace_text(path, text)
    workdir.replace_text(path.with_name("result.txt"), result(root) + "\n")
    return path


def result(directory: str | os.PathLike) -> str:
    """One line about what a run has shown: its last evaluation against its first, or why there is nothing to tell."""
    found = [path for path in recorded_run.step_folders(Path(directory) / "eval") if (path / tables.SCORES).exists()]
    if len(found) < 2:
        return f"{len(found)} evaluation(s) so far; a result needs one before training and one after"
    try:
        return tables.headline(tables.compare(*(tables.read(folder / tables.SCORES) for folder in (found[0], found[-1]))))
    except ValueError as error:
        return f"no result: {error}"


def page(run: Run) -> str:
    """The whole page."""
    comparison, trouble = _comparison(run.evaluations)
    notices = [*run.notices, *trouble]
    sections = [
        ("result", "Result", _guarded(lambda: _result(run, comparison))),
        ("tables", "Scores", _guarded(lambda: _tables(run.evaluations, comparison))),
        ("curves", "Curves", _guarded(lambda: _curves(run))),
        ("strips", "Before and after", _guarded(lambda: _strips(run.evaluations))),
        ("inspector", "Session inspector", _guarded(lambda: _inspector(run))),
        ("config", "Config and versions", _guarded(lambda: _config(run))),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections)
    told = "".join(f"<li>{_text(notice)}</li>" for notice in notices)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">
<title>{_text(run.name)} · editr2_jax</title><style>{_asset("report.css")}</style></head>
<body><header><div class="bar"><h1>{_text(run.name)}</h1><button id="theme" type="button" hidden>light / dark</button></div>
<p class="quiet">{_progress(run)}</p><nav>{links}</nav></header>
<main>{f'<ul class="notices">{told}</ul>' if told else ""}{body}</main>
<noscript><p class="missing">The curves and the session inspector are drawn by a script inside this page; it is switched off.</p></noscript>
<script>{_asset("report.js")}</script></body></html>
"""


def embedded(value: Any) -> str:
    """JSON that may stand inside a <script>: no character of it can end the element."""
    text = json.dumps(tables.plain(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _guarded(section: Callable[[], str]) -> str:
    """A section, or a line in its place where a file parses but does not hold what it should: the rest of the page still tells."""
    try:
        return section()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return _missing(f"This part can not be shown, a file behind it is not in the expected format ({type(error).__name__}: {error}).")


def _comparison(evaluations: Sequence[Evaluation]) -> tuple[dict[str, Any] | None, list[str]]:
    """(last against first evaluation, what went wrong with it)."""
    scored = [evaluation for evaluation in evaluations if evaluation.records]
    if len(scored) < 2:
        return None, []
    try:
        return tables.compare(scored[0].records, scored[-1].records), []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, [f"eval/{scored[0].step} and eval/{scored[-1].step} are not compared: {error}"]


def _progress(run: Run) -> str:
    steps = f"{len(run.metrics)} training steps recorded" if run.metrics else "no training step recorded yet"
    evaluations = ", ".join(f"{evaluation.step}" for evaluation in run.evaluations)
    return _text(steps + (f" · evaluated at step {evaluations}" if evaluations else " · not evaluated yet"))


def _result(run: Run, comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return _single_result(run.evaluations)
    scored = [evaluation.step for evaluation in run.evaluations if evaluation.records]
    cell, level = comparison["reward"], comparison["level"]
    if cell["mean"] is None:
        return _missing("No held-out session has a reward in both evaluations.")
    interval = "no interval from a single dialogue"
    if cell["low"] is not None:
        ends = f"<b>{tables.signed(cell['low'])}</b> to <b>{tables.signed(cell['high'])}</b>"
        interval = f"paired {level:.0%} interval {ends}: {_verdict(cell)}"
    unpaired = sum(comparison["unpaired"].values())
    left_out = f"; {unpaired} in only one evaluation are left out" if unpaired else ""
    tiles = [(column, _row(comparison["tables"]["subset"], "all").get(column)) for column in comparison["tables"]["subset"]["columns"]]
    shown = "".join(_tile(column, part) for column, part in tiles if column != "reward")
    delta = f'<span class="delta {_tone(cell)}">{tables.signed(cell["mean"])}</span>'
    return f"""<div class="hero"><p class="quiet">mean session reward, step {scored[0]} → {scored[-1]}</p>
<p class="figure">{cell["before"]:.3f} <span class="arrow">→</span> {cell["after"]:.3f} {delta}</p><p>{interval}</p>
<p class="quiet">{cell["sessions"]} held-out dialogues, each played before and after; bootstrap over dialogues{left_out}.</p></div>
<div class="tiles">{shown}</div>"""


def _single_result(evaluations: Sequence[Evaluation]) -> str:
    told = [evaluation for evaluation in evaluations if evaluation.summary]
    if not told:
        return _missing("No evaluation yet: the result appears when held-out sessions have been played before and after training.")
    cell = told[0].summary.get("reward") or {}
    if cell.get("mean") is None:
        return _missing(f"The evaluation at step {told[0].step} has no reward.")
    spread = "" if cell["low"] is None else f" <span class='quiet'>[{cell['low']:.3f}, {cell['high']:.3f}]</span>"
    return f"""<div class="hero"><p class="quiet">mean session reward at step {told[0].step}</p>
<p class="figure">{cell["mean"]:.3f}{spread}</p>
<p class="quiet">{cell["sessions"]} held-out dialogues. A second evaluation of the same dialogues makes the comparison.</p></div>"""


def _verdict(cell: Mapping[str, Any]) -> str:
    if cell["low"] > 0:
        return "all of it above zero"
    return "all of it below zero" if cell["high"] < 0 else "it includes zero, so no difference is shown"


def _tile(column: str, cell: Mapping[str, Any] | None) -> str:
    if not cell or cell["mean"] is None:
        return f'<div class="tile"><p class="quiet">{_label(column)}</p><p class="value">–</p></div>'
    return f"""<div class="tile"><p class="quiet">{_label(column)}</p><p class="value">{cell["before"]:.3f} → {cell["after"]:.3f}</p>
<p>{_delta(cell)}</p></div>"""


def _tables(evaluations: Sequence[Evaluation], comparison: Mapping[str, Any] | None) -> str:
    told = [evaluation for evaluation in evaluations if evaluation.summary]
    shown = comparison or (told[-1].summary if told else None)
    if not shown or not shown.get("tables"):
        return _missing("No scores yet.")
    how = "before → after, then the difference with its paired" if comparison else "mean with its"
    note = f"Each cell: {how} {shown['level']:.0%} interval; n counts verdicts. Turns are counted from 0."
    note += " <i>So far</i>: over all turns of the dialogue up to this one."
    parts = "".join(f"<h3>{_text(TITLES.get(name, name))}</h3>{_table(table)}" for name, table in shown["tables"].items())
    return f'<p class="quiet">{note}</p>{parts}{_statuses(told)}'


def _table(table: Mapping[str, Any]) -> str:
    ends = [cell[end] for row in table["rows"] for cell in row["cells"].values() if cell for end in ("low", "high")]
    reach = max((abs(end) for end in ends if end), default=1)
    head = "".join(f"<th>{_label(column)}</th>" for column in table["columns"])
    rows = "".join(
        f"<tr><th>{_text(row['name'])}</th>" + "".join(_cell(row["cells"].get(column), reach) for column in table["columns"]) + "</tr>"
        for row in table["rows"]
    )
    head = f"<thead><tr><th>{_text(table['key'])}</th>{head}</tr></thead>"
    return f'<div class="scroll"><table class="scores">{head}<tbody>{rows}</tbody></table></div>'


def _cell(cell: Mapping[str, Any] | None, reach: float) -> str:
    """One cell; reach: the largest |end of an interval| in the table, the scale of the small bars."""
    if not cell or cell["mean"] is None:
        return '<td class="none">–</td>'
    count = f'<span class="n">n {cell["n"]}</span>'
    if "before" not in cell:
        spread = "" if cell["low"] is None else f"[{cell['low']:.3f}, {cell['high']:.3f}]"
        return f"<td><b>{cell['mean']:.3f}</b>{count}<br><small>{spread}</small></td>"
    return f"<td><b>{cell['before']:.3f} → {cell['after']:.3f}</b>{count}{_bar(cell, reach)}<small>{_delta(cell)}</small></td>"


def _bar(cell: Mapping[str, Any], reach: float) -> str:
    """The interval of a difference as a bar around zero."""
    if cell["low"] is None:
        return "<br>"
    left, width = 50 + 50 * cell["low"] / reach, 50 * (cell["high"] - cell["low"]) / reach
    return f'<span class="interval {_tone(cell)}"><i style="left:{left:.1f}%;width:{max(width, 1):.1f}%"></i></span>'


def _delta(cell: Mapping[str, Any]) -> str:
    spread = "" if cell["low"] is None else f" [{tables.signed(cell['low'])}, {tables.signed(cell['high'])}]"
    return f'<span class="{_tone(cell)}">{tables.signed(cell["mean"])}</span><span class="quiet">{spread}</span>'


def _tone(cell: Mapping[str, Any]) -> str:
    """Colour of a difference: only an interval that excludes zero gets one."""
    if cell["low"] is None or cell["low"] <= 0 <= cell["high"]:
        return "even"
    return "up" if cell["low"] > 0 else "down"


def _statuses(told: Sequence[Evaluation]) -> str:
    """How many verdicts were missing, and why."""
    rows = [
        f"<tr><th>step {evaluation.step}</th><td>{_label(name)}</td><td>{_text(status)}</td><td>{_text(count)}</td></tr>"
        for evaluation in (told[:1] + told[1:][-1:])
        for name, counts in (evaluation.summary.get("statuses") or {}).items()
        for status, count in counts.items()
    ]
    head = "<thead><tr><th>evaluation</th><th>score</th><th>verdict</th><th>count</th></tr></thead>"
    return f"<details><summary>Verdicts by status</summary><table>{head}<tbody>{''.join(rows)}</tbody></table></details>" if rows else ""


def _curves(run: Run) -> str:
    areas = report_charts.training(run.metrics)
    held_out = report_charts.held_out(run.evaluations)
    groups = ([("held-out evaluations", held_out)] if held_out else []) + areas
    if not groups:
        return _missing("No training step has been recorded yet.")
    blocks = "".join(
        f'<h3>{_text(area)}</h3><div class="charts">{"".join(_chart(chart) for chart in charts)}</div>' for area, charts in groups
    )
    return f'<p class="quiet">Point at a chart for its values. Faint: each step; strong: a running mean.</p>{blocks}'


def _chart(chart: Mapping[str, Any]) -> str:
    return f'<figure class="chart"><script type="application/json">{embedded(chart)}</script></figure>'


def _strips(evaluations: Sequence[Evaluation]) -> str:
    shown = [evaluation for evaluation in evaluations if evaluation.strips]
    if not shown:
        return _missing("No pictures of held-out sessions yet.")
    sides = [shown[0], shown[-1]] if len(shown) > 1 else shown
    by_id = [{session["id"]: session for session in side.strips} for side in sides]
    common = [name for name in by_id[0] if all(name in side for side in by_id)]
    if not common:
        return _missing("The first and the last evaluation have no session in common.")
    words = ("before · ", "after · ") if len(sides) > 1 else ("",)
    labels = [f"{word}step {side.step}" for word, side in zip(words, sides, strict=True)]
    strips = [_strip([side[name] for side in by_id], labels) for name in common]
    rest = strips[OPEN_STRIPS:]
    folded = f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
    return f'<p class="quiet">The same held-out dialogues, played without noise.</p>{"".join(strips[:OPEN_STRIPS])}{folded}'


def _strip(sides: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """One session: its source, then each turn with the picture of every side."""
    turns = ""
    for number, both in enumerate(zip(*(side["turns"] for side in sides), strict=False)):
        figures = "".join(_outcome(turn, label) for turn, label in zip(both, labels, strict=True))
        asked = f'<p><span class="tag">turn {number}</span> {_text(both[0].get("instruction"))}</p>'
        turns += f'<div class="turn">{asked}<div class="pair">{figures}</div></div>'
    source = f'<figure class="source">{_picture(sides[0].get("source"), "source picture")}<figcaption>source</figcaption></figure>'
    return f'<article class="strip"><h4>{_text(sides[0]["id"])}</h4><div class="turns">{source}{turns}</div></article>'


def _outcome(turn: Mapping[str, Any], label: str) -> str:
    chips = "".join(_chip(name, value) for name, value in (turn.get("scores") or {}).items())
    intent = f"<q>{_text(turn['intent'])}</q>" if turn.get("intent") else ""
    caption = f'<figcaption>{_text(label)}<span class="chips">{chips}</span>{intent}</figcaption>'
    return f"<figure>{_picture(turn.get('picture'), label)}{caption}</figure>"


def _chip(name: str, value: float | None) -> str:
    tone = "even" if value is None else "up" if value >= 0.75 else "down" if value <= 0.25 else "half"
    return f'<span class="chip {tone}">{_label(name)} {"–" if value is None else f"{value:.2f}"}</span>'


def _picture(address: str | None, alt: str) -> str:
    if not address:
        return '<div class="picture absent">no picture</div>'
    return f'<img class="picture" src="{_text(address)}" alt="{_text(alt)}" loading="lazy">'


def _inspector(run: Run) -> str:
    if not run.sessions:
        return _missing("No rollouts recorded yet; a run keeps a few under sessions/STEP while it trains.")
    note = "What training saw: noisy rollouts, their scores, and what each turn taught."
    if len(run.sessions) < run.recorded_steps:
        note += f" {len(run.sessions)} of the {run.recorded_steps} recorded steps are in this page."
    data = f'<script type="application/json">{embedded({"labels": tables.LABELS, "steps": run.sessions})}</script>'
    return f'<p class="quiet">{_text(note)}</p><div id="inspect">{data}</div>'


def _config(run: Run) -> str:
    if not run.config and not run.versions:
        return _missing("No config.json and no versions.json in this workdir.")
    return _listing("config.json", run.config) + _listing("versions.json", run.versions)


def _listing(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    shown = [(name, json.dumps(value, ensure_ascii=False)) for name, value in _flat(values)]
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in shown)
    table = f'<div class="scroll"><table class="listing"><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>{_text(title)}</summary>{table}</details>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of all values."""
    found = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else [(f"{prefix}{name}", value)]
    return found


def _row(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((row["cells"] for row in table["rows"] if row["name"] == name), {})


def _missing(text: str) -> str:
    return f'<p class="missing">{_text(text)}</p>'


def _label(column: str) -> str:
    """What a column or a score is called, escaped."""
    return _text(tables.LABELS.get(column, column))


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))


def _asset(name: str) -> str:
    return importlib.resources.files("editr2_jax.evaluation").joinpath("report_assets", name).read_text(encoding="utf-8")
