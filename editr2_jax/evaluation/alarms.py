"""What to look at first when a run goes wrong: alarms from its numbers and records, each with its evidence and what to do.

A healthy run raises none. Trends compare the means of the first and the last quarter of the steps, three steps at least; where there are
fewer, or a number was not recorded, an alarm that needs it stays silent. Nothing here reads files.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editr2_jax.evaluation import tables
from editr2_jax.runtime import idle

COPY = 0.015  # mean |difference| to the input, of 1: drawing a picture of the shipped base's size again, unchanged, costs 0.011 to 0.014
COPY_SHARE, COPY_RISE, ALL_COPIES = 0.5, 0.2, 0.8  # of the turns; an untrained base copies where it can not do better
SMALLEST_TREND = 0.01  # of a mean reward or score in [0, 1]: less is no trend, however sure
NOTHING_LEFT = 0.9  # a mean reward from which equal rewards mean success
EQUAL_SHARE = 0.8  # of the groups' turns with one and the same reward
CLIPPED_SHARE = 0.5
SAME_INTENT_SHARE = 0.75
SHORTER = 0.4  # of the length an intent had
CERTAIN = 1e-3  # mean -log_prob of a token, in nats, below which nothing is sampled any more
FALLBACK_SHARE, FALLBACK_RISE = 0.5, 0.1
MISSING_SHARE, ERROR_SHARE = 0.1, 0.02
QUARTER = 3  # steps of a trend's ends, at least
ERRORS = ("service_error", "judge_format_error", "absent")

Line = Mapping[str, Any]  # of metrics.jsonl
Step = Mapping[str, Any]  # a rollouts.json, see recorded_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that is probably wrong."""

    name: str  # which check, such as collapse
    title: str
    evidence: str
    advice: str
    view: str = ""  # the inspector's view that shows it, as a URL fragment; "" for none


def find(
    lines: Sequence[Line],
    steps: Sequence[Step],
    comparison: Mapping[str, Any] | None,
    *,
    statuses: Mapping[str, Mapping[str, int]] | None = None,
    advantage_clip: float | None = None,
) -> list[Alarm]:
    """All alarms of a run, worst first.

    steps: recorded sessions, oldest first. comparison: last against first evaluation (`tables.compare`). statuses: verdicts of the last
    evaluation by score and kind. advantage_clip: where the image term cuts advantages off.
    """
    checks = (
        collapse(lines, steps),
        copies(steps),
        held_out_down(lines, comparison),
        missing_verdicts(lines, statuses or {}),
        fallback(lines),
        saturation(lines, advantage_clip=advantage_clip),
        idle_devices(lines),
    )
    return [alarm for found in checks for alarm in found]


def collapse(lines: Sequence[Line], steps: Sequence[Step]) -> Iterator[Alarm]:
    """The reward, the spread inside groups, or the variety of the intents is gone."""
    reward, equal, length = (_ends(lines, name) for name in ("reward/mean", "advantage/zero_variance_share", "intent/tokens"))
    if reward and (reward[1] < SMALLEST_TREND or reward[1] < reward[0] / 2):
        yield Alarm(
            name="collapse",
            title="The reward collapsed",
            evidence=f"mean training reward {_trend(reward)}",
            advice="Go back to a checkpoint from before the fall; lower the learning rate, or raise objective.image.kl_weight.",
            view="sort=reward",
        )
    if equal and equal[1] >= EQUAL_SHARE and not (reward and reward[1] >= NOTHING_LEFT):
        yield Alarm(
            name="collapse",
            title="Rollouts of a session no longer differ in reward",
            evidence=f"groups without spread {_trend(equal, percent=True)}, at a mean reward that leaves room",
            advice="Equal rewards teach nothing: raise rollout.kernel.noise_level or rollout.temperature, or give feasible sessions.",
            view="rows=sessions&sort=reward",
        )
    yield from _same_intent(steps)
    if length and length[1] < SHORTER * length[0]:
        yield Alarm(
            name="collapse",
            title="Intents have become short",
            evidence=f"tokens of an intent {_trend(length)}",
            advice="Read the latest intents; if they say less than the instruction, go back and lower objective.intent.weight.",
            view="rows=rollouts",
        )
    surprise = _surprise(steps)
    if surprise and surprise[1] < CERTAIN and surprise[1] < surprise[0] / 10:
        yield Alarm(
            name="collapse",
            title="Intents are no longer sampled",
            evidence=f"mean negative log-probability of a token {_trend(surprise, when='first and last recorded step')}",
            advice="Rollouts of a session all write the same words: raise rollout.temperature, or go back to an earlier checkpoint.",
            view="rows=sessions",
        )


