"""Recorded cases of the published code against ours: every tensor, by name, within the tolerance recorded with it.

A folder of cases holds `cases.json` (what was run with which arguments; for every tensor its role, shape and tolerance),
`cases.safetensors`, and `ref_overrides.safetensors` where the cases need a reference model. Ours comes from the functions that training
and sampling use; `verify_cases` and `verify_learning` say which. Sizes, numbers of steps and of pictures are those of the folder.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from editr2_jax.porting import verify_cases, verify_learning
from editr2_jax.porting.verify_subject import Recorded, Subject

CASES: dict[str, Callable[[Subject, str], Mapping[str, Any]]] = {**verify_cases.CASES, **verify_learning.CASES}
_WORKERS = 2
_FEW = 0.002  # share of a picture's numbers that may be one level off: values next to an integer before truncation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One recorded tensor against ours."""

    case: str
    tensor: str
    absolute: float  # largest |ours - recorded|; inf where ours is missing, misshapen or not a number
    relative: float  # the same over the largest |recorded|
    tolerance: float  # of `absolute`
    ok: bool
    note: str = ""

    @property
    def strain(self) -> float:
        """Error over tolerance; orders the tensors of a case from worst to best."""
        if self.absolute == 0:
            return 0.0
        return self.absolute / self.tolerance if self.tolerance else math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One case: its tensors, or why it was not run."""

    case: str
    title: str
    rows: tuple[Row, ...]
    not_run: str = ""

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row | None:
        """The tensor nearest to its tolerance, or farthest beyond it."""
        return max(self.rows, key=lambda row: (not row.ok, row.strain), default=None)


def verify(checkpoint: str | Path, cases: str | Path, *, only: Sequence[str] = ()) -> Iterator[Verdict]:
    """Verdicts on the recorded cases of a folder, in its order, one as soon as it is there. float32, the highest matmul precision.

    Raises ValueError or FileNotFoundError for folders that cannot be read and for a name in `only` that the folder does not have.
    """
    recorded = Recorded(cases)
    if unknown := [name for name in only if name not in recorded.cases]:
        near = difflib.get_close_matches(unknown[0], recorded.cases, n=1)
        hint = f" (the nearest is {near[0]})" if near else ""
        raise ValueError(f"{recorded.folder}: there is no case {unknown[0]!r}{hint}; it has {', '.join(recorded.cases)}.")
    subject = Subject(checkpoint, recorded)
    chosen = [case for case in recorded.cases if not only or case in only]
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:  # one case compiles while another one runs
        yield from pool.map(functools.partial(_verdict, subject), chosen)


def _verdict(subject: Subject, case: str) -> Verdict:
    with jax.default_matmul_precision("highest"):  # of this thread
        return _judged(subject, case)


def _judged(subject: Subject, case: str) -> Verdict:
    recorded, title = subject.recorded, subject.recorded.cases[case].get("title", "")
    run = CASES.get(case)
    if run is None:
        return Verdict(case=case, title=title, rows=(), not_run="no such case is known here")
    notes = recorded.outputs(case)
    try:
        ours = run(subject, case)
    except Exception as error:  # one broken case must not hide the others; it fails by name
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Verdict(case=case, title=title, rows=tuple(_missing(case, name, why) for name in notes))
    rows = [
        compare(case, name, ours[name], recorded[name], note) if name in ours else _missing(case, name, "not computed")
        for name, note in notes.items()
    ]
    return Verdict(case=case, title=title, rows=tuple(rows))


def compare(case: str, name: str, ours: Any, theirs: np.ndarray, note: Mapping[str, Any]) -> Row:
    """One tensor: integers exactly, pictures of uint8 to one level in a few places, floats to the recorded tolerance."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return _missing(case, name, f"shape {list(ours.shape)}, recorded {list(theirs.shape)}")
    gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    gap = np.where(np.isnan(gap), np.inf, gap)
    absolute = float(gap.max(initial=0.0))
    scale = float(np.abs(theirs.astype(np.float64)).max(initial=0.0))
    rule, said = str(note.get("suggested_rule", "")), ""
    tolerance = float(note.get("suggested_atol", 0.0))
    ok = absolute <= tolerance
    if "1 level" in rule:
        off, few = int((gap > 0).sum()), max(3, math.ceil(_FEW * gap.size))
        tolerance, ok = 1.0, absolute <= 1 and off <= few
        said = f"{off} of {gap.size} numbers are one level off, {few} may be" if off else ""
    return Row(
        case=case, tensor=name, absolute=absolute, relative=absolute / scale if scale else absolute, tolerance=tolerance, ok=ok, note=said
    )


def _missing(case: str, name: str, why: str) -> Row:
    return Row(case=case, tensor=name, absolute=math.inf, relative=math.inf, tolerance=0.0, ok=False, note=why)


# What a person and a program read ------------------------------------------------------------------------------------------------

_COLUMNS = f"{'case':<12} {'tensors':>7} {'abs error':>10} {'rel error':>10} {'tolerance':>10}  {'ok':<4} nearest to its tolerance"


def header() -> str:
    """The head of the table."""
    return _COLUMNS


def line(verdict: Verdict) -> str:
    """A case in one line: the largest errors over its tensors; tolerance and name are of the tensor nearest to its tolerance."""
    if verdict.not_run:
        return f"{verdict.case:<12} {'':>7} {'':>10} {'':>10} {'':>10}  {'-':<4} not run: {verdict.not_run}"
    worst, (absolute, relative) = verdict.worst, _largest(verdict)
    if worst is None:
        return f"{verdict.case:<12} {0:>7} {'':>10} {'':>10} {'':>10}  {'-':<4} nothing is recorded"
    where = f"{worst.tensor} ({worst.absolute:.1e})" + (f": {worst.note}" if worst.note else "")
    numbers = f"{len(verdict.rows):>7} {absolute:>10.1e} {relative:>10.1e} {worst.tolerance:>10.1e}"
    return f"{verdict.case:<12} {numbers}  {'ok' if verdict.ok else 'FAIL':<4} {where}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """The last line."""
    ran = [verdict for verdict in verdicts if not verdict.not_run]
    failed = [verdict.case for verdict in ran if not verdict.ok]
    tensors = sum(len(verdict.rows) for verdict in ran)
    skipped = len(verdicts) - len(ran)
    told = f"{len(ran) - len(failed)} of {len(ran)} cases hold ({tensors} tensors)"
    return told + (f"; failed: {', '.join(failed)}" if failed else "") + (f"; not run: {skipped}" if skipped else "")


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything as JSON values; an error that is no number is null."""
    cases = []
    for verdict in verdicts:
        worst, (absolute, relative) = verdict.worst, _largest(verdict)
        cases.append(
            {
                "case": verdict.case,
                "title": verdict.title,
                "ok": verdict.ok and not verdict.not_run,
                "not_run": verdict.not_run,
                "absolute": _number(absolute),
                "relative": _number(relative),
                "tolerance": None if worst is None else worst.tolerance,
                "worst": None if worst is None else worst.tensor,
                "tensors": [_finite(dataclasses.asdict(row)) for row in verdict.rows],
            }
        )
    return {"ok": holds(verdicts), "cases": cases}


def holds(verdicts: Sequence[Verdict]) -> bool:
    """Whether every case that ran holds, and at least one ran."""
    ran = [verdict for verdict in verdicts if not verdict.not_run]
    return bool(ran) and all(verdict.ok for verdict in ran)


def _largest(verdict: Verdict) -> tuple[float, float]:
    return tuple(max((getattr(row, name) for row in verdict.rows), default=0.0) for name in ("absolute", "relative"))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
