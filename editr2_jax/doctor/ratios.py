"""Ratio one: what the sampler saw is what the loss sees, turn by turn and step by step. Letters: B rows, T turns, W stochastic steps."""

from __future__ import annotations

import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig

SHARE_OF_CLIP = 0.5  # of the narrower clip width that rounding may take


def image_ratio(subject: Subject) -> Finding:
    """|log r| of every stochastic step, asked again under the weights that drew it."""
    gap = np.abs(np.asarray(subject.played.image_log_prob) - subject.asked[0])  # [B, T, W]
    if not gap.size:
        return finding.skipped("no step is stochastic, so there is no ratio")
    limit, largest = subject.recipe.config.image_tolerance, float(gap.max())
    return finding.judged(
        f"largest |log r| of {gap.size} fresh steps {largest:.1e} (limit {limit:.0e})",
        fail=() if largest <= limit else "the ratio of a fresh rollout is not one",
        warn=_beside_the_clip(subject, subject.updater.objective.image, largest),
        advice="Sampler and loss must share time grid, kernel, guidance, precision and contexts; the table says at which turn and step "
        "they part. From turn 1 on only: the contexts. At one step only: its times.",
        details=finding.table(_by_step(gap, np.asarray(subject.played.step))),
    )


def intent_ratio(subject: Subject) -> Finding:
    """|log r| of every written token, between decoding one by one and the teacher-forced pass."""
    gap, counts = np.abs(np.asarray(subject.played.intent_log_prob) - subject.asked[1]), np.asarray(subject.played.intent_count)
    if not counts.any():
        return finding.skipped("no intent is written, so there is no ratio")
    limit, largest = subject.recipe.config.intent_tolerance, float(gap.max())
    rows = [("turn", "tokens", "largest |log r|")]
    rows += [(str(t), str(counts[:, t].sum()), f"{gap[:, t].max():.1e}") for t in range(counts.shape[1]) if counts[:, t].any()]
    return finding.judged(
        f"largest |log r| of {counts.sum()} fresh tokens {largest:.1e} (limit {limit:.0e})",
        fail=() if largest <= limit else "the ratio of fresh words is not one",
        warn=_beside_the_clip(subject, subject.updater.objective.intent, largest),
        advice="Decoding and the teacher-forced pass must share temperature, question, context and the end of the answer; the table says "
        "at which turn they part.",
        details=finding.table(rows),
    )


def _beside_the_clip(subject: Subject, term: ImageObjectiveConfig | IntentObjectiveConfig, largest: float) -> list[str]:
    """A clip that is hardly wider than the rounding cuts by rounding, where the update learns against the sampler's numbers."""
    if subject.recipe.asks_again:
        return []
    widths = [width for width in (getattr(term.settings, "clip_low", 0), getattr(term.settings, "clip_high", 0)) if width]
    if not widths or largest <= SHARE_OF_CLIP * min(widths):
        return []
    return [f"rounding takes more than {SHARE_OF_CLIP:.0%} of the clip width {min(widths):.0e}, so the clip cuts by rounding"]


def _by_step(gap: np.ndarray, step: np.ndarray) -> list[tuple[str, ...]]:
    """Largest |log r| by turn (down) and step of the grid (across)."""
    steps = sorted(set(step.reshape(-1).tolist()))
    rows = [("turn", *(f"step {s}" for s in steps))]
    for t in range(gap.shape[1]):
        cells = [gap[:, t][step[:, t] == s] for s in steps]
        rows.append((str(t), *(f"{cell.max():.1e}" if cell.size else "-" for cell in cells)))
    return rows
