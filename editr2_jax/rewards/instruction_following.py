"""Instruction following (IF): was the edit of this turn carried out, given the picture it started from?

    IF = rule of the task type (boxes, 0 or 1)  x  mean vote of the question, where the type asks one
Input is the previous output, not the source. The rules are Edit-R2's (EdiVal's, in short) with their known defects repaired:
  add          compared with the reference's box inside the output; only instances that the input did not have count
  remove       every instance must be gone, not one of them moved
  replace      the old object gone from its place, the new one on it (an IoU floor, not any overlap)
  text         as whole words; an added text must not have been there before, a replaced one must be gone
  position     best-score boxes, not the first listed
  count        from a baseline in the input: an input that already shows K leaves nothing to measure
  background   the objects that must stay are checked: those of the annotation, and all that the instruction names to be kept
An object that the input does not show, because an earlier turn failed, scores 0. Detectors run once, votes repeat the question only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from editr2_jax.data import instruction_grammar
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.records import FREE_FORM, Episode, Status, Turn, Verdict
from editr2_jax.rewards import base, questions
from editr2_jax.rewards.base import Detection, Detector, QuestionAnswerer
from editr2_jax.rewards.questions import Question


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionFollowingConfig:
    """Thresholds. Confidences are the reference's; the overlaps are ours where the reference has none."""

    votes: int = 1  # answers averaged per question; the reference takes 4
    language: str = "en"  # of the prompts: questions.LANGUAGES
    soft: bool = False  # a yes-or-no question scores the probability of yes; no score is then exactly 0, which a filter's floor must know
    threshold: float = 0.30  # confidence of a box
    remove_threshold: float = 0.35
    position_threshold: float = 0.40
    keep_threshold: float = 0.25  # of objects that must survive a background change
    displacement: float = 0.03  # of the picture's side, between the centres of an object and its reference
    same_place: float = 0.2  # IoU from which two boxes are one place
    new_overlap: float = 0.5  # IoU from which an instance in the output is one that the input had
    replace_overlap: float = 0.1  # IoU floor between the old and the new object
    largest_kept: float = 0.9  # a kept object as wide and as high as this is no object


_RULES_VERSION = 2  # raise it with every change of what a picture scores: verdicts of other rules are not found again


class InstructionFollowing:
    """The rule engine over a detector and a question answerer."""

    name = "if"

    def __init__(
        self, detector: Detector, answerer: QuestionAnswerer, *, config: InstructionFollowingConfig = InstructionFollowingConfig()
    ):
        if config.votes < 1:
            raise ValueError(f"InstructionFollowingConfig.votes is {config.votes}; ask at least once.")
        questions.refuse_language(config.language)
        if config.soft and not isinstance(answerer, base.SoftAnswerer):
            name = type(answerer).__name__
            raise ValueError(f"InstructionFollowingConfig.soft wants probabilities, which {name} does not tell; set soft=False.")
        self._detector, self._answerer, self._config = detector, answerer, config
        self.fingerprint = f"rules {_RULES_VERSION} " + questions.wording((*questions.YES_NO, "read_text"), config.language)

    def score(self, episode: Episode) -> Verdict:
        """IF of the latest turn: 0, or the mean vote; INVALID_ANNOTATION when the instruction cannot be parsed.

        NOT_APPLICABLE to a free-form edit, which names nothing to look for.
        """
        turn = episode.session.turns[episode.turn]
        if turn.task_type == FREE_FORM:
            return base.missing(Status.NOT_APPLICABLE, "a free-form edit names no slots to look for")
        edit = instruction_grammar.parse(turn.formatted_instruction, turn.task_type)
        if edit is None:
            return base.missing(Status.INVALID_ANNOTATION, f"{turn.formatted_instruction[:200]!r} is no {turn.task_type}")
        case = _Case(episode, self._detector, self._answerer, self._config)
        outcome = _RULES[turn.task_type](case, edit)
        if outcome is None:
            return base.missing(Status.UNMEASURABLE, "the input already shows the count that the instruction asks for", **case.detail)
        return Verdict(value=outcome, detail=case.detail)


