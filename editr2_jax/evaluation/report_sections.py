"""The sections of a report as HTML: alarms, the result, curves, before and after, scores, the inspector's place, config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from editr2_jax.evaluation import inspector, report_charts, tables
from editr2_jax.evaluation import report_html as html
from editr2_jax.evaluation.alarms import Alarm
from editr2_jax.evaluation.recorded_run import Evaluation, Run

MANY_EVALUATIONS = 3  # from here on they make a curve; two are told by the result
OPEN_STRIPS = 6  # sessions shown at once; the rest unfolds
TITLES = {"turn": "By turn", "subset": "By subset", "subset_turn": "By subset and turn", "task_type": "By task type"}


def result(run: Run, comparison: Mapping[str, Any] | None) -> str:
    """The last evaluation against the first, in numbers a newcomer can read."""
    if comparison is None:
        return _single_result(run.evaluations)
    scored = [evaluation.step for evaluation in run.evaluations if evaluation.records]
    cell, level = comparison["reward"], comparison["level"]
    if cell["mean"] is None:
        return html.missing("No held-out session has a reward in both evaluations.")
    interval = "no interval from a single dialogue"
    if cell["low"] is not None:
        ends = f"<b>{tables.signed(cell['low'])}</b> to <b>{tables.signed(cell['high'])}</b>"
        interval = f"paired {level:.0%} interval {ends}: {_verdict(cell)}"
    unpaired = sum(comparison["unpaired"].values())
    left_out = f"; {unpaired} in only one evaluation are left out" if unpaired else ""
    tiles = [(column, _row(comparison["tables"]["subset"], "all").get(column)) for column in comparison["tables"]["subset"]["columns"]]
    shown = "".join(_tile(column, part) for column, part in tiles if column != "reward")
    gain = f'<span class="delta {html.tone(cell)}">{tables.signed(cell["mean"])}</span>'
    dialogues = html.text(cell["sessions"])
    return f"""<div class="hero"><p class="quiet">mean session reward, step {scored[0]} → {scored[-1]}</p>
<p class="figure">{cell["before"]:.3f} <span class="arrow">→</span> {cell["after"]:.3f} {gain}</p><p>{interval}</p>
<p class="quiet">{dialogues} held-out dialogues, each played before and after; bootstrap over dialogues{left_out}.</p></div>
<div class="tiles">{shown}</div>"""


def _single_result(evaluations: Sequence[Evaluation]) -> str:
    told = [evaluation for evaluation in evaluations if evaluation.summary]
    if not told:
        return html.missing("No evaluation yet: the result appears when held-out sessions have been played before and after training.")
    cell = told[0].summary.get("reward") or {}
    if cell.get("mean") is None:
        return html.missing(f"The evaluation at step {told[0].step} has no reward.")
    spread = "" if cell["low"] is None else f" <span class='quiet'>[{cell['low']:.3f}, {cell['high']:.3f}]</span>"
    dialogues = html.text(cell["sessions"])
    return f"""<div class="hero"><p class="quiet">mean session reward at step {told[0].step}</p>
<p class="figure">{cell["mean"]:.3f}{spread}</p>
<p class="quiet">{dialogues} held-out dialogues. A second evaluation of the same dialogues makes the comparison.</p></div>"""


def _verdict(cell: Mapping[str, Any]) -> str:
    if cell["low"] > 0:
        return "all of it above zero"
    return "all of it below zero" if cell["high"] < 0 else "it includes zero, so no difference is shown"


def _tile(column: str, cell: Mapping[str, Any] | None) -> str:
    if not cell or cell["mean"] is None:
        return f'<div class="tile"><p class="quiet">{html.label(column)}</p><p class="value">–</p></div>'
    return f"""<div class="tile"><p class="quiet">{html.label(column)}</p><p class="value">{cell["before"]:.3f} → {cell["after"]:.3f}</p>
