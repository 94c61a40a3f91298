"""The sampler of training against that of evaluation: without noise they must be one sampler.

Letters: B rows, T turns, L latent tokens, C numbers in a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.policies.context import Context
from editr2_jax.rollouts.player import Player
from editr2_jax.runtime import keys


def samplers(subject: Subject) -> Finding:
    """The same picture from the same noise; and what follows a training picture's last stochastic step, drawn again by the evaluation's."""
    limit = rounding(subject)
    train, evaluate = (first_pictures(subject, player) for player in (subject.player, subject.quiet))
    rows = [("drawn by both", "largest gap"), ("latents of turn 0 from one noise", f"{apart(train[0], evaluate[0]):.1e}")]
    gaps, levels = [apart(train[0], evaluate[0])], float(np.abs(train[1].astype(int) - evaluate[1].astype(int)).mean())
    rows.append(("their pixels, in mean levels of 255", f"{levels:.3f}"))
    if subject.played.step.shape[2]:
        clean = np.asarray(subject.played.clean)
        for t in range(clean.shape[1]):
            gaps.append(apart(subject.walked_by_evaluation.clean[:, t], clean[:, t]))
            rows.append((f"latents of turn {t} from behind the last stochastic step", f"{gaps[-1]:.1e}"))
    different = list(differences(subject))
    return finding.judged(
        f"largest gap of latents {max(gaps):.1e} of their spread (limit {limit:.0e})",
        fail=[*different, *(["the samplers draw different pictures"] if not max(gaps) <= limit else [])],
        advice="Evaluate with the run's own rollout section (time grid, shift, guidance, slots); a run that is evaluated by another "
        "sampler is selected for what it was not trained on.",
        details=finding.table(rows),
    )


def differences(subject: Subject) -> Iterator[str]:
    """Settings of drawing that the two do not share. How many turns are played is each one's own business."""
    ours, theirs = subject.player.config, subject.quiet.config
    pairs = [(ours, theirs, ("reconstruct", "prompt")), (ours.policy, theirs.policy, ("slots",))]
    flow = ours.policy.flow, theirs.policy.flow
    pairs.append((*flow, tuple(field.name for field in dataclasses.fields(flow[0]))))
    for mine, other, names in pairs:
        for name in names:
            if getattr(mine, name) != getattr(other, name):
                yield f"{name} is {getattr(mine, name)} in training and {getattr(other, name)} in evaluation"


def first_pictures(subject: Subject, player: Player) -> tuple[np.ndarray, np.ndarray]:
    """Latents [B, L, C] and pictures of turn 0, drawn without a stochastic step from noise of each row's own."""
    context, rows = opened(subject, player), len(subject.samples)
    size = subject.samples[0].picture.shape[:2]
    noise = jax.random.split(keys.at(subject.recipe.seed, "doctor"), rows)
    picture, drawn = player.draw(subject.weights, context, noise, noise, jnp.zeros((rows, 0), jnp.int32), size=size)
    return np.asarray(drawn.latent), np.asarray(picture)


def opened(subject: Subject, player: Player) -> Context:
    """The context before turn 0 is drawn, through the player's own phases."""
    script = subject.played.script
    context = player.open(subject.weights, np.asarray(script.source), group=subject.group, turns=script.turns)
    return player.instruct(subject.weights, context, np.asarray(script.instruction[:, 0]), np.asarray(script.instruction_count[:, 0]))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, in units of b's spread; NaN where either has one."""
    return float(np.abs(a - b).max() / max(float(b.std()), 1e-12))


def rounding(subject: Subject) -> float:
    """What two programs of the same arithmetic may differ by, after some steps: the root of the precision that products are made in."""
    made_in = [subject.config.model.dtype]
    if jax.default_backend() != "cpu" and jax.config.jax_default_matmul_precision not in ("float32", "highest"):
        made_in.append("bfloat16")  # or better: accelerators round the factors of float32 products
    return float(max(jnp.finfo(dtype).eps for dtype in made_in) ** 0.5)
