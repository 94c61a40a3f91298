"""A run as one static page: report/index.html, made from a workdir, finished or not.

Style, script and pictures are inside the page: it opens from a disk and fetches nothing. What the run has not written yet, and what
does not parse, becomes a line on the page and never an error. Everything that comes from data is escaped, and the page's own policy
forbids the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from editr2_jax.evaluation import alarms, recorded_run, tables
from editr2_jax.evaluation import report_html as html
from editr2_jax.evaluation import report_sections as sections
from editr2_jax.evaluation.alarms import Alarm
from editr2_jax.evaluation.recorded_run import Evaluation, Run
from editr2_jax.runtime import workdir

T = TypeVar("T")
STYLES, SCRIPTS = ("report", "inspector"), ("report", "charts", "inspector", "sheet")  # of report_assets; report.js starts the others
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
    found, more = _alarms(run, comparison)
    inspection, sessions = _guarded(lambda: sections.inspection(run), lambda why: (why, ""))
    parts = [
        ("result", "Result", _guarded(lambda: sections.result(run, comparison))),
        ("curves", "Curves", _guarded(lambda: sections.curves(run))),
        ("strips", "Before and after", _guarded(lambda: sections.strips(run.evaluations))),
        ("inspector", "Session inspector", inspection),
        ("tables", "Scores", _guarded(lambda: sections.scores(run.evaluations, comparison))),
        ("config", "Config and versions", _guarded(lambda: sections.config(run))),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in parts)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in parts)
    told = "".join(f"<li>{html.text(notice)}</li>" for notice in [*run.notices, *trouble, *more])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">
<title>{html.text(run.name)} · editr2_jax</title><style>{html.assets("css", *STYLES)}</style></head>
<body><header><div class="bar"><h1>{html.text(run.name)}</h1><button id="theme" type="button" hidden>light / dark</button></div>
<p class="quiet">{_progress(run, found)}</p><nav>{links}</nav></header>
<main>{f'<ul class="notices">{told}</ul>' if told else ""}<p id="script-error" class="failure" role="alert" hidden></p>
{sections.alarms(found)}{body}</main>
<noscript><p class="missing">The curves and the session inspector are drawn by a script inside this page; it is switched off.</p></noscript>
<script>{html.assets("js", *SCRIPTS)}
startReport();</script>{sessions}</body></html>
"""


def _guarded(section: Callable[[], T], instead: Callable[[str], T] = lambda why: why) -> T:
    """A section, or a line in its place where a file parses but does not hold what it should: the rest of the page still tells."""
    try:
        return section()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        told = f"{type(error).__name__}: {error}"
        return instead(html.missing(f"This part can not be shown, a file behind it is not in the expected format ({told})."))


def _comparison(evaluations: Sequence[Evaluation]) -> tuple[dict[str, Any] | None, list[str]]:
    """(last against first evaluation, what went wrong with it)."""
    scored = [evaluation for evaluation in evaluations if evaluation.records]
    if len(scored) < 2:
        return None, []
    try:
        return tables.compare(scored[0].records, scored[-1].records), []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, [f"eval/{scored[0].step} and eval/{scored[-1].step} are not compared: {error}"]


def _alarms(run: Run, comparison: Mapping[str, Any] | None) -> tuple[list[Alarm], list[str]]:
    """(alarms, what kept them from being looked for)."""
    told = [evaluation.summary for evaluation in run.evaluations if evaluation.summary]
    try:
        statuses = told[-1].get("statuses") if told else None
        return alarms.find(run.metrics, run.sessions, comparison, statuses=statuses, advantage_clip=advantage_clip(run.config)), []
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return [], [f"No alarms: a record is not in the expected format ({type(error).__name__}: {error})."]


def advantage_clip(config: Mapping[str, Any]) -> float | None:
    """Where the image term of a run cuts advantages off; None where it does not."""
    image = config.get("objective", {}).get("image", {})
    return image.get(image.get("kind"), {}).get("advantage_clip") or None


def _progress(run: Run, found: Sequence[Alarm]) -> str:
    """What there is, and whether something is wrong with it."""
    steps = f"{len(run.metrics)} training steps recorded" if run.metrics else "no training step recorded yet"
    evaluations = ", ".join(f"{evaluation.step}" for evaluation in run.evaluations)
    evaluated = f"evaluated at step {evaluations}" if evaluations else "not evaluated yet"
    alarmed = f"{len(found)} alarm{'s' if len(found) > 1 else ''}" if found else "no alarm"
    return html.text(" · ".join([steps, evaluated, *([alarmed] if run.metrics else [])]))
