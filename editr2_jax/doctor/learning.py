"""Learning: one tiny step along the gradient makes good rollouts likelier than bad ones, and moves what should move.

Letters: B rows, T turns, W stochastic steps, K intent tokens.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject, flat

GAIN = 1e-4  # of mean log-probability, expected of the tiny step
HEARD = 1e-7  # a gain below this is rounding


def learning(subject: Subject) -> Finding:
    """Half of the rollouts are called good, half bad; a step downhill must part their log-probabilities."""
    fail, warn, rows = [], [], [("area", "good ones", "bad ones", "apart")]
    for area, gradient in _gradients(subject).items():
        if area == "pictures" and not subject.updater.objective.image.replays:
            continue  # its points have no log-probability
        squared = sum(float(np.square(leaf, dtype=np.float64).sum()) for leaf in flat(gradient).values())
        if not np.isfinite(squared) or not squared:
            continue  # what there is to say of it, `adapters` says
        pace = GAIN / squared
        stepped = jax.tree.map(lambda weight, slope, pace=pace: weight - pace * slope, subject.weights.trainable, gradient)
        good, bad = _gains(subject, area, subject.ask(subject.played, weights=subject.at(stepped)))
        rows.append((area, f"{good:+.1e}", f"{bad:+.1e}", f"{good - bad:+.1e}"))
        if good - bad < -HEARD:
            fail.append(f"a step against the loss's gradient makes bad {area} likelier than good ones")
        elif not good - bad > HEARD:
            warn.append(f"a step against the loss's gradient leaves {area} as likely as they were")
    if len(rows) == 1:
        return finding.skipped("nothing that is scored by its log-probability has a gradient")
    return finding.judged(
        "; ".join(f"{area}: good {good}, bad {bad}" for area, good, bad, _ in rows[1:]),
        fail=fail,
        warn=warn,
        advice="Look at the sign of the surrogate and of the advantages, and that an optimizer descends on the loss; words and pictures "
        "have one each.",
        details=finding.table(rows),
    )


def adapters(subject: Subject) -> Finding:
    """Pictures teach the gen experts, words the und experts; every gradient is a finite number."""
    fail, rows = [], [("gradient of", "und", "gen", "other")]
    for area, gradient in _gradients(subject).items():
        norms = {"und": 0.0, "gen": 0.0, "other": 0.0}
        for path, leaf in flat(gradient).items():
            if not np.isfinite(leaf).all():
                fail.append(f"the gradient of {area} is not finite in {path}")
            norms[_expert(path)] += float(np.square(leaf, dtype=np.float64).sum())
        rows.append((area, *(f"{norm**0.5:.1e}" for norm in norms.values())))
        expert = {"pictures": "gen", "words": "und"}[area]
        if norms[expert] == 0:
            fail.append(f"{area} teach the {expert} experts nothing")
    if len(rows) == 1:
        return finding.skipped("no term of the objective has a weight")
    return finding.judged(
        f"{len(flat(subject.weights.trainable))} leaves learn ({subject.config.train})",
        fail=list(dict.fromkeys(fail)),
        advice="Train the experts that the terms need (lora.experts, or parts for full training), or set the weight of the term without "
        "one to 0; for a gradient that is not finite, look at masks and at stored log-probabilities.",
        details=finding.table(rows),
    )


def _gradients(subject: Subject) -> dict[str, Any]:
    """Of the terms that are in use and have something to say."""
    objective, found = subject.updater.objective, {}
    if objective.image.weight and objective.image.passes(subject.played.step.shape[2]):
        found["pictures"] = subject.gradient_of_pictures
    if objective.intent.weight and np.asarray(subject.played.intent_count).any():
        found["words"] = subject.gradient_of_words
    return found


def _gains(subject: Subject, area: str, after: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Mean gain of log-probability of good and of bad rollouts: per step, or per token."""
    which = ("pictures", "words").index(area)
    gain, good = after[which] - subject.asked_as_loss[which], subject.lesson(image=True, text=True).image_advantage[:, 0] > 0
    counts = np.ones(gain.shape) if which == 0 else np.arange(gain.shape[2]) < np.asarray(subject.played.intent_count)[:, :, None]
    return tuple(float((gain * counts)[rows].sum() / max(counts[rows].sum(), 1)) for rows in (good, ~good))


def _expert(path: str) -> str:
    """Which experts a leaf belongs to."""
    return next((expert for expert in ("und", "gen") if expert in path.split(".")), "other")