class _Case:
    """One edit being judged: its pictures, the services, and the notes for the verdict."""

    def __init__(self, episode: Episode, detector: Detector, answerer: QuestionAnswerer, config: InstructionFollowingConfig):
        self.episode, self.config, self.detail = episode, config, {}
        self._detector, self._answerer = detector, answerer
        self.turn = episode.session.turns[episode.turn]
        self.input, self.output = episode.pictures[-2], episode.pictures[-1]

    def find(self, picture: np.ndarray, name: str, threshold: float | None = None) -> list[Detection]:
        """Instances of a name, best first, without duplicates."""
        found = self._detector.detect(picture, (name,))
        return base.without_duplicates(base.best_first(found, threshold=self.config.threshold if threshold is None else threshold))

    def ask(self, kind: str, pictures: Sequence[np.ndarray], **fields: Any) -> float:
        """Mean vote of a yes-or-no question, or mean probability of yes."""
        question = Question(kind, fields, language=self.config.language)
        ask, read = (self._answerer.yes_probability, float) if self.config.soft else (self._answerer.ask, questions.yes_or_no)
        answers = questions.votes(functools.partial(ask, tuple(pictures)), question, count=self.config.votes, parse=read)
        self.detail |= {f"votes_{kind}": answers, "prompt": question.prompt_hash()}
        return float(np.mean(answers))

    def read(self, picture: np.ndarray, carrier: str) -> list[list[str]]:
        """Texts on the carrier ("" for the whole picture), once per vote."""
        question = Question("read_text", {"carrier": carrier}, language=self.config.language)
        ask = functools.partial(self._answerer.ask, (picture,))
        texts = questions.votes(ask, question, count=self.config.votes, parse=questions.texts_of)
        self.detail |= {"prompt": question.prompt_hash(), f"texts_{'input' if picture is self.input else 'output'}": texts}
        return texts

    def reference_boxes(self, name: str, added: Sequence[Detection]) -> list[Detection]:
        """Boxes of an add's reference: from the output, or from the latest picture before it that shows the object.

        What was added is no reference, though its name may fit ("a red ball beside the ball"). After "remove A, add B beside A" the
        reference is gone on purpose; its place is where it was last seen.
        """
        for back, picture in enumerate(reversed(self.episode.pictures)):
            found = [d for d in self.find(picture, name) if back or not any(_same_object(d, one) for one in added)]
            if found:
                self.detail["reference_seen_turns_ago"] = back
                return found
        return []


def _add(case: _Case, edit: Edit) -> float:
    settings = case.config
    before = case.find(case.input, edit.object)
    new = [d for d in case.find(case.output, edit.object) if not _at_place_of(d, before, settings.new_overlap)]
    case.detail["new_instances"] = len(new)
    if not new:
        return 0.0
    if edit.reference:
        references = case.reference_boxes(edit.reference, new)
        placed = any(_displacement(d, other, edit.place) > settings.displacement for d in new for other in references)
        case.detail["placed"] = placed
        if not placed:
            return 0.0
    return case.ask("added", (case.input, case.output), object=edit.object)


def _remove(case: _Case, edit: Edit) -> float:
    threshold = case.config.remove_threshold
    before = base.without_whole_picture(case.find(case.input, edit.object, threshold))
    after = base.without_whole_picture(case.find(case.output, edit.object, threshold))
    case.detail.update(instances_before=len(before), instances_after=len(after))
    return float(bool(before) and not after)


def _replace(case: _Case, edit: Edit) -> float:
    before = case.find(case.input, edit.old)
    now = case.find(case.output, edit.new)
    new = [d for d in now if _at_place_of(d, before, case.config.replace_overlap)]
    # A detector may also call the new object by the old name, with less confidence: that is not the old object.
    renamed = [d for d in case.find(case.output, edit.old) if not any(_same_object(d, other) and other.score > d.score for other in now)]
    still = [d for d in renamed if _at_place_of(d, before, case.config.same_place)]
    case.detail.update(instances_before=len(before), old_remaining=len(still), new_in_place=len(new))
    if not before or still or not new:
        return 0.0
    return case.ask("replaced", (case.input, case.output), old=edit.old, new=edit.new)


