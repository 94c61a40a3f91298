"""The training curves of a report: which numbers share a chart, as plain data that report.js draws.

A chart is {"title", "step": [x], "series": [{"label", "y": [number | null], "low"?: [...], "high"?: [...]}], "note"}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from editr2_jax.evaluation import tables
from editr2_jax.evaluation.recorded_run import Evaluation

MOST_POINTS = 1200  # more than a screen can show; longer runs are averaged
AREAS = ("reward", "image", "intent", "filter", "advantage", "objective", "loss")  # told first, in this order; time comes last
_MEMBER = re.compile(r"(?P<chart>.+?)(?:/|_)(?P<label>turn_\d+|min|mean|median|max)$")  # names that differ by this alone share a chart
_TOGETHER = {  # what one look is to compare: pattern of the names -> chart
    r"time/(.*)_s": "time/seconds of one step",
    r"mfu/(.*)": "mfu/useful share of the peak",
    r"memory/(.*)_gb": "memory/GB on the fullest device",
    r"idle/(.*)_share": "idle/share of a step that devices wait or repeat",
}

Chart = dict[str, Any]


def training(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Chart]]]:
    """(area, its charts) of the lines of metrics.jsonl. What `_TOGETHER` names shares a chart, such as time/*_s."""
    steps = [line["step"] for line in lines]
    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
    members: dict[str, dict[str, str]] = {}  # chart -> label -> name
    for name in names:
        chart, label = _place(name)
        members.setdefault(chart, {})[label] = name
    areas: dict[str, list[Chart]] = {}
    for title, labels in members.items():
        if len(labels) == 1:
            title, labels = next((name, {"": name}) for name in labels.values())
        alone = len(labels) == 1
        series = [
            {"label": label if label or alone else "all", "y": [_number(line.get(name)) for line in lines]}
            for label, name in labels.items()
        ]
        areas.setdefault(title.partition("/")[0], []).append(_thinned({"title": title, "step": steps, "series": series, "note": ""}))
    for charts in areas.values():  # the mean is told first, shares of what went wrong last; others keep their order
        charts.sort(key=lambda chart: (chart["title"] != "reward/mean", chart["title"].endswith("_share")))
    return sorted(areas.items(), key=lambda item: (_rank(item[0]), item[0]))


def held_out(evaluations: Sequence[Evaluation]) -> list[Chart]:
    """Charts over the evaluations: mean session reward with its interval, and every score by turn. [] for fewer than two."""
    told = [evaluation for evaluation in evaluations if evaluation.summary]
    if len(told) < 2:
        return []
    steps = [evaluation.step for evaluation in told]
    cells = [evaluation.summary["reward"] for evaluation in told]
    charts = [{"title": "session reward", "step": steps, "series": [_with_interval("", cells)], "note": ""}]
    last = told[-1].summary["tables"]["turn"]
    for column in last["columns"]:
        series = [_with_interval(row["name"], [_cell(e.summary, row["name"], column) for e in told]) for row in last["rows"]]
        charts.append({"title": tables.LABELS.get(column, column), "step": steps, "series": series, "note": ""})
    return charts


def _place(name: str) -> tuple[str, str]:
    """(chart, label in it) of a metric."""
    for pattern, chart in _TOGETHER.items():
        if found := re.fullmatch(pattern, name):
            return chart, found[1]
    match = _MEMBER.fullmatch(name)
    return (match["chart"], match["label"].replace("_", " ")) if match and "/" in match["chart"] else (name, "")


def _thinned(chart: Chart) -> Chart:
    """The chart with averages over neighbouring steps where there are too many points."""
    stride = -(-len(chart["step"]) // MOST_POINTS)
    if stride == 1 or not chart["step"]:
        return chart
    starts = range(0, len(chart["step"]), stride)
    series = [one | {"y": [_mean(one["y"][start : start + stride]) for start in starts]} for one in chart["series"]]
    step = [chart["step"][start] for start in starts]
    return chart | {"step": step, "series": series, "note": f"each point is the mean of {stride} steps"}


def _with_interval(label: str, cells: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    parts = {"y": "mean", "low": "low", "high": "high"}
    return {"label": label} | {name: [(cell or {}).get(part) for cell in cells] for name, part in parts.items()}


def _cell(summary: Mapping[str, Any], row: str, column: str) -> Mapping[str, Any] | None:
    return next((found["cells"].get(column) for found in summary["tables"]["turn"]["rows"] if found["name"] == row), None)


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and abs(value) < float("inf") else None  # NaN fails the comparison too


def _rank(area: str) -> int:
    if area.startswith("time"):
        return len(AREAS) + 1
    return AREAS.index(area) if area in AREAS else len(AREAS)
