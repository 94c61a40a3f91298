"""The small pieces of the report's HTML. Everything that comes from data is escaped here."""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from editr2_jax.evaluation import tables


def text(value: Any) -> str:
    """A value as text inside an element or an attribute."""
    return html.escape("" if value is None else str(value))


def label(column: str) -> str:
    """What a column or a score is called, escaped."""
    return text(tables.LABELS.get(column, column))


def missing(why: str) -> str:
    """A line in the place of something that is not there."""
    return f'<p class="missing">{text(why)}</p>'


def data(value: Any, name: str = "") -> str:
    """JSON for the page's script to read; no character of it can end the element."""
    inside = json.dumps(tables.plain(value), ensure_ascii=False, separators=(",", ":"))
    inside = inside.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json"{f" id={chr(34)}{text(name)}{chr(34)}" if name else ""}>{inside}</script>'


def picture(address: str | None, alt: str, name: str = "") -> str:
    """A picture, or a plate that says that there is none."""
    if not address:
        return '<div class="picture absent">no picture</div>'
    known = f' id="{text(name)}"' if name else ""
    return f'<img class="picture"{known} src="{text(address)}" alt="{text(alt)}" loading="lazy" decoding="async">'


def chip(name: str, value: float | None) -> str:
    """A score in a colour."""
    tone = "even" if value is None else "up" if value >= 0.75 else "down" if value <= 0.25 else "half"
    return f'<span class="chip {tone}">{label(name)} {"–" if value is None else f"{value:.2f}"}</span>'


def tone(cell: Mapping[str, Any]) -> str:
    """Colour of a difference: only an interval that excludes zero gets one."""
    if cell["low"] is None or cell["low"] <= 0 <= cell["high"]:
        return "even"
    return "up" if cell["low"] > 0 else "down"


def delta(cell: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    spread = "" if cell["low"] is None else f" [{tables.signed(cell['low'])}, {tables.signed(cell['high'])}]"
    return f'<span class="{tone(cell)}">{tables.signed(cell["mean"])}</span><span class="quiet">{spread}</span>'


def assets(ending: str, *names: str) -> str:
    """Files of report_assets, one after another."""
    folder = importlib.resources.files("editr2_jax.evaluation").joinpath("report_assets")
    return "\n".join(folder.joinpath(f"{name}.{ending}").read_text(encoding="utf-8") for name in names)