<p>{html.delta(cell)}</p></div>"""


def scores(evaluations: Sequence[Evaluation], comparison: Mapping[str, Any] | None) -> str:
    """All tables, and the verdicts by status."""
    told = [evaluation for evaluation in evaluations if evaluation.summary]
    shown = comparison or (told[-1].summary if told else None)
    if not shown or not shown.get("tables"):
        return html.missing("No scores yet.")
    how = "before → after, then the difference with its paired" if comparison else "mean with its"
    note = f"Each cell: {how} {shown['level']:.0%} interval; n counts verdicts. Turns are counted from 0."
    note += " <i>So far</i>: over all turns of the dialogue up to this one."
    parts = "".join(f"<h3>{html.text(TITLES.get(name, name))}</h3>{_table(table)}" for name, table in shown["tables"].items())
    return f'<p class="quiet">{note}</p>{parts}{_statuses(told)}{_judge(told)}'


def _table(table: Mapping[str, Any]) -> str:
    ends = [cell[end] for row in table["rows"] for cell in row["cells"].values() if cell for end in ("low", "high")]
    reach = max((abs(end) for end in ends if end), default=1)
    head = "".join(f"<th>{html.label(column)}</th>" for column in table["columns"])
    rows = "".join(
        f"<tr><th>{html.text(row['name'])}</th>" + "".join(_cell(row["cells"].get(column), reach) for column in table["columns"]) + "</tr>"
        for row in table["rows"]
    )
    head = f"<thead><tr><th>{html.text(table['key'])}</th>{head}</tr></thead>"
    return f'<div class="scroll"><table class="scores">{head}<tbody>{rows}</tbody></table></div>'


def _cell(cell: Mapping[str, Any] | None, reach: float) -> str:
    """One cell; reach: the largest |end of an interval| in the table, the scale of the small bars."""
    if not cell or cell["mean"] is None:
        return '<td class="none">–</td>'
    count = f'<span class="n">n {html.text(cell["n"])}</span>'
    if "before" not in cell:
        spread = "" if cell["low"] is None else f"[{cell['low']:.3f}, {cell['high']:.3f}]"
        return f"<td><b>{cell['mean']:.3f}</b>{count}<br><small>{spread}</small></td>"
    return f"<td><b>{cell['before']:.3f} → {cell['after']:.3f}</b>{count}{_bar(cell, reach)}<small>{html.delta(cell)}</small></td>"


def _bar(cell: Mapping[str, Any], reach: float) -> str:
    """The interval of a difference as a bar around zero."""
    if cell["low"] is None:
        return "<br>"
    left, width = 50 + 50 * cell["low"] / reach, 50 * (cell["high"] - cell["low"]) / reach
    return f'<span class="interval {html.tone(cell)}"><i style="left:{left:.1f}%;width:{max(width, 1):.1f}%"></i></span>'


def _statuses(told: Sequence[Evaluation]) -> str:
    """How many verdicts were missing, and why."""
    rows = [
        f"<tr><th>step {evaluation.step}</th><td>{html.label(name)}</td><td>{html.text(status)}</td><td>{html.text(count)}</td></tr>"
        for evaluation in (told[:1] + told[1:][-1:])
        for name, counts in (evaluation.summary.get("statuses") or {}).items()
        for status, count in counts.items()
    ]
    head = "<thead><tr><th>evaluation</th><th>score</th><th>verdict</th><th>count</th></tr></thead>"
    table = f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return f"<details><summary>Verdicts by status</summary>{table}</details>" if rows else ""


def _judge(told: Sequence[Evaluation]) -> str:
    """What the services behind the rewards were asked in each evaluation, where they count."""
    counted = [evaluation for evaluation in told if evaluation.summary.get("judge")]
    names = sorted({name for evaluation in counted for name in evaluation.summary["judge"]})
    head = "".join(f"<th>{html.text(name.removeprefix('judge/').replace('_', ' '))}</th>" for name in names)
    rows = ""
    for evaluation in counted:
        cells = "".join(f"<td>{evaluation.summary['judge'].get(name, 0):g}</td>" for name in names)
        rows += f"<tr><th>step {evaluation.step}</th>{cells}</tr>"
    table = f'<div class="scroll"><table><thead><tr><th>evaluation</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>What the judge was asked</summary>{table}</details>" if rows else ""


def curves(run: Run) -> str:
    """Rewards at once, and held-out evaluations where there are enough for a curve; everything else unfolds."""
    areas = report_charts.training(run.metrics)
    held_out = report_charts.held_out(run.evaluations)
    groups = ([("held-out evaluations", held_out)] if held_out else []) + areas
    if not groups:
        return html.missing("No training step has been recorded yet.")
    enough = sum(evaluation.summary is not None for evaluation in run.evaluations) >= MANY_EVALUATIONS
    first = {"reward"} | ({"held-out evaluations"} if enough else set())
    first = first if any(area in first for area, _ in groups) else {area for area, _ in groups}
    shown = "".join(_area(area, charts) for area, charts in groups if area in first)
    rest = [(area, charts) for area, charts in groups if area not in first]
    names = ", ".join(area for area, _ in rest)
    folded = "".join(_area(area, charts) for area, charts in rest)
    more = f"<details><summary>More curves: {html.text(names)}</summary>{folded}</details>" if rest else ""
    return f'<p class="quiet">Point at a chart for its values. Faint: each step; strong: a running mean.</p>{shown}{more}'


def _area(area: str, charts: Sequence[Mapping[str, Any]]) -> str:
    figures = "".join(f'<figure class="chart">{html.data(chart)}</figure>' for chart in charts)
    return f'<h3>{html.text(area)}</h3><div class="charts">{figures}</div>'


def strips(evaluations: Sequence[Evaluation]) -> str:
    """The same held-out sessions in the first and the last evaluation."""
    shown = [evaluation for evaluation in evaluations if evaluation.strips]
    if not shown:
        return html.missing("No pictures of held-out sessions yet.")
    sides = [shown[0], shown[-1]] if len(shown) > 1 else shown
    by_id = [{session["id"]: (number, session) for number, session in enumerate(side.strips)} for side in sides]
    common = [name for name in by_id[0] if all(name in side for side in by_id)]
    if not common:
        return html.missing("The first and the last evaluation have no session in common.")
    words = ("before · ", "after · ") if len(sides) > 1 else ("",)
    labels = [f"{word}step {side.step}" for word, side in zip(words, sides, strict=True)]
    strips = [_strip([(side.step, *found[name]) for side, found in zip(sides, by_id, strict=True)], labels) for name in common]
    rest = strips[OPEN_STRIPS:]
    folded = f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
    return f'<p class="quiet">The same held-out dialogues, played without noise.</p>{"".join(strips[:OPEN_STRIPS])}{folded}'


def _strip(sides: Sequence[tuple[int, int, Mapping[str, Any]]], labels: Sequence[str]) -> str:
    """One session: its source, then each turn with the picture of every side. sides: (step, number of the session, session)."""
    turns = ""
    for t, both in enumerate(zip(*(session["turns"] for *_, session in sides), strict=False)):
        names = [inspector.strip_id(step, number, t) for step, number, _ in sides]
        figures = "".join(_outcome(turn, label, name) for turn, label, name in zip(both, labels, names, strict=True))
        asked = f'<p><span class="tag">turn {t}</span> {html.text(both[0].get("instruction"))}</p>'
        turns += f'<div class="turn">{asked}<div class="pair">{figures}</div></div>'
    step, number, session = sides[0]
    source = html.picture(session.get("source"), "source picture", inspector.strip_id(step, number, "source"))
    source = f'<figure class="source">{source}<figcaption>source</figcaption></figure>'
    return f'<article class="strip"><h4>{html.text(session["id"])}</h4><div class="turns">{source}{turns}</div></article>'


def _outcome(turn: Mapping[str, Any], label: str, name: str) -> str:
    chips = "".join(html.chip(name, value) for name, value in (turn.get("scores") or {}).items())
    intent = f"<q>{html.text(turn['intent'])}</q>" if turn.get("intent") else ""
    caption = f'<figcaption>{html.text(label)}<span class="chips">{chips}</span>{intent}</figcaption>'
    return f"<figure>{html.picture(turn.get('picture'), label, name)}{caption}</figure>"


def inspection(run: Run) -> tuple[str, str]:
    """(the place of the session inspector, its index and blocks); the script draws it once it has them, at the end of the page."""
    index, blocks = inspector.read(run)
    if not blocks:
        return html.missing("No rollouts recorded yet; a run keeps a few under sessions/STEP while it trains."), ""
    note = "What training saw, rollout by rollout, and the held-out sessions."
    if len(run.sessions) < run.recorded_steps:
        note += f" {len(run.sessions)} of the {run.recorded_steps} recorded steps are in this page."
    data = html.data(index, "inspector-index") + "".join(html.data(block, f"group-{place}") for place, block in enumerate(blocks))
    return f'<p class="quiet">{html.text(note)}</p><div id="inspect"></div>', data


def alarms(found: Sequence[Alarm]) -> str:
    """What is probably wrong; "" for a healthy run."""
    if not found:
        return ""
    return f'<section id="alarms" aria-label="alarms">{"".join(_alarm(alarm) for alarm in found)}</section>'


def _alarm(alarm: Alarm) -> str:
    link = f' <a href="#{html.text(alarm.view)}">Show them</a>' if alarm.view else ""
    return f"""<article class="alarm" data-alarm="{html.text(alarm.name)}"><h2>{html.text(alarm.title)}</h2>
<p>{html.text(alarm.evidence)}.</p><p class="quiet">{html.text(alarm.advice)}{link}</p></article>"""


def config(run: Run) -> str:
    """What the run was started with."""
    if not run.config and not run.versions:
        return html.missing("No config.json and no versions.json in this workdir.")
    return _listing("config.json", run.config) + _listing("versions.json", run.versions)


def _listing(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    shown = [(name, json.dumps(value, ensure_ascii=False)) for name, value in _flat(values)]
    rows = "".join(f"<tr><th>{html.text(name)}</th><td>{html.text(value)}</td></tr>" for name, value in shown)
    table = f'<div class="scroll"><table class="listing"><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>{html.text(title)}</summary>{table}</details>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of all values."""
    found = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else [(f"{prefix}{name}", value)]
    return found


def _row(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((row["cells"] for row in table["rows"] if row["name"] == name), {})
