"""The table of claims: every arm against what it is compared with, on the same dialogues and seeds.

    difference = mean over seeds s and dialogues i of  r[arm, s, i] - r[against, s, i]

Its interval comes from a bootstrap that draws seeds and dialogues, both with replacement: a training run is one draw of its seed, so more
dialogues alone do not make a difference certain. Few seeds drawn with replacement spread too little, so an arm counts as better or worse
only where a t interval over the means of the seeds leaves out zero as well. Otherwise nothing was seen, and the interval's farther end says
how much could have been. Sources: multi-way bootstrap, Owen 2007; Student's t.
"""

from __future__ import annotations

import dataclasses
import datetime
import html
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from editr2_jax.claims.questions import Question
from editr2_jax.evaluation import statistics, tables
from editr2_jax.runtime import workdir

COLUMNS = ("if", "cc", "full_success")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run left."""

    records: Sequence[tables.Record]  # its held-out scores
    pictures: int  # sampled in training
    minutes: float = math.nan  # by the clock, compilation and evaluation included; NaN: nobody counted
    cpu_minutes: float = math.nan  # of processor time: what it takes whatever else runs on the machine
    machine: str = ""  # that it ran on
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make(questions: Sequence[Question], seeds: Sequence[int], outcomes: Mapping[tuple[str, int], Outcome]) -> dict[str, Any]:
    """The table as plain JSON values."""
    grids = {key: tables.layout(outcome.records) for key, outcome in outcomes.items()}
    arms, sessions = dict.fromkeys(name for name, _ in outcomes), next(iter(grids.values())).sessions
    for (name, seed), grid in grids.items():
        if grid.sessions != sessions:
            raise ValueError(f"{name}, seed {seed}, was scored on other dialogues than the first run; make all runs anew in one --out.")
    return {
        "seeds": list(seeds),
        "dialogues": len(sessions),
        "arms": {name: _arm(name, seeds, grids, outcomes) for name in arms},
        "machines": sorted({outcome.machine for outcome in outcomes.values()} - {""}),
        "versions": _versions([outcome.versions for outcome in outcomes.values() if outcome.versions]),
        "questions": [
            {
                "name": q.name,
                "asks": q.asks,
                "claimed": q.claimed,
                "against": q.against,
                "rows": [_row(arm, q, seeds, grids) for arm in q.arms],
            }
            for q in questions
        ],
    }


def _arm(name: str, seeds: Sequence[int], grids: Mapping, outcomes: Mapping) -> dict[str, Any]:
    """An arm on its own: mean session reward, scores, and what it cost."""
    runs = [grids[name, seed] for seed in seeds]
    return {
        "reward": float(np.nanmean([grid.session_rewards for grid in runs])),
        "scores": {column: float(np.nanmean([grid.values[column] for grid in runs])) for column in COLUMNS if column in runs[0].values},
        "if_by_turn": [float(v) for v in np.nanmean([grid.values["if"] for grid in runs], axis=(0, 1))] if "if" in runs[0].values else [],
        "pictures": outcomes[name, seeds[0]].pictures,
        **{cost: [getattr(outcomes[name, seed], cost) for seed in seeds] for cost in ("minutes", "cpu_minutes")},
    }


def _versions(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all runs were made with; where they differ, every version."""
    names = sorted({name for versions in found for name in versions})
    return {name: " or ".join(sorted({versions.get(name, "unknown") for versions in found})) for name in names}


def _row(arm: str, question: Question, seeds: Sequence[int], grids: Mapping) -> dict[str, Any]:
    gap = np.stack([grids[arm, seed].session_rewards - grids[question.against, seed].session_rewards for seed in seeds])
    mean, low, high = two_way_interval(gap)
    by_seed = [float(np.nanmean(row)) for row in gap]
    seen = int(np.sign(mean)) if low * high > 0 and abs(mean) > t_reach(by_seed) else 0
    expected = question.expected.get(arm)
    return {"arm": arm, "mean": mean, "low": low, "high": high, "by_seed": by_seed, "seen": seen, "expected": expected}


def two_way_interval(
    gap: Float[np.ndarray, "S N"], *, level: float = statistics.LEVEL, draws: int = statistics.DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) over S seeds and N dialogues, both resampled; NaN leaves sum and count."""
    random, (runs, dialogues) = np.random.default_rng(seed), gap.shape
    known, total = ~np.isnan(gap), np.nan_to_num(gap)
    means = []
    for _ in range(draws):
        at = np.ix_(random.integers(0, runs, runs), random.integers(0, dialogues, dialogues))
        means.append(total[at].sum() / max(known[at].sum(), 1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(total.sum() / max(known.sum(), 1)), float(low), float(high)


def t_reach(by_seed: Sequence[float], *, level: float = statistics.LEVEL) -> float:
    """Half the width of Student's interval over the means of the seeds; one seed says nothing of others."""
    if len(by_seed) < 2:
        return math.inf
    return float(scipy.stats.t.ppf((1 + level) / 2, len(by_seed) - 1) * np.std(by_seed, ddof=1) / math.sqrt(len(by_seed)))