def _color(case: _Case, edit: Edit) -> float:
    return case.ask("color", (case.input, case.output), object=edit.object, value=edit.value)


def _material(case: _Case, edit: Edit) -> float:
    return case.ask("material", (case.input, case.output), object=edit.object, value=edit.value)


def _text(case: _Case, edit: Edit) -> float:
    carrier = edit.carrier
    if carrier and not (case.find(case.input, carrier) and case.find(case.output, carrier)):
        case.detail["carrier"] = "missing"
        return 0.0
    before, after = (case.read(picture, carrier) for picture in (case.input, case.output))
    scores = []
    for texts_before, texts_after in zip(before, after, strict=False):
        if carrier:  # replaced: the new text reads, the old one no longer does (unless it is blank or a part of the new one)
            kept = not edit.old.strip() or questions.says([edit.new], edit.old) > 0
            gone = kept or questions.says(texts_after, edit.old) == 0
            scores.append(gone and questions.says(texts_after, edit.new) > 0)
        else:  # added: once more than before
            scores.append(questions.says(texts_after, edit.new) > questions.says(texts_before, edit.new))
    case.detail["votes_read_text"] = scores
    return float(np.mean(scores))


def _position(case: _Case, edit: Edit) -> float:
    threshold = case.config.position_threshold
    moved, references = ([case.find(p, name, threshold) for p in (case.input, case.output)] for name in (edit.object, edit.reference))
    case.detail.update(object_counts=[len(found) for found in moved], reference_counts=[len(found) for found in references])
    if not moved[0] or not references[0] or any(len(a) != len(b) for a, b in (moved, references)):
        return 0.0
    return float(_displacement(moved[1][0], references[1][0], edit.place) > case.config.displacement)


def _count(case: _Case, edit: Edit) -> float | None:
    before, after = (len(case.find(picture, edit.object)) for picture in (case.input, case.output))
    case.detail.update(instances_before=before, instances_after=after)
    if before == edit.count:
        return None
    return float(before > 0 and after == edit.count)


def _background(case: _Case, edit: Edit) -> float:
    threshold, largest = case.config.keep_threshold, case.config.largest_kept
    lost = []
    for name in _to_stay(case.turn):
        before, after = (case.find(picture, name, threshold) for picture in (case.input, case.output))
        if before and not any(d.box[2] - d.box[0] <= largest or d.box[3] - d.box[1] <= largest for d in after):
            lost.append(name)
    case.detail["lost"] = lost
    return 0.0 if lost else case.ask("background", (case.output,), value=edit.value)


def _to_stay(turn: Turn) -> tuple[str, ...]:
    """Names of what a change of the background must leave. The annotation's pool drops what earlier turns added or renamed, which the
    instruction may still name; of its words only names of objects count ("keep them" is none)."""
    named = (name for name in instruction_grammar.kept(turn.instruction) if name in turn.all_objects)
    return tuple(dict.fromkeys((*turn.available_objects, *named)))


_RULES: dict[str, Callable[[_Case, Edit], float | None]] = {
    "subject_add": _add,
    "subject_remove": _remove,
    "subject_replace": _replace,
    "color_alter": _color,
    "material_alter": _material,
    "text_change": _text,
    "position_change": _position,
    "count_change": _count,
    "background_change": _background,
}


def _at_place_of(detection: Detection, others: Sequence[Detection], overlap: float) -> bool:
    return any(base.intersection_over_union(detection.box, other.box) >= overlap for other in others)


def _same_object(detection: Detection, other: Detection) -> bool:
    return base.intersection_over_union(detection.box, other.box) > 0.8  # as for duplicates


def _displacement(detection: Detection, reference: Detection, place: str) -> float:
    """How far the centre lies from the reference's in the named direction, as a fraction of the picture's side; y points down."""
    x, y = base.centre(detection.box)
    reference_x, reference_y = base.centre(reference.box)
    return {"left": reference_x - x, "right": x - reference_x, "above": reference_y - y, "below": y - reference_y}[place]
