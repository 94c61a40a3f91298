"""In-context intent reconstruction: before each later turn the model says in words what the dialogue asks for now.

The question lists the earlier instructions and the current one; it is the same for every kind of dialogue, so it never tells the model
what is being tested. The answer thinks between tags and then states the edit; what follows the closing tag replaces the instruction for
the picture. No closing tag, or nothing behind it: the instruction itself is used, and the turn is marked as a fallback.
Source: Edit-R2 (arXiv 2606.05950), IC-CoT; its parsing and fallback as published.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

CLOSING_TAG = "</think>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentPrompt:
    """The words of the question. `question` has the places {history} and {instruction}; `entry` has {number} and {instruction}."""

    system: str = (
        "You help an image editor over several turns. Think first, between <think> and </think>: which earlier instructions still hold, "
        "and what the current one refers to. Then state the edit to make now as one complete sentence that can be understood on its own."
    )
    question: str = "Earlier instructions:\n{history}\nCurrent instruction: {instruction}\nWhat should be edited now?"
    entry: str = "{number}. {instruction}"

    def __post_init__(self):
        for name, text, places in (("question", self.question, ("{history}", "{instruction}")), ("entry", self.entry, ("{instruction}",))):
            if missing := [place for place in places if place not in text]:
                raise ValueError(f"IntentPrompt.{name} lacks {', '.join(missing)}; the model would not be told what to edit.")


def question(prompt: IntentPrompt, instructions: Sequence[str], turn: int) -> str:
    """The question before `turn` >= 1, given all instructions of the dialogue in order."""
    entries = (_fill(prompt.entry, number=str(i + 1), instruction=text) for i, text in enumerate(instructions[:turn]))
    return _fill(prompt.question, history="\n".join(entries), instruction=instructions[turn])


def _fill(text: str, **words: str) -> str:
    """The text with its {places} filled in one pass, so that braces in an instruction are no places."""
    return re.sub(r"\{(\w+)\}", lambda place: words.get(place[1], place[0]), text)


def answer(intent: str) -> str:
    """The text a supervised example teaches: no thoughts of its own, then the intent."""
    return f"<think></think>{intent}"


def parse(text: str, instruction: str) -> tuple[str, bool]:
    """The intent in a written answer, and whether the instruction had to stand in for it."""
    _, tag, intent = text.rpartition(CLOSING_TAG)
    intent = " ".join(intent.split())
    return (intent, False) if tag and intent else (instruction, True)