def write(out: Path, made: Mapping[str, Any], *, command: str, name: str = "claims") -> Path:
    """NAME.json, NAME.md and NAME.svg; returns the path of the Markdown."""
    made = {**made, "command": command, "date": f"{datetime.date.today()}", "plot": f"{name}.svg"}
    workdir.write_json(out / f"{name}.json", tables.plain(made))
    workdir.replace_text(out / f"{name}.svg", plot(made))
    workdir.replace_text(out / f"{name}.md", markdown(made))
    return out / f"{name}.md"


def machine() -> str:
    """This one: processors and operating system."""
    told = Path("/proc/cpuinfo")  # of Linux; elsewhere the platform knows more than an architecture
    names = re.findall(r"^model name\s*: (.+)$", told.read_text(), re.MULTILINE) if told.exists() else []
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}, {platform.system()}"


def verdict(row: Mapping[str, Any]) -> str:
    """A row's result in words."""
    if not row["seen"]:
        return f"nothing seen (at most {max(abs(row['low']), abs(row['high'])):.3f})"
    told = "better" if row["seen"] > 0 else "worse"
    if row["expected"] is None:
        return told
    return f"{told}: {'as claimed' if row['expected'] == row['seen'] else 'against the claim'}"


def markdown(made: Mapping[str, Any]) -> str:
    """The table for people."""
    seeds, arms = made["seeds"], made["arms"]
    total, busy = (float(np.nansum([arm[cost] for arm in arms.values()])) for cost in ("minutes", "cpu_minutes"))
    compared = sum(len(question["rows"]) for question in made["questions"])
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        "# Claims on the embedded world",
        "",
        f"`{made['command']}`  ",
        f"{'; '.join([made['date'], *made['machines'], versions])}.  ",
        f"Training seeds: {', '.join(map(str, seeds))}; {made['dialogues']} held-out dialogues. The runs took {total:.0f} minutes by the "
        f"clock, added up, and {busy:.0f} minutes of processor time. Differences of the mean session reward, 95 % bootstrap interval over "
        "seeds and dialogues. An arm is called better or worse where Student's interval over the seeds leaves out zero as well; of "
        f"{compared} comparisons, one in twenty may be called so by chance. Costs are medians over the seeds.",
        "",
        f"![differences]({made['plot']})",
    ]
    for question in made["questions"]:
        lines += ["", f"## {question['asks']}", "", f"Claimed: {question['claimed']}", "", _head(seeds), "|" + " --- |" * 10]
        lines += [_line(question["against"], None, arms, seeds)]
        lines += [_line(row["arm"], row, arms, seeds) for row in question["rows"]]
    return "\n".join(lines) + "\n"


def _head(seeds: Sequence[int]) -> str:
    by_seed = " ".join(map(str, seeds))
    costs = "pictures in training | minutes | cpu-minutes"
    return f"| arm | reward | difference | seeds {by_seed} | IF by turn | CC | {costs} | result |"


def _line(name: str, row: Mapping[str, Any] | None, arms: Mapping[str, Any], seeds: Sequence[int]) -> str:
    arm, signed = arms[name], tables.signed
    told = ["", ""] if row is None else [
        f"{signed(row['mean'])} [{signed(row['low'])}, {signed(row['high'])}]", " ".join(signed(value) for value in row["by_seed"])
    ]  # fmt: skip
    numbers = [
        " ".join(f"{value:.2f}" for value in arm["if_by_turn"]),
        f"{arm['scores']['cc']:.3f}",
        f"{arm['pictures']}",
        *(f"{np.nanmedian(arm[cost]):.1f}" if np.isfinite(arm[cost]).any() else "" for cost in ("minutes", "cpu_minutes")),
    ]
    return "| " + " | ".join([name, f"{arm['reward']:.3f}", *told, *numbers, "" if row is None else verdict(row)]) + " |"


def plot(made: Mapping[str, Any]) -> str:
    """Differences with their intervals, one row per arm, as an SVG that reads on light and dark pages."""
    rows = [(question["against"], row) for question in made["questions"] for row in question["rows"]]
    reach = max([abs(row[end]) for _, row in rows for end in ("low", "high")] + [1e-3]) * 1.05
    left, width, height = 250, 420, 22
    x = lambda value: left + width * (value / reach + 1) / 2  # noqa: E731
    bottom = height * len(rows) + 10
    parts = [f'<line x1="{x(0):.1f}" y1="4" x2="{x(0):.1f}" y2="{bottom}" stroke="#888" stroke-dasharray="3 3"/>']
    for number, (against, row) in enumerate(rows):
        y, colour = 20 + height * number, {1: "#2a8f4f", 0: "#888", -1: "#c0392b"}[row["seen"]]
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{html.escape(row["arm"])} - {html.escape(against)}</text>')
        parts.append(f'<line x1="{x(row["low"]):.1f}" y1="{y}" x2="{x(row["high"]):.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(value):.1f}" cy="{y}" r="2" fill="{colour}" opacity="0.6"/>' for value in row["by_seed"]]
        parts.append(f'<circle cx="{x(row["mean"]):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    ticks = [value for value in (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2) if abs(value) <= reach]
    parts += [f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:+.2f}</text>' for value in ticks]
    style = "font: 12px system-ui, sans-serif; fill: #888"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {bottom + 26}" style="{style}">{"".join(parts)}</svg>\n'
    )
