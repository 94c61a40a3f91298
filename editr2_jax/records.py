"""What travels between the rooms: data without behaviour.

Words: a session is a picture and its instructions in order; a turn is one instruction, counted from 0; an episode is a session as
far as it has been played. Pictures are uint8 [H, W, 3], RGB, lossless.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

TASK_TYPES = (
    "subject_add",
    "subject_remove",
    "subject_replace",
    "color_alter",
    "material_alter",
    "text_change",
    "position_change",
    "count_change",
    "background_change",
)
FREE_FORM = "free_form"  # an edit in words alone, of no type and with nothing annotated: rewards that need either do not apply to it
SUBSETS = ("plain", "memory", "understanding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One instruction and its annotation, as in the MICE-Bench record schema."""

    instruction: str  # natural text: what the policy sees
    formatted_instruction: str  # slots in [brackets], pronouns resolved, no rule: what the rewards parse
    task_type: str  # one of TASK_TYPES, or FREE_FORM
    bg_consistency: bool  # False from the first background_change or free-form edit on
    unchanged_objects: tuple[str, ...]  # objects of the source picture that no turn so far has edited
    available_objects: tuple[str, ...]  # objects that exist after this turn
    all_objects: tuple[str, ...]  # every name that existed in turns 0..t
    intent: str | None = None  # ground-truth resolved instruction; None where unknown, "" for turn 0
    target: str | None = None  # path of the ground-truth picture after this turn; None where unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A source picture and its instructions in order."""

    id: str  # unique within a data set: the key of the group
    image: str  # path of the source picture
    turns: tuple[Turn, ...]
    subset: str = "plain"  # one of SUBSETS
    caption: str | None = None  # what the source picture shows, in words; None where unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A session with its pixels, as the pipeline hands it out."""

    session: Session
    picture: np.ndarray  # uint8 [H, W, 3], already at its bucket's size
    targets: tuple[np.ndarray, ...] = ()  # ground-truth pictures after each turn; empty where unknown
    group: int = 0  # number of the session in the endless stream; equal for the members of a group
    member: int = 0  # 0..G-1 inside the group


class Status(enum.StrEnum):
    """Why a verdict has a value, or has none."""

    OK = "ok"
    NOT_APPLICABLE = "not_applicable"  # by annotation: constant within a group
    UNMEASURABLE = "unmeasurable"  # nothing to measure in these pictures
    INVALID_ANNOTATION = "invalid_annotation"
    JUDGE_FORMAT_ERROR = "judge_format_error"
    SERVICE_ERROR = "service_error"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One reward's answer about one turn: a score in [0, 1], or NaN with the reason."""

    value: float
    status: Status = Status.OK
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # JSON-ready: the judge's words, parts of the score

    def __post_init__(self):
        if (self.status is Status.OK) == math.isnan(self.value):
            raise ValueError(f"Verdict(value={self.value}, status={self.status}): a value and only a value has status ok.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """The session so far: what a reward may look at."""

    session: Session
    pictures: tuple[np.ndarray, ...]  # uint8 [H, W, 3]: the source, then the outputs of turns 0..t

    @property
    def turn(self) -> int:
        """Index t of the latest turn played."""
        return len(self.pictures) - 2
