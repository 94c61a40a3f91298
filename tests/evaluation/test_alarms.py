"""Alarms on planted records: each fires on its fault, says what it saw, and nothing fires on a healthy run."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.evaluation import alarms, tables
from tests.evaluation import fake_workdir

HEALTHY = {
    "reward/mean": (0.6, 0.75),
    "reward/missing_share": (0.0, 0.01),
    "reward/error_share": (0.0, 0.0),
    "advantage/zero_variance_share": (0.05, 0.2),
    "intent/tokens": (11.0, 12.0),
    "intent/fallback_share": (0.0, 0.02),
    "image/clip_fraction_low": (0.0, 0.1),
    "image/clip_fraction_high": (0.0, 0.1),
    "intent/clip_fraction_low": (0.0, 0.05),
    "intent/clip_fraction_high": (0.0, 0.05),
    "idle/data_share": (0.02, 0.01),
    "idle/reward_share": (0.5, 0.05),
}


def lines(count: int = 20, **changes) -> list[dict]:
    """Metrics that go from a first to a last value; `changes` by name with __ for /. The largest advantage moves as in a real run."""
    ends = HEALTHY | {name.replace("__", "/"): value for name, value in changes.items()}
    made = []
    for step in range(count):
        part = step / max(count - 1, 1)
        values = {name: first + (last - first) * part for name, (first, last) in ends.items()}
        made.append({"step": step, "advantage/max": 2.0 + 0.1 * math.sin(step)} | values)
    return made


def recorded(
    step: int = 0, *, intent=lambda g, r: f"do {g}", changed: float = 0.05, log_prob: float = -0.2, fallback: bool = False
) -> dict:
    """One recorded step: four sessions of two turns, two rollouts each."""
    groups = []
    for g in range(4):
        said = [{"instruction": f"edit {g} {t}", "task_type": "subject_add"} for t in range(2)]
        rollouts = [{"turns": [{"changed": changed, "intent": None}, _second(intent(g, r), changed, log_prob, fallback)]} for r in range(2)]
        groups.append({"session": {"id": f"s{g}", "turns": said}, "rollouts": rollouts})
    return {"step": step, "groups": groups}


def _second(intent: str, changed: float, log_prob: float, fallback: bool) -> dict:
    tokens = [{"text": word, "log_prob": log_prob, "ratio": None} for word in intent.split()]
    return {"changed": changed, "intent": intent, "intent_fallback": fallback, "tokens": tokens}


def compared(gain: float = 0.1, cc: float = 0.0) -> dict:
    """Held-out sessions before and after; `cc` is what the second reward gains."""
    before = fake_workdir.records(120, 0.0, np.random.default_rng(0))
    after = [
        record | {"scores": record["scores"] | {"cc": record["scores"]["cc"] + cc}, "reward": record["reward"] + gain} for record in before
    ]
    return tables.compare(before, after, draws=200)


def names(found) -> list[str]:
    return [alarm.name for alarm in found]


def test_a_healthy_run_is_silent():
    found = alarms.find(lines(), [recorded(0), recorded(1, log_prob=-0.1)], compared(), statuses={"if": {"ok": 99}}, advantage_clip=5.0)
    assert found == []


@given(st.integers(0, 5), st.lists(st.sampled_from(sorted(HEALTHY)), max_size=3))
def test_what_is_missing_or_short_raises_nothing(count, gone):
    told = [{name: value for name, value in line.items() if name not in gone} for line in lines(count)]
    assert alarms.find(told, [], None) == []
    assert alarms.find([line | {"reward/mean": None} for line in told], [{"step": 0, "groups": []}], None) == []


@pytest.mark.parametrize(
    ("changes", "name", "title", "evidence"),
    [
        ({"reward__mean": (0.6, 0.1)}, "collapse", "The reward collapsed", r"0\.\d+ → 0\.1"),
        ({"reward__mean": (0.0, 0.0)}, "collapse", "The reward collapsed", "0 → 0"),
        ({"advantage__zero_variance_share": (0.1, 1.1)}, "collapse", "no longer differ", "%"),
        ({"intent__tokens": (12.0, 1.0)}, "collapse", "Intents have become short", "→"),
        ({"intent__fallback_share": (0.0, 0.3)}, "fallback", "Many answers hold no intent", "3% → 27%"),
        ({"intent__fallback_share": (0.9, 0.9)}, "fallback", "Many answers hold no intent", "90%"),
        ({"reward__missing_share": (0.0, 0.4)}, "missing-verdict", "Verdicts are missing", "of the training turns"),
        ({"reward__error_share": (0.03, 0.03)}, "missing-verdict", "Verdicts are missing", r"3\.0% of the training verdicts"),
        ({"image__clip_fraction_high": (0.5, 0.9)}, "saturation", "ratios of the image term", r"clip fraction 9\d%"),
        ({"intent__clip_fraction_low": (0.9, 0.9)}, "saturation", "ratios of the intent term", "90% below"),
        ({"idle__data_share": (0.3, 0.2)}, "idle-devices", "The devices wait for sessions", "at least 20% in each of the last 5 steps"),
        ({"idle__reward_share": (0.1, 0.4)}, "idle-devices", "The devices wait for judges", "37% of the time"),
        ({"idle__repeated_share": (0.5, 0.5)}, "idle-devices", "The devices repeat each other's work", "50% of the time"),
    ],
)
def test_each_fault_of_the_numbers_is_named(changes, name, title, evidence):
    (alarm,) = alarms.find(lines(**changes), [], None)
    assert alarm.name == name and title in alarm.title and alarm.advice
    assert re.search(evidence, alarm.evidence), alarm.evidence


def test_equal_rewards_mean_collapse_where_there_is_room_and_saturation_where_there_is_none():
    equal = (0.9, 0.9)
    assert names(alarms.find(lines(advantage__zero_variance_share=equal), [], None)) == ["collapse"]
    assert names(alarms.find(lines(advantage__zero_variance_share=equal, reward__mean=(0.95, 0.97)), [], None)) == ["saturation"]


def test_a_pinned_advantage_is_seen_by_its_clip_or_by_its_sameness():
    told = lines()
    assert names(alarms.saturation([line | {"advantage/max": 5.0 + line["step"]} for line in told], advantage_clip=5.0)) == ["saturation"]
    assert names(alarms.saturation([line | {"advantage/max": 2.6457} for line in told])) == ["saturation"]
    assert list(alarms.saturation([line | {"advantage/max": 0.0} for line in told])) == [], "no spread at all is another alarm's"


def half_copied(step: int) -> dict:
    told = recorded(step)
    for group in told["groups"][:2]:
        for turn in (turn for rollout in group["rollouts"] for turn in rollout["turns"]):
            turn["changed"] = 0.004
    return told


def test_copies_of_the_input_are_counted_in_the_latest_records_that_tell():
    old = {"step": 9, "groups": [{"session": {"turns": []}, "rollouts": [{"turns": [{"intent": None}]}]}]}  # an older record
    copied = recorded(5, changed=0.004)
    (alarm,) = alarms.copies([copied, copied, old])
    assert alarm.name == "copy-of-input" and "in 100% of the turns" in alarm.evidence and alarm.view == "rows=rollouts&filter=copy"
    assert list(alarms.copies([copied, copied, recorded(6), recorded(7)])) == [] == list(alarms.copies([old]))


def test_as_many_copies_as_at_first_are_no_alarm_and_many_more_are():
    half = half_copied(0)
    assert list(alarms.copies([half, half, half, half])) == [] == list(alarms.copies([half]))
    assert names(alarms.copies([recorded(), recorded(), half, half])) == ["copy-of-input"]


def test_one_intent_for_everything_is_a_collapse_and_equal_rollouts_are_not():
    assert names(alarms.collapse([], [recorded(intent=lambda g, r: "same")])) == ["collapse"]
    assert list(alarms.collapse([], [recorded(intent=lambda g, r: f"do {g}")])) == [], "rollouts of a session may agree"
    assert list(alarms.collapse([], [recorded(intent=lambda g, r: "same", fallback=True)])) == [], "instructions that stood in"


def test_words_that_are_no_longer_sampled_are_a_collapse():
    (alarm,) = alarms.collapse([], [recorded(0), recorded(1, log_prob=-1e-5)])
    assert alarm.title == "Intents are no longer sampled" and "0.2 → 1e-05" in alarm.evidence
    assert list(alarms.collapse([], [recorded(0, log_prob=-5e-4), recorded(1, log_prob=-2e-4)])) == [], "they were certain from the start"


def test_training_up_and_a_held_out_judge_down():
    (alarm,) = alarms.held_out_down(lines(), compared(cc=-0.1))
    assert alarm.title == "Training's reward rises while held-out CC falls" and "paired 95% interval" in alarm.evidence
    assert names(alarms.held_out_down(lines(), compared(gain=-0.1))) == ["held-out-down"], "the reward itself"
    assert list(alarms.held_out_down(lines(), compared(cc=-0.004))) == [], "too little to matter"
    assert list(alarms.held_out_down(lines(reward__mean=(0.6, 0.55)), compared(cc=-0.1))) == [], "training does not rise either"
    assert list(alarms.held_out_down(lines(3), compared(cc=-0.1))) == []


def test_failed_held_out_verdicts_are_missing_ones():
    statuses = {"if": {"ok": 90, "service_error": 10, "not_applicable": 100}, "cc": {"ok": 100, "unmeasurable": 50}}
    (alarm,) = alarms.missing_verdicts([], statuses)
    assert "10 of 100 verdicts on IF failed in the last evaluation" in alarm.evidence and "CC" not in alarm.evidence


def test_alarms_are_plain_data():
    found = alarms.find(lines(reward__mean=(0.6, 0.1)), [recorded(intent=lambda g, r: "same", changed=0.0)], None)
    assert names(found) == ["collapse", "collapse", "copy-of-input"]
    assert json.loads(json.dumps([vars(alarm) for alarm in found]))
