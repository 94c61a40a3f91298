"""What is asked of the embedded world. A question compares arms; an arm is the common config with a few values changed.

Arms that several questions share are run once. Every arm trains from the same base, on the same sessions, with the same seeds, and is
scored on the same held-out dialogues from the same initial noise, so that differences are paired.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train: dotted config values that differ from the common config."""

    name: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trains: bool = True  # False: the base as it is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """Arms against one of them."""

    name: str
    asks: str
    claimed: str  # what a paper or common practice says, and who
    against: str  # the arm that the others are compared with
    arms: tuple[str, ...]
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)  # sign of arm - against where something is claimed


COMMON = "recommended"
_RAW = {"rollout.reconstruct": False, "objective.intent.weight": 0.0}
_TRAJECTORY = {"advantage.grouping": "trajectory", "advantage.filter": "off"}
_PATH = {"objective.image.kl": "velocity", "objective.image.kl_weight": 1e-4, "rollout.noise": "member", "rollout.window.size": 0}

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name=COMMON),
        Arm(name="untrained", trains=False),
        Arm(name="untrained_raw", trains=False, values=_RAW),
        Arm(name="raw_instruction", values=_RAW),
        Arm(name="image_only", values={"objective.intent.weight": 0.0}),
        Arm(name="text_only", values={"objective.image.weight": 0.0}),
        Arm(name="filter_off", values={"advantage.filter": "off"}),
        Arm(name="filter_all", values={"advantage.filter": "all"}),
        Arm(name="dialogue", values={"advantage.grouping": "dialogue"}),
        Arm(name="trajectory", values=_TRAJECTORY),
        Arm(name="advantage_additive", values=_TRAJECTORY | {"advantage.fusion": "advantage", "advantage.fusion_form": "additive"}),
        Arm(name="advantage_convex", values=_TRAJECTORY | {"advantage.fusion": "advantage", "advantage.fusion_form": "convex"}),
        Arm(name="aggregate_last", values=_TRAJECTORY | {"advantage.aggregate": "last"}),
        Arm(name="aggregate_product", values=_TRAJECTORY | {"advantage.aggregate": "product"}),
        Arm(name="aggregate_min", values=_TRAJECTORY | {"advantage.aggregate": "min"}),
        Arm(name="reward_to_go", values={"advantage.transform": "to_go"}),
        Arm(name="guard", values={"objective.image.kind": "guard"}),
        Arm(name="cps", values={"rollout.kernel.kind": "cps", "rollout.kernel.noise_level": 0.8}),
        Arm(name="nft", values=_PATH | {"objective.image.kind": "nft"}),
        Arm(name="rwr", values=_PATH | {"objective.image.kind": "rwr"}),
        Arm(name="single_turn", values={"rollout.turns": 1, "evaluate.turns": 3, "data.sessions": 24, "step.rows": 192}),
        Arm(name="group_4", values={"data.sessions": 16, "data.group": 4}),
        Arm(name="group_16", values={"data.sessions": 4, "data.group": 16}),
        Arm(name="window_1", values={"rollout.window.size": 1}),
        Arm(name="window_4", values={"rollout.window.size": 4, "rollout.window.last": 6}),
        Arm(name="dr_grpo", values={"objective.intent.reduction": "max_length", "advantage.text_std": "none"}),
    )
}

