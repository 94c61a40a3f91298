"""Findings as lines of text and as JSON."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Sequence
from typing import Any

from editr2_jax.doctor.checks import CHECKS
from editr2_jax.doctor.finding import Finding, Opinion

_NAME, _OPINION, _WIDTH = max(map(len, CHECKS)), max(map(len, Opinion)), 140


def lines(found: Finding) -> list[str]:
    """One line that says it all, its table below."""
    head = f"{found.opinion:<{_OPINION}}  {found.name:<{_NAME}}  "
    told = textwrap.wrap(found.evidence, _WIDTH - len(head), break_long_words=False) or [""]
    return [head + told[0], *(" " * len(head) + line for line in told[1:]), *(f"{'':{_OPINION + 4}}{line}" for line in found.details)]


def summary(findings: Sequence[Finding]) -> list[str]:
    """How many of each verdict, and what to do."""
    counts = collections.Counter(found.opinion for found in findings)
    ill = [found for found in findings if found.advice]
    told = ", ".join(f"{counts[opinion]} {opinion}" for opinion in Opinion if counts[opinion])
    if not ill:
        return [f"verdict: {told}. Nothing is to be done."]
    advice = [
        line
        for found in ill
        for line in textwrap.wrap(f"{found.opinion}  {found.name}: {found.advice}", _WIDTH, subsequent_indent="      ")
    ]
    return [f"verdict: {told}. What to do:", *advice]


def plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """JSON-ready."""
    keys = ("name", "opinion", "evidence", "advice", "details")
    return [{key: list(value) if isinstance(value := getattr(found, key), tuple) else str(value) for key in keys} for found in findings]
