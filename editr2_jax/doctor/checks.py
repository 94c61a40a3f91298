"""All checks in their order, and how they are run. A new check is a function from Subject to Finding and a line here."""

from __future__ import annotations

import dataclasses
import difflib
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from editr2_jax.doctor import (
    batch,
    contexts,
    drift,
    environment,
    finding,
    groups,
    learning,
    masks,
    precision,
    ratios,
    reference,
    rewards,
    samplers,
    words,
)
from editr2_jax.doctor.finding import Finding, Opinion
from editr2_jax.doctor.subject import Subject
from editr2_jax.rewards.suite import TooManyErrors

Check = Callable[[Subject], Finding]
_PACKAGE, _FRAMES = Path(__file__).resolve().parents[1], 4

ON_PAPER: dict[str, Check] = {  # nothing is played
    "environment": environment.environment,
    "batch": batch.batch,
    "texts": words.texts,
    "rewards": rewards.rewards,
}
PLAYED: dict[str, Check] = {  # a small batch is
    "contexts": contexts.contexts_agree,
    "image_ratio": ratios.image_ratio,
    "intent_ratio": ratios.intent_ratio,
    "precision": precision.precision,
    "window": precision.window,
    "samplers": samplers.samplers,
    "drift": drift.drift,
    "intents": words.intents,
    "verdicts": rewards.verdicts,
    "groups": groups.groups,
    "credit": groups.credit,
    "padding": masks.padding,
    "masks": masks.masks,
    "reference": reference.reference,
    "adapters": learning.adapters,
    "learning": learning.learning,
}
CHECKS = ON_PAPER | PLAYED
BEFORE = ("batch", "rewards")  # training does these itself before step 0; ratio one it checks at its first step, long texts at its start
_NEEDS = dict.fromkeys(PLAYED, ("batch", "texts"))  # a check says nothing where one of these has failed
_NEEDS |= {
    "window": (*_NEEDS["window"], "contexts"),
    "samplers": (*_NEEDS["samplers"], "contexts", "precision", "window"),
    "learning": (*_NEEDS["learning"], "image_ratio", "intent_ratio"),
}


class Unfit(RuntimeError):
    """The doctor advises against starting."""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The named checks in their usual order; all of them for no name. Raises ValueError naming the nearest of an unknown one."""
    for name in names:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, n=1)
            raise ValueError(f"there is no check {name!r}{f', did you mean {near[0]!r}' if near else ''}; there are {', '.join(CHECKS)}.")
    return tuple(name for name in CHECKS if not names or name in names)


def run(subject: Subject, names: Sequence[str] = ()) -> Iterator[Finding]:
    """The findings of the named checks (default: all), as they come. A check that cannot be carried out has failed."""
    failed: list[str] = []
    for name in chosen(names):
        lost = [other for other in _NEEDS.get(name, ()) if other in failed]
        found = finding.skipped(f"says nothing before {' and '.join(lost)} hold") if lost else carried_out(subject, CHECKS[name])
        if found.opinion is Opinion.FAIL:
            failed.append(name)
        yield dataclasses.replace(found, name=name)


def carried_out(subject: Subject, check: Check) -> Finding:
    """The check's finding, or a failure that names what it ran into."""
    try:
        return check(subject)
    except TooManyErrors as error:
        return finding.skipped(f"the rewards of the small batch are missing: {error}")
    except Exception as error:  # whatever is wrong with a run, its other checks still tell something
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in Path(frame.filename).parents]
        return finding.judged(
            f"{type(error).__name__}: {error}",
            fail="the check ran into an error",
            advice="Repair what the error names; the lines of the table are where it came from, the innermost last.",
            details=[f"{Path(frame.filename).relative_to(_PACKAGE)}:{frame.lineno} in {frame.name}" for frame in frames[-_FRAMES:]],
        )


def refuse_unfit(findings: Sequence[Finding]) -> None:
    """Raises Unfit where a check has failed."""
    if failed := [found for found in findings if found.opinion is Opinion.FAIL]:
        told = "; ".join(f"{found.name}: {found.evidence}. {found.advice}" for found in failed)
        raise Unfit(f"before step 0 the doctor found: {told} To start all the same, set doctor.before=False.")