QUESTIONS: tuple[Question, ...] = (
    Question(
        name="learning",
        asks="Does the recommended recipe improve the base at all?",
        claimed="Edit-R2: yes, and later turns most.",
        against="untrained",
        arms=(COMMON,),
        expected={COMMON: 1},
    ),
    Question(
        name="intent",
        asks="Is it worth training with intents that are written before drawing?",
        claimed="Edit-R2: intent reconstruction beats the raw instruction.",
        against=COMMON,
        arms=("raw_instruction",),
        expected={"raw_instruction": -1},
    ),
    Question(
        name="intent_before",
        asks="Is it worth writing them without training?",
        claimed="Edit-R2: yes, for a base that reasons well.",
        against="untrained",
        arms=("untrained_raw",),
        expected={"untrained_raw": -1},
    ),
    Question(
        name="joint",
        asks="Should words and pictures learn together?",
        claimed="Edit-R2: the joint objective beats either alone.",
        against=COMMON,
        arms=("image_only", "text_only"),
        expected={"image_only": -1, "text_only": -1},
    ),
    Question(
        name="filter",
        asks="Should turns after an outright failure teach?",
        claimed="Edit-R2: filtering helps; its code filters the words as well (all), its comments spare them (image).",
        against=COMMON,
        arms=("filter_off", "filter_all"),
        expected={"filter_off": -1},
    ),
    Question(
        name="credit",
        asks="What should a turn's reward be compared with?",
        claimed="Edit-R2 pools a dialogue's turns (dialogue); ours compares turn with turn.",
        against=COMMON,
        arms=("dialogue",),
    ),
    Question(
        name="broadcast",
        asks="Should all turns of a trajectory share one advantage, without a filter?",
        claimed="MT-EditFlow broadcasts a trajectory's advantage.",
        against="filter_off",
        arms=("trajectory",),
    ),
    Question(
        name="fusion",
        asks="Should rewards be fused before or after they become advantages?",
        claimed="MT-EditFlow: fusing advantages beats fusing rewards.",
        against="trajectory",
        arms=("advantage_additive", "advantage_convex"),
        expected={"advantage_additive": 1, "advantage_convex": 1},
    ),
    Question(
        name="aggregate",
        asks="How should a trajectory's turns become one reward?",
        claimed="MT-EditFlow aggregates over turns; which way could not be read anywhere. The mean is the reference here.",
        against="trajectory",
        arms=("aggregate_last", "aggregate_product", "aggregate_min"),
    ),
    Question(
        name="later_turns",
        asks="Should a turn be paid for what follows it?",
        claimed="Nobody's claim for editing; usual elsewhere as reward to go.",
        against=COMMON,
        arms=("reward_to_go",),
    ),
    Question(
        name="objective",
        asks="Which objective should pictures have?",
        claimed="GRPO-Guard and CPS: steadier than Flow-GRPO; DiffusionNFT: faster; rejection sampling (rwr) is the plain alternative.",
        against=COMMON,
        arms=("guard", "cps", "nft", "rwr"),
    ),
    Question(
        name="turns",
        asks="Does training on whole dialogues beat training on first turns, at as many pictures? (First turns have no intents to learn.)",
        claimed="MT-EditFlow: more turns in training help; all papers: single-turn training does not carry over.",
        against="single_turn",
        arms=("image_only", COMMON),
        expected={"image_only": 1, COMMON: 1},
    ),
    Question(
        name="group",
        asks="Few large groups or many small ones, at 64 rollouts a step?",
        claimed="MT-EditFlow prefers 16 to a group.",
        against=COMMON,
        arms=("group_4", "group_16"),
        expected={"group_4": -1, "group_16": 1},
    ),
    Question(
        name="window",
        asks="How many denoising steps should be stochastic?",
        claimed="MixGRPO and Flow-GRPO-Fast: few are enough; Edit-R2 takes 2.",
        against=COMMON,
        arms=("window_1", "window_4"),
    ),
    Question(
        name="words",
        asks="Does it matter for intents how tokens are counted and advantages divided?",
        claimed="Dr.GRPO: neither by length nor by spread is better for long answers; intents are short.",
        against=COMMON,
        arms=("dr_grpo",),
    ),
)


def chosen(only: Sequence[str]) -> tuple[Question, ...]:
    """The questions of these names, or those of one arm (`question/arm`); all for no names. Raises ValueError for an unknown name."""
    by_name = {question.name: question for question in QUESTIONS}
    picked: dict[str, Question] = {}
    for name in only or tuple(by_name):
        question, _, arm = name.partition("/")
        if question not in by_name or (arm and arm not in by_name[question].arms):
            known = [*by_name, *(f"{q.name}/{arm}" for q in QUESTIONS for arm in q.arms)]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}" if near else ""
            raise ValueError(f"--only: there is no question {name!r}{hint}; the questions are {', '.join(by_name)}, or QUESTION/ARM.")
        whole = by_name[question]
        before = picked[question].arms if question in picked else ()
        arms = tuple(a for a in whole.arms if a in before or not arm or a == arm)
        picked[question] = dataclasses.replace(whole, arms=arms)
    return tuple(picked.values())


def needed(questions: Sequence[Question]) -> tuple[Arm, ...]:
    """The arms that these questions compare, each once, in the order in which they are first needed."""
    names = dict.fromkeys(name for question in questions for name in (question.against, *question.arms))
    return tuple(ARMS[name] for name in names)
