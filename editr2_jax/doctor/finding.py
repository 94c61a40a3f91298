"""What a check found: a verdict, the number behind it with its limit, and what to do."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence


class Opinion(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # the run can go on; somebody should look at it
    FAIL = "fail"  # the run would learn from a mistake, or not at all
    SKIPPED = "skipped"  # there is nothing of the kind in this run, or what it needs has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's verdict."""

    opinion: Opinion
    evidence: str  # what was measured, and its limit
    advice: str = ""  # what to do; only where something is to be done
    details: tuple[str, ...] = ()  # lines of a table
    name: str = ""  # of the check; whoever runs it fills this in

    def __post_init__(self):
        if bool(self.advice) != (self.opinion in (Opinion.WARN, Opinion.FAIL)):
            raise ValueError(f"Finding: {self.opinion} with advice {self.advice!r}; advice belongs to what is not well, and only there.")


def ok(evidence: str, *, details: Sequence[str] = ()) -> Finding:
    return Finding(opinion=Opinion.OK, evidence=evidence, details=tuple(details))


def skipped(reason: str) -> Finding:
    return Finding(opinion=Opinion.SKIPPED, evidence=reason)


def judged(
    evidence: str, *, fail: Sequence[str] | str = (), warn: Sequence[str] | str = (), advice: str, details: Sequence[str] = ()
) -> Finding:
    """A failure if anything speaks for one, else a warning if anything speaks for that, else ok; what speaks stands before the evidence."""
    failures, warnings = ([reasons] if isinstance(reasons, str) and reasons else list(reasons) for reasons in (fail, warn))
    reasons = failures + warnings
    if not reasons:
        return ok(evidence, details=details)
    opinion = Opinion.FAIL if failures else Opinion.WARN
    return Finding(opinion=opinion, evidence="; ".join([*reasons, evidence]), advice=advice, details=tuple(details))


def table(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Lines of columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return tuple(lines)