def copies(steps: Sequence[Step]) -> Iterator[Alarm]:
    """Outputs are the input again, though every instruction asks for an edit: nearly all of them, or many more than at first.

    Ends are two recorded steps each, since a step records few sessions; a trend needs four.
    """
    recorded = [[turn["changed"] < COPY for _, turn in _turns(step) if turn.get("changed") is not None] for step in steps]
    recorded = [copied for copied in recorded if copied]
    if not recorded:
        return
    latest = _mean(sum(recorded[-2:], []))
    first = _mean(sum(recorded[:2], [])) if len(recorded) >= 4 else latest
    if latest >= ALL_COPIES or (latest >= COPY_SHARE and latest - first >= COPY_RISE):
        yield Alarm(
            name="copy-of-input",
            title="Pictures are copies of their input",
            evidence=f"in {latest:.0%} of the turns recorded last (at first {first:.0%}) the mean pixel differs by less than {COPY:.1%}",
            advice="A reward for what stays the same may outweigh the one for the edit: raise the weight of IF, or lower that of CC.",
            view="rows=rollouts&filter=copy",
        )


def saturation(lines: Sequence[Line], *, advantage_clip: float | None = None) -> Iterator[Alarm]:
    """Updates are cut off, or there is nothing left to learn."""
    for area in ("image", "intent"):
        sides = [_last(lines, f"{area}/clip_fraction_{side}") for side in ("low", "high")]
        if None not in sides and sum(sides) >= CLIPPED_SHARE:
            yield Alarm(
                name="saturation",
                title=f"Most ratios of the {area} term are clipped",
                evidence=f"clip fraction {sum(sides):.0%} ({sides[0]:.0%} below, {sides[1]:.0%} above) in the last quarter",
                advice=f"Clipped parts teach nothing: lower optimizer.learning_rate or step.updates, or widen objective.{area}.clip_*.",
            )
    equal, reward = _last(lines, "advantage/zero_variance_share"), _last(lines, "reward/mean")
    if equal is not None and reward is not None and equal >= EQUAL_SHARE and reward >= NOTHING_LEFT:
        yield Alarm(
            name="saturation",
            title="The sessions have become too easy",
            evidence=f"{equal:.0%} of the groups have one and the same reward, {reward:.3f} on average",
            advice="Stop here, or train on harder sessions.",
            view="rows=sessions&sort=-reward",
        )
    yield from _pinned(_quarter(_values(lines, "advantage/max")), advantage_clip)


def held_out_down(lines: Sequence[Line], comparison: Mapping[str, Any] | None) -> Iterator[Alarm]:
    """Training's reward rises while a judge's score of held-out sessions falls."""
    reward = _ends(lines, "reward/mean")
    if comparison is None or reward is None or reward[1] - reward[0] < SMALLEST_TREND:
        return
    cells = next(row["cells"] for row in comparison["tables"]["subset"]["rows"] if row["name"] == "all")
    for name, cell in cells.items():
        if name in ("full_success", "if_so_far", "ga_so_far") or not cell or cell["low"] is None:
            continue
        if cell["high"] < 0 and cell["mean"] <= -SMALLEST_TREND:
            interval = f"{tables.signed(cell['low'])} to {tables.signed(cell['high'])}"
            yield Alarm(
                name="held-out-down",
                title=f"Training's reward rises while held-out {tables.LABELS.get(name, name)} falls",
                evidence=f"mean training reward {_trend(reward)}; held-out {tables.LABELS.get(name, name)} {cell['before']:.3f} → "
                f"{cell['after']:.3f}, paired {comparison['level']:.0%} interval {interval}",
                advice="What is learned may please one judge alone: look at the sessions that lost; shift rewards.weights or stop earlier.",
                view="where=held-out&rows=sessions&sort=gain",
            )


def fallback(lines: Sequence[Line]) -> Iterator[Alarm]:
    """What the model writes holds no intent any more."""
    share = _ends(lines, "intent/fallback_share")
    if share and (share[1] >= FALLBACK_SHARE or share[1] - share[0] >= FALLBACK_RISE):
        yield Alarm(
            name="fallback",
            title="Many answers hold no intent",
            evidence=f"turns in which the instruction had to stand in {_trend(share, percent=True)}",
            advice="Read what was written: too few tokens for an answer (rollout.slots.intent), a prompt it does not know, or gibberish.",
            view="rows=rollouts&filter=fallback",
        )


def missing_verdicts(lines: Sequence[Line], statuses: Mapping[str, Mapping[str, int]]) -> Iterator[Alarm]:
    """Judges do not answer."""
    absent, errors = _last(lines, "reward/missing_share"), _last(lines, "reward/error_share")
    told = []
    if absent is not None and absent >= MISSING_SHARE:
        told.append(f"{absent:.0%} of the training turns in the last quarter of the steps have no reward")
    if errors is not None and errors >= ERROR_SHARE:
        told.append(f"{errors:.1%} of the training verdicts in the last quarter of the steps failed")
    for name, counts in statuses.items():
        due = sum(count for status, count in counts.items() if status != "not_applicable")
        failed = sum(counts.get(status, 0) for status in ERRORS)
        if due and failed / due >= ERROR_SHARE:
            told.append(f"{failed} of {due} verdicts on {tables.LABELS.get(name, name)} failed in the last evaluation")
    if told:
        yield Alarm(
            name="missing-verdict",
            title="Verdicts are missing",
            evidence="; ".join(told),
            advice="Such turns teach nothing: see their judge's words, then repair or restart the judge.",
            view="rows=rollouts&filter=missing",
        )


