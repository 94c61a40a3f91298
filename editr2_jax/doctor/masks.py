"""Masks: what does not count must not be felt. Letters: B rows, T turns, W stochastic steps, K intent tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject, flat
from editr2_jax.policies.dialogue import Played
from editr2_jax.training.train_batch import Credit

FELT = 1e-5  # |log r| that padding may cause by rounding


def masks(subject: Subject) -> Finding:
    """No gradient where nothing teaches; and a NaN in a rollout that does not teach stays there."""
    silent = size(subject.gradients(subject.lesson(image=False, text=False))[0])
    alone, poisoned = (subject.gradients(*case[:1], played=case[1], old=case[2])[0] for case in _half(subject))
    apart = size(jax.tree.map(lambda a, b: a - b, poisoned, alone))
    scale = size(alone)
    fail = []
    if silent != 0:
        fail.append(f"a batch in which nothing teaches has a gradient of {silent:.1e}")
    if not apart <= 1e-6 * scale:
        fail.append(f"NaN in rollouts that do not teach changes the gradient by {apart:.1e}")
    return finding.judged(
        f"largest gradient number: {silent:.1e} if nothing teaches, {scale:.1e} if half of the rollouts do, {apart:.1e} apart with NaN "
        "in the other half",
        fail=fail,
        advice="Select by the mask (where), do not multiply, and zero what is stored behind it before it is used: filtered turns and "
        "missing verdicts must not teach, and 0 * NaN is NaN.",
    )


def padding(subject: Subject) -> Finding:
    """Other tokens in slots that nothing fills: the log-probabilities stay."""
    vocab, script = subject.model.config.decoder.vocab, subject.played.script
    spoil = lambda ids, count: other_padding(ids, count, vocab)  # noqa: E731
    spoilt = dataclasses.replace(
        subject.played,
        script=dataclasses.replace(
            script,
            instruction=spoil(script.instruction, script.instruction_count),
            question=tuple((spoil(ids, count), count) for ids, count in script.question),
        ),
        intent=spoil(subject.played.intent, subject.played.intent_count),
    )
    gaps = [np.abs(a - b).max(initial=0.0) for a, b in zip(subject.ask(spoilt), subject.asked_as_loss, strict=True)]
    felt = float(np.max(gaps))
    return finding.judged(
        f"other tokens in empty slots move a log-probability by at most {felt:.1e} (limit {FELT:.0e})",
        fail=() if felt <= FELT else "empty slots are felt",
        advice="Hide padding in every attention mask and keep rotary positions to real tokens: otherwise a rollout depends on how long "
        "its neighbours' texts are.",
    )


def other_padding(ids, count, vocab: int):
    """[..., T] tokens, those beyond `count` replaced by others."""
    empty = jnp.arange(ids.shape[-1]) >= jnp.asarray(count)[..., None]
    return jnp.where(empty, (jnp.asarray(ids) + 7) % vocab, ids)


def size(tree) -> float:
    """Largest absolute number; NaN where there is one."""
    return float(max(np.abs(leaf).max() for leaf in flat(tree).values()))


def _half(subject: Subject) -> list[tuple[Credit, Played, tuple[np.ndarray, np.ndarray]]]:
    """Every other rollout teaches: as it is, and with NaN in all that is stored of the others."""
    lesson, played = subject.lesson(image=True, text=True), subject.played
    teaches = np.arange(lesson.image_mask.shape[0]) % 2 == 0

    def spoil(x):
        x = np.array(x, np.float32)
        x[~teaches] = np.nan
        return x

    mask = np.broadcast_to(teaches[:, None], lesson.image_mask.shape)
    half = dataclasses.replace(lesson, image_mask=mask, text_mask=mask)
    worthless = {name: spoil(getattr(lesson, name)) for name in ("image_advantage", "text_advantage", "reward")}
    broken = {name: spoil(getattr(played, name)) for name in ("x", "x_next", "clean")}
    old = tuple(spoil(part) for part in subject.asked_as_loss)
    return [
        (half, played, subject.asked_as_loss),
        (dataclasses.replace(half, **worthless), dataclasses.replace(played, **broken), old),
    ]
