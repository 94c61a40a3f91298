"""What turns that change nothing do to a picture: the way through the autoencoder, once a turn.

Letters: P sessions, G group, B = P * G rows, T turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.policies.context import pad_tokens
from editr2_jax.records import Episode, Sample, Session, Status
from editr2_jax.runtime import keys

LOOK, LOST = 24.0, 48.0  # mean levels of 255 after the last turn: from here on somebody should look, and nothing can be kept


def drift(subject: Subject) -> Finding:
    """The source pictures through the autoencoder, again and again; and, for information, drawn with an empty instruction."""
    samples, turns = subject.samples[:: subject.group], subject.played.script.turns
    source = np.stack([sample.picture for sample in samples])
    through = [source]
    for _ in range(turns):
        through.append(subject.redraw(through[-1]))
    away = [levels(pictures, source) for pictures in through[1:]]
    kept = _consistency(subject, samples, through[1:])
    idle = [levels(pictures, np.repeat(source, subject.group, axis=0)) for pictures in _drawn_with_nothing_said(subject)]
    rows = [("turn", "autoencoder: levels of 255", "CC", "empty instruction: levels")]
    rows += [(str(t), f"{away[t]:.2f}", "-" if kept[t] is None else f"{kept[t]:.3f}", f"{idle[t]:.2f}") for t in range(turns)]
    last = away[-1]
    reasons = [] if last <= LOOK else [f"{turns} turns through the autoencoder alone cost {last:.1f} levels"]
    return finding.judged(
        f"{last:.2f} levels after {turns} turns (look at {LOOK:.0f}, lost at {LOST:.0f})",
        fail=() if last <= LOST else reasons,
        warn=reasons if last <= LOST else (),
        advice="Check the autoencoder's weights, the scale and shift of its latents, and that pictures enter it in [-1, 1]: what it "
        "loses in every turn no policy can learn to keep.",
        details=finding.table(rows),
    )


def levels(pictures: np.ndarray, source: np.ndarray) -> float:
    """Mean difference in levels of 255."""
    return float(np.abs(pictures.astype(float) - source).mean())


def _consistency(subject: Subject, samples: Sequence[Sample], outcomes: Sequence[np.ndarray]) -> list[float | None]:
    """Mean CC after every turn in which nothing was asked for; None where it cannot be measured, or is not in use."""
    suite, found = subject.recipe.suite, []
    for t in range(len(outcomes)):
        if "cc" not in suite.names:
            return [None] * len(outcomes)
        pictures = [(sample.picture, *(after[i] for after in outcomes[: t + 1])) for i, sample in enumerate(samples)]
        episodes = [Episode(session=idle(sample.session, t + 1), pictures=each) for sample, each in zip(samples, pictures, strict=True)]
        verdicts = [future.result() for future in suite.submit(episodes).futures["cc"]]
        known = [verdict.value for verdict in verdicts if verdict.status is Status.OK]
        found.append(float(np.mean(known)) if known else None)
    return found


def idle(session: Session, turns: int) -> Session:
    """The session as one in which all should stay as it is."""
    return dataclasses.replace(session, turns=(dataclasses.replace(session.turns[0], bg_consistency=True),) * turns)


def _drawn_with_nothing_said(subject: Subject) -> list[np.ndarray]:
    """Pictures [B, H, W, 3] of every turn of dialogues in which every instruction is empty."""
    player, script, tokenizer = subject.quiet, subject.played.script, subject.model.tokenizer
    rows, slots = len(subject.samples), player.config.policy.slots
    noise = jax.random.split(keys.at(subject.recipe.seed, "doctor"), rows)
    context, made = player.open(subject.weights, np.asarray(script.source), group=subject.group, turns=script.turns), []
    for t in range(script.turns):
        nothing = pad_tokens([[tokenizer.bos, tokenizer.eos]] * rows, slots.of_turn(t), what="an empty instruction")
        context = player.instruct(subject.weights, context, *nothing)
        size = subject.samples[0].picture.shape[:2]
        picture, _ = player.draw(subject.weights, context, noise, noise, jnp.zeros((rows, 0), jnp.int32), size=size)
        if t + 1 < script.turns:
            context = player.look(subject.weights, context, picture)
        made.append(np.asarray(picture))
    return made
