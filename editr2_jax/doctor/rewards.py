"""Rewards: do they tell right from wrong, and do they answer at all?"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.known_pairs import Pair
from editr2_jax.doctor.subject import Subject
from editr2_jax.records import Status, Verdict
from editr2_jax.rewards.suite import ERRORS

ABOUT_THE_REST = ("cc",)  # rewards that ask whether all else stayed; the others ask about the edit
SURE, DOUBTFUL = 0.9, 0.6  # shares of the pairs in which right beats wrong: from the first on all is well, below the second nothing is
BLIND = (Status.UNMEASURABLE, Status.INVALID_ANNOTATION)  # the reward applies, answers, and still has no score
SAME = 1e-6  # scores as near as this are one score


def rewards(subject: Subject) -> Finding:
    """Each reward on known right and wrong outcomes: right must beat wrong."""
    pairs, suite = subject.pairs, subject.recipe.suite
    right = suite.submit([pair.right or pair.wrong for pair in pairs])  # asked side by side, as in training
    wrong = suite.submit([pair.wrong for pair in pairs])
    fail, warn, rows = [], [], [("reward", "right", "wrong", "right beats wrong")]
    for name in suite.names:
        mine = [i for i, pair in enumerate(pairs) if pair.of_edit == (name not in ABOUT_THE_REST)]
        told = [(pairs[i], right.futures[name][i].result(), wrong.futures[name][i].result()) for i in mine]
        broken, doubts, row = _of_one(name, told, limit=subject.config.rewards.max_error_share)
        fail, warn, rows = fail + broken, warn + doubts, [*rows, row]
    return finding.judged(
        f"{len(pairs)} known pairs; right must beat wrong in {SURE:.0%} of those that a reward judges",
        fail=fail,
        warn=warn,
        advice="Show the named reward a right and a wrong picture by hand: look for a swapped sign or argument, a threshold that nothing "
        "passes, a judge that always says the same; training follows whatever it prefers.",
        details=finding.table(rows),
    )


def _of_one(name: str, told: Sequence[tuple[Pair, Verdict, Verdict]], *, limit: float) -> tuple[list[str], list[str], tuple[str, ...]]:
    """What speaks for a failure, what for a warning, and the reward's line."""
    asked = [verdict for pair, right, wrong in told for verdict in ((right, wrong) if pair.right else (wrong,))]
    values = np.array([verdict.value for verdict in asked if verdict.status is Status.OK])
    both = [(r.value, w.value) for pair, r, w in told if pair.right and r.status is Status.OK and w.status is Status.OK]
    alone = [w.value for pair, _, w in told if not pair.right and w.status is Status.OK]
    lost = missing_share(asked)
    fail, warn = [], []
    if lost > limit:
        fail.append(f"{name}: {lost:.0%} of the verdicts failed (limit {limit:.0%}){_first_reason(asked)}")
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        fail.append(f"{name}: scores from {values.min():.3g} to {values.max():.3g} leave [0, 1]")
    share = None
    if both:
        gaps = np.array([r - w for r, w in both])
        share = float(np.mean((gaps > SAME) + 0.5 * (np.abs(gaps) <= SAME)))
        if np.ptp(values) <= SAME:
            fail.append(f"{name} is constant: {values[0]:.3g} for right and wrong alike")
        elif share < 0.5:
            fail.append(f"{name} prefers what is wrong: right beats wrong in {share:.0%}")
        elif share < SURE:
            (fail if share < DOUBTFUL else warn).append(f"{name}: right beats wrong in only {share:.0%}")
    elif alone and np.mean(alone) > 0.5:
        warn.append(f"{name} gives {np.mean(alone):.2f} to pictures in which nothing was done")
    elif not values.size and (blind := _blind(asked)):
        warn.append(f"{name}: judged none of its pairs; {blind} of {len(asked)} verdicts are unmeasurable or wrongly annotated")
    return fail, warn, _line(name, both, alone, share)


def _line(name: str, both: Sequence[tuple[float, float]], alone: Sequence[float], share: float | None) -> tuple[str, ...]:
    if both:
        right, wrong = np.mean(both, axis=0)
        return name, f"{right:.3f}", f"{wrong:.3f}", f"{share:.0%} of {len(both)}"
    if alone:
        return name, "unknown", f"{np.mean(alone):.3f}", f"{len(alone)} without a known right"
    return name, "-", "-", "nothing that it judges"


def verdicts(subject: Subject) -> Finding:
    """How many verdicts on the small batch are missing, and why."""
    limit, failed, blind, asked = subject.config.rewards.max_error_share, [], [], []
    rows = [("reward", "ok", *(status.value for status in Status if status is not Status.OK))]
    for name, table in subject.verdicts.items():
        mine = [verdict for row in table for verdict in row]
        asked += mine
        counts = collections.Counter(verdict.status for verdict in mine)
        rows.append((name, *(str(counts[status]) for status in Status)))
        if errors := sum(counts[status] for status in ERRORS):
            failed.append(f"{name}: {errors} of {len(mine)} verdicts failed")
        if mine and 2 * _blind(mine) >= len(mine):
            blind.append(f"{name}: {_blind(mine)} of {len(mine)} verdicts have no score though nothing failed")
    lost = missing_share(asked)
    return finding.judged(
        f"{lost:.1%} of the verdicts that applied are missing (limit {limit:.1%}){_first_reason(asked)}",
        fail=failed if lost > limit else (),
        warn=(failed if lost <= limit else []) + blind,
        advice="Repair the judge or its connection: each missing verdict masks its turn, and a step that loses more than "
        "rewards.max_error_share stops the run. Where nothing failed, look at the annotations (`data check`) and at the pictures.",
        details=finding.table(rows),
    )


def _blind(asked: Iterable[Verdict]) -> int:
    return sum(verdict.status in BLIND for verdict in asked)


def missing_share(asked: Iterable[Verdict]) -> float:
    """Failed verdicts among those that applied, as the suite counts them."""
    applied = [verdict.status for verdict in asked if verdict.status is not Status.NOT_APPLICABLE]
    return sum(status in ERRORS for status in applied) / max(len(applied), 1)


def _first_reason(asked: Iterable[Verdict]) -> str:
    reason = next((verdict.detail.get("reason", "") for verdict in asked if verdict.status in ERRORS), "")
    return f"; the first says: {reason}" if reason else ""
