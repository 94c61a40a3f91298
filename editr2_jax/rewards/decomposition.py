"""Rewards of an agent that takes an instruction apart: is the answer in form, and are its actions, subjects and goals the right ones?

    reward = format + F1(actions) + F1(subjects) + F1(goals), each in [0, 1]

    <think>why</think><answer>{"actions": ["recolor"], "subjects": ["coat"], "goals": ["scarlet"]}</answer>

format is 1 where each tag is there once, in this order, with white space alone around them, and the answer is such an object of lists of
words. What is out of form cannot be read, so its F1 are 0: the agent's failure, a score, unlike a judge's. These are functions of text: a
task that trains the agent makes `Score.share` of its G answers to an instruction the rewards [prompt, member] of rl/advantages, and learns
through rl/token_log_prob and rl/clipped_surrogate; no picture is drawn. Source: ImageEdit-R1; names and spelling of the tags are ours.
"""

from __future__ import annotations

import dataclasses
import json
import re

from editr2_jax.rewards import questions, set_f1

_FORM = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decomposition:
    """What an instruction asks for; each a set of words, case and spacing apart."""

    actions: tuple[str, ...]
    subjects: tuple[str, ...]
    goals: tuple[str, ...]


PARTS = tuple(field.name for field in dataclasses.fields(Decomposition))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The four rewards of one answer, each in [0, 1]."""

    format: float
    actions: float
    subjects: float
    goals: float

    @property
    def total(self) -> float:
        """Their sum, in [0, 4]."""
        return self.format + self.actions + self.subjects + self.goals

    @property
    def share(self) -> float:
        """Their mean, in [0, 1]."""
        return self.total / 4


def read(text: str) -> Decomposition | None:
    """What an answer says, or None where it is out of form."""
    found = _FORM.fullmatch(text)
    if found is None or len(_TAG.findall(text)) != 4:
        return None
    try:
        told = questions.json_object(found["answer"])
    except questions.JudgeFormatError:
        return None
    if set(told) != set(PARTS) or not all(_is_words(told[part]) for part in PARTS):
        return None
    return Decomposition(**{part: tuple(told[part]) for part in PARTS})


def score(text: str, wanted: Decomposition, *, empty: float = 0.0) -> Score:
    """The rewards of an answer against what the instruction asks for. `empty`: F1 of a part that is empty in both."""
    said = read(text)
    if said is None:
        return Score(format=0.0, actions=0.0, subjects=0.0, goals=0.0)
    return Score(format=1.0, **{part: set_f1.f1(getattr(said, part), getattr(wanted, part), empty=empty) for part in PARTS})


def written(wanted: Decomposition, *, think: str = "") -> str:
    """An answer in form: `read` gives the decomposition back. ValueError where the thoughts hold a tag."""
    if _TAG.search(think):
        raise ValueError(f"thoughts cannot hold the tags of an answer: {think[:80]!r}.")
    return f"<think>{think}</think><answer>{json.dumps(dataclasses.asdict(wanted), ensure_ascii=False)}</answer>"


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
