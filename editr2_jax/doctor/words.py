"""Words: what is said fits into its slots, and what is written can be used."""

from __future__ import annotations

import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject
from editr2_jax.rollouts import collect, in_context_cot


def texts(subject: Subject) -> Finding:
    """Instructions and questions of the training sessions, in tokens, against their slots."""
    config, rows = subject.player.config, [("segment", "longest", "slots")]
    slots, asks = config.policy.slots, config.reconstruct and config.turns > 1
    dialogues = [[turn.instruction for turn in session.turns[: config.turns]] for session in subject.sessions]
    count = lambda text: len(subject.model.tokenizer.encode(text)) + 2  # noqa: E731 (begin and end tokens)
    longest = lambda found: str(max(found, default=0))  # noqa: E731
    rows.append(("instruction of turn 0", longest(count(texts[0]) for texts in dialogues), str(slots.instruction)))
    rows.append(("later instructions", longest(count(text) for texts in dialogues for text in texts[1:]), str(slots.later)))
    if asks:
        questions = (in_context_cot.question(config.prompt, texts, t) for texts in dialogues for t in range(1, len(texts)))
        rows.append(("system prompt", str(count(config.prompt.system)), str(slots.system)))
        rows.append(("question", longest(map(count, questions)), str(slots.question)))
    fail = []
    try:
        collect.refuse_long(subject.sessions, config, subject.model.tokenizer)
    except ValueError as error:
        fail.append(str(error).rstrip("."))
    return finding.judged(
        f"{len(dialogues)} sessions; " + ", ".join(f"{name} {used} of {slots}" for name, used, slots in rows[1:]),
        fail=fail,
        advice="Raise the named value of rollout.slots (it costs memory in every cache), or shorten the text.",
        details=finding.table(rows),
    )


def intents(subject: Subject) -> Finding:
    """Whether the model's answers can be parsed, and end before their slots do."""
    counts, rollout = np.asarray(subject.played.intent_count)[:, 1:], subject.rollout
    if not counts.any():
        return finding.skipped("no intent is asked for")
    fell, slots = float(rollout.fallback[:, 1:].mean()), subject.player.config.policy.slots.intent
    last = np.take_along_axis(np.asarray(subject.played.intent)[:, 1:], np.maximum(counts - 1, 0)[:, :, None], axis=2)[:, :, 0]
    cut = float(((counts == slots) & (last != subject.model.tokenizer.eos)).mean())
    warn = ["most answers hold no intent"] if fell > 0.5 else []
    warn += ["most answers do not end"] if cut > 0.5 else []
    return finding.judged(
        f"{fell:.0%} of the answers hold no intent, {cut:.0%} are cut off; {counts.mean():.1f} tokens on average, {slots} slots",
        warn=warn,
        advice="Raise rollout.slots.intent if answers are cut off; else teach the answer's form first (the supervised recipe), or set "
        "rollout.reconstruct=False: a fallback's words are not learned from.",
    )