def idle_devices(lines: Sequence[Line]) -> Iterator[Alarm]:
    """In every step of the last quarter the devices waited for sessions or judges, or did each other's work."""
    for name, what in idle.WORDS.items():
        waited = _quarter(_values(lines, name))
        if waited and min(waited) > idle.SHARE:
            yield Alarm(
                name="idle-devices",
                title=f"The devices {what}",
                evidence=f"{_mean(waited):.0%} of the time, and at least {min(waited):.0%} in each of the last {len(waited)} steps",
                advice=f"{idle.ADVICE[name][0].upper()}{idle.ADVICE[name][1:]}.",
            )


def _same_intent(steps: Sequence[Step]) -> Iterator[Alarm]:
    """One text answers different questions."""
    said = [(group["session"]["turns"][t]["instruction"], turn["intent"]) for group, t, turn in _places(steps[-1:]) if _wrote(turn)]
    asked = {instruction for instruction, _ in said}
    if len(asked) < 3:
        return
    (text, count), *_ = collections.Counter(intent for _, intent in said).most_common(1)
    answered = len({instruction for instruction, intent in said if intent == text})
    if count / len(said) >= SAME_INTENT_SHARE and answered > 1:
        yield Alarm(
            name="collapse",
            title="Intents are all the same",
            evidence=f"{count} of {len(said)} intents of the last recorded step, for {len(asked)} instructions, read {text!r}",
            advice="Go back to a checkpoint from before; lower objective.intent.weight, or raise rollout.temperature.",
            view="rows=sessions",
        )


def _pinned(values: Sequence[float], clip: float | None) -> Iterator[Alarm]:
    if len(values) < QUARTER or max(values) <= 0:
        return
    constant = len(values) >= QUARTER + 2 and max(values) - min(values) <= 1e-6 * max(values)
    if constant or (clip and min(values) >= clip):
        yield Alarm(
            name="saturation",
            title="The largest advantage is pinned",
            evidence=f"{min(values):.3f} to {max(values):.3f} in each of the last {len(values)} steps"
            + (f", cut off at {clip:g}" if clip and min(values) >= clip else ""),
            advice="One rollout of a group always looks equally good: take larger groups, a finer reward, or advantage.std=global.",
        )


def _surprise(steps: Sequence[Step]) -> tuple[float, float] | None:
    """Mean -log_prob of a written token at the first and at the last step that has tokens."""
    by_step = [[token["log_prob"] for _, turn in _turns(step) for token in turn.get("tokens") or ()] for step in steps]
    by_step = [[one for one in log_probs if one is not None] for log_probs in by_step]
    told = [-_mean(log_probs) for log_probs in by_step if log_probs]
    return (told[0], told[-1]) if len(told) > 1 else None


def _places(steps: Sequence[Step]) -> Iterator[tuple[Mapping[str, Any], int, Mapping[str, Any]]]:
    """(group, number of the turn, turn) of all rollouts."""
    for step in steps:
        for group in step["groups"]:
            for rollout in group["rollouts"]:
                yield from ((group, t, turn) for t, turn in enumerate(rollout["turns"]))


def _turns(step: Step) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((t, turn) for _, t, turn in _places([step]))


def _wrote(turn: Mapping[str, Any]) -> bool:
    return bool(turn.get("intent")) and not turn.get("intent_fallback")


def _values(lines: Sequence[Line], name: str) -> list[float]:
    """The finite values of a metric, oldest first."""
    values = [line.get(name) for line in lines]
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _quarter(values: Sequence[float]) -> Sequence[float]:
    """The last quarter, three at least; [] where there are not that many."""
    return values[-max(QUARTER, len(values) // 4) :] if len(values) >= QUARTER else []


def _last(lines: Sequence[Line], name: str) -> float | None:
    values = _quarter(_values(lines, name))
    return _mean(values) if values else None


def _ends(lines: Sequence[Line], name: str) -> tuple[float, float] | None:
    """Means of the first and the last quarter of a metric; None where they would overlap."""
    values = _values(lines, name)
    size = max(QUARTER, len(values) // 4)
    return (_mean(values[:size]), _mean(values[-size:])) if len(values) >= 2 * size else None


def _trend(ends: tuple[float, float], *, percent: bool = False, when: str = "first and last quarter of the steps") -> str:
    first, last = (f"{end:.0%}" if percent else f"{end:.3g}" for end in ends)
    return f"{first} → {last} ({when})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
