"""Contexts: the update must read the dialogue that play had before it, and the pictures that were scored.

Letters: B rows, T turns, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.samplers import rounding
from editr2_jax.doctor.subject import Subject
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.policies import context as contexts
from editr2_jax.policies.context import Context, Sight


def contexts_agree(subject: Subject) -> Finding:
    """Play's own phases over what the rollout says was seen and said, against the replay of the update, cache by cache."""
    context, seen = built_by_play(subject)
    replay, limit = subject.replay, rounding(subject)
    fail = list(_told_apart(subject))
    again = [jax.tree.map(lambda leaf, t=t: leaf[t], replay.drawing) for t in range(len(seen))]
    for t, (ours, theirs) in enumerate(zip(seen, again, strict=True)):
        different = [name for name in vars(ours) if not np.array_equal(getattr(ours, name), getattr(theirs, name))]
        if different:
            fail.append(f"turn {t} sees other slots or positions again than in play ({', '.join(different)})")
    gaps = {name: apart(getattr(context, name), getattr(replay.context, name)) for name in ("full", "text")}
    fail += [f"the {name} cache differs by {gap:.1e} of its spread" for name, gap in gaps.items() if not gap <= limit]
    return finding.judged(
        f"caches differ by {max(gaps.values()):.1e} of their spread (limit {limit:.0e}); pictures and words are those of the rollout",
        fail=fail,
        advice="What the update replays must be what play saw: the pictures that were scored, the words that conditioned each picture, "
        "whole and in order, and nothing of an earlier rollout. Look for a picture, an intent or a cache that is kept over a turn.",
    )


def built_by_play(subject: Subject) -> tuple[Context, list[Sight]]:
    """The context after the last instruction, as the player builds it, and what every turn saw."""
    player, script, seen = subject.player, subject.played.script, []
    slots = player.config.policy.slots
    context = player.open(subject.weights, np.asarray(script.source), group=subject.group, turns=script.turns)
    for t in range(script.turns):
        if t:
            context = player.look(subject.weights, context, np.asarray(subject.rollout.pictures[:, t - 1]))
        words = np.asarray(script.instruction[:, t, : slots.of_turn(t)])
        context = player.instruct(subject.weights, context, words, np.asarray(script.instruction_count[:, t]))
        seen.append(jax.tree.map(np.asarray, contexts.sight(context)))  # the next phase takes the context over
    return context, seen


def apart(ours: KVCache, theirs: KVCache) -> float:
    """Largest difference of what is valid in either cache, in units of the other's spread; infinite where they do not hold the same."""
    if not all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in ("valid", "rope")):
        return float("inf")
    valid = np.asarray(ours.valid)
    if not valid.any():
        return 0.0
    gaps = []
    for name in ("k", "v"):
        a, b = (np.moveaxis(np.asarray(getattr(cache, name), np.float32), 3, 2)[:, valid] for cache in (ours, theirs))  # [N, real, K, d]
        gaps.append(float(np.abs(a - b).max() / max(float(b.std()), 1e-12)))
    return max(gaps)


def _told_apart(subject: Subject) -> Iterator[str]:
    """Where the rollout's arrays and what people read of it are not the same."""
    rollout, script, tokenizer = subject.rollout, subject.played.script, subject.model.tokenizer
    if not np.array_equal(np.asarray(script.pictures), rollout.pictures):
        yield "the pictures that were scored are not those that the contexts saw"
    if not np.array_equal(np.asarray(script.source), np.stack([sample.picture for sample in rollout.samples[:: subject.group]])):
        yield "the source pictures of the contexts are not those of the sessions"
    words, counts = np.asarray(script.instruction), np.asarray(script.instruction_count)
    for t in range(script.turns):
        for row, sample in enumerate(rollout.samples):
            text = rollout.intents[row][t] or sample.session.turns[t].instruction
            expected = [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]
            if words[row, t, : counts[row, t]].tolist() != expected:
                yield f"turn {t} of rollout {row} was conditioned on other words than {text!r}"
                return
