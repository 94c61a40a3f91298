"""Does a judge agree with itself? Questions that made scores are asked again, as new votes, and the answers compared.

    agreement   mean over questions of the share of pairs of answers that are alike
    unanimous   share of questions whose answers are all alike
    fleiss      (agreement - chance) / (1 - chance), chance = sum over answers of their pooled share squared; of all new answers
    cohen       the same between the answer that was scored and the first new one, with each side's own shares
A kappa is null where all answers are one (chance is then 1). Of a prefix question the answer is whether it succeeded; texts are
compared as a set, case ignored; grades number by number; of a published arithmetic, what it reads; an answer that cannot be read is an
answer of its own. At temperature 0 the seed changes nothing and what is seen is the server's own unsteadiness.
Sources: Fleiss 1971; Cohen 1960. Letters: N questions, K new answers.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.evaluation import statistics
from editr2_jax.evaluation.benchmarks import tracing
from editr2_jax.rewards import questions
from editr2_jax.rewards.base import QuestionAnswerer, Reward, ServiceError, SoftAnswerer
from editr2_jax.rewards.compat import prefix_judge
from editr2_jax.rewards.compat import prompts as compat
from editr2_jax.rewards.questions import JudgeFormatError, Question

FIRST_VOTE = 1000  # numbers of new votes start here, far from those of any scoring
UNREADABLE = "unreadable"

Pictures = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Heard:
    """A question as it was asked while scoring."""

    pictures: tuple[np.ndarray, ...]
    question: Question
    answer: str


class Collector:
    """Overhears a suite's questions, each once; what it collects are those that are answered in words. Thread-safe."""

    def __init__(self):
        self.heard: dict[str, Heard] = {}
        self.inner: QuestionAnswerer | None = None
        self._lock = threading.Lock()

    def answerer(self, answerer: QuestionAnswerer) -> QuestionAnswerer:
        self.inner = answerer
        return (_Soft if isinstance(answerer, SoftAnswerer) else _Overheard)(self, answerer)

    def reward(self, reward: Reward) -> Reward:
        return reward

    def note(self, pictures: Pictures, question: Question, answer: str) -> None:
        first = dataclasses.replace(question, vote=0)
        with self._lock:
            self.heard.setdefault(tracing.request_key(self.inner, pictures, first), Heard(tuple(pictures), first, answer))


class _Overheard:
    def __init__(self, collector: Collector, inner: QuestionAnswerer):
        self._collector, self._inner = collector, inner

    def ask(self, pictures: Pictures, question: Question) -> str:
        answer = self._inner.ask(pictures, question)
        self._collector.note(pictures, question, answer)
        return answer


class _Soft(_Overheard):
    def yes_probability(self, pictures: Pictures, question: Question) -> float:
        return self._inner.yes_probability(pictures, question)  # no word that another could be like


def probe(
    heard: Mapping[str, Heard],
    answerer: QuestionAnswerer,
    *,
    questions_at_most: int,
    times: int,
    seed: int = 0,
    workers: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Asks a random part of the questions `times` times more; one line per question: kind, request, prompt, scored, answers.

    seed: which questions, and the numbers of the votes. An answer that does not come is null.
    """
    if times < 2 or questions_at_most < 1:
        raise ValueError(f"ask at least one question, and each at least twice; got questions={questions_at_most}, times={times}.")
    chosen = sorted(heard)
    order = np.random.default_rng(seed).permutation(len(chosen))[:questions_at_most]
    chosen = [chosen[i] for i in sorted(order)]

    def again(key: str, vote: int) -> str | None:
        about = heard[key]
        try:
            return category(about.question, answerer.ask(about.pictures, dataclasses.replace(about.question, vote=vote)))
        except ServiceError:  # told by its absence: the answers that came are told with their number
            return None

    lines = []
    first = FIRST_VOTE + seed * times
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        asked = {key: [pool.submit(again, key, first + number) for number in range(times)] for key in chosen}
        try:
            for key in chosen:
                about = heard[key]
                told = {"kind": about.question.kind, "request": key, "prompt": about.question.prompt_hash()}
                told |= {"scored": category(about.question, about.answer), "answers": [one.result() for one in asked[key]]}
                lines.append(told)
                progress(len(lines))
        except BaseException:  # a fault of ours or Ctrl-C: what waits in the line is not paid for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return lines


def category(question: Question, answer: str) -> str:
    """What an answer says, as far as scores go."""
    try:
        if question.kind == "read_text":
            return "texts: " + " | ".join(sorted(" ".join(text.lower().split()) for text in questions.texts_of(answer)))
        if question.kind == "prefix":
            found = questions.prefix_of(answer, turns=len(question.fields["instructions"]))
            return "success" if found.first_failed_turn == 0 else "failure"
        if question.kind == "grades":
            return "grades: " + " ".join(map(str, questions.grades_of(answer, turns=len(question.fields["instructions"])).grades))
        if question.kind in compat.TEXTS:
            return _published(question.kind, answer)
        return "yes" if questions.yes_or_no(answer) else "no"
    except JudgeFormatError:
        return UNREADABLE


def _published(kind: str, answer: str) -> str:
    """As a published arithmetic reads it: nothing is unreadable there."""
    if kind == "r2_prefix":
        return "success" if prefix_judge.final_answer(answer) else "failure"
    if kind in ("ev_core_noun", "free_text"):
        return "text: " + " ".join(answer.lower().split())
    return "yes" if "yes" in answer.lower() else "no"


def summarise(lines: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """Agreement and kappas of all questions together, and of each kind."""
    kinds = ["all", *sorted({line["kind"] for line in lines})]
    return {kind: _summary([line for line in lines if kind in ("all", line["kind"])], seed) for kind in kinds}


def _summary(lines: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    whole = [line["answers"] for line in lines if None not in line["answers"]]
    pairs = [(line["scored"], line["answers"][0]) for line in lines if line["answers"][0] is not None]
    alike = np.array([_alike(answers) for answers in whole])
    answers = [answer for line in lines for answer in line["answers"]]
    return {
        "questions": len(lines),
        "complete": len(whole),  # all of their answers came
        "unanswered": sum(answer is None for answer in answers),
        "unreadable": sum(answer == UNREADABLE for answer in answers),
        "agreement": statistics.mean_interval(alike, seed=seed).json(),
        "unanimous": float(np.mean(alike == 1.0)) if len(alike) else None,
        "fleiss": _known(fleiss(whole)),
        "cohen": _known(cohen(pairs)),
    }


def fleiss(answers: Sequence[Sequence[str]]) -> float:
    """Fleiss' kappa of N questions with K answers each; NaN for none, or where all answers are the same one."""
    if not answers:
        return math.nan
    pooled = collections.Counter(answer for row in answers for answer in row)
    chance = sum((count / pooled.total()) ** 2 for count in pooled.values())
    return _kappa(float(np.mean([_alike(row) for row in answers])), chance)


def cohen(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of two answers to each question; NaN for none, or where all answers are the same one."""
    if not pairs:
        return math.nan
    left, right = (collections.Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(left[name] * right[name] for name in left) / len(pairs) ** 2
    return _kappa(sum(a == b for a, b in pairs) / len(pairs), chance)


def _kappa(agreement: float, chance: float) -> float:
    return math.nan if chance >= 1 - 1e-12 else (agreement - chance) / (1 - chance)


def _alike(answers: Sequence[str]) -> float:
    """Share of the pairs among K answers that are alike."""
    count = len(answers)
    return sum(n * (n - 1) for n in collections.Counter(answers).values()) / (count * (count - 1))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
