"""Every verdict says what it was made of: its key in the verdict store, and each question that was asked for it, with the answer.

    verdict.detail["verdict"]    the line of verdicts/*.jsonl
    verdict.detail["requests"]   [{"kind", "vote", "prompt", "request", "answer"}]
"prompt" is the hash that scores are comparable by, "request" what the answer is found by in the answer cache (the column `key`), or the
hash of words and pixels where the answerer keeps none. A tracer stands between rewards and what they ask; neither knows of it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from editr2_jax.records import Episode, Verdict
from editr2_jax.rewards import suite
from editr2_jax.rewards.base import QuestionAnswerer, Reward, SoftAnswerer
from editr2_jax.rewards.questions import PROMPT_VERSION, Question
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.services import answer_cache


class Tracer:
    """Wraps the rewards and the answerer of one suite. Thread-safe: a reward asks in the thread that it is called in."""

    def __init__(self, store: VerdictStore | None = None):
        self._store, self._here = store, threading.local()
        self.given = 0  # verdicts that rewards were asked for; others were in the store
        self._counting = threading.Lock()

    def answerer(self, answerer: QuestionAnswerer) -> QuestionAnswerer:
        """The same answerer, overheard."""
        return (_Soft if isinstance(answerer, SoftAnswerer) else _Overheard)(answerer, self)

    def reward(self, reward: Reward) -> Reward:
        """The same reward, whose verdicts tell where they come from."""
        return _Traced(reward, self)

    def verdict(self, reward: Reward, episode: Episode) -> Verdict:
        """The reward's verdict with its key and its requests; what it raises becomes a status."""
        with self._counting:
            self.given += 1
        self._here.asked = []
        try:
            found = suite.verdict_of(reward, episode)
            told = {"requests": self._here.asked} if self._here.asked else {}
        finally:
            self._here.asked = None
        if self._store is not None:
            told["verdict"] = self._store.key(reward, episode)
        return dataclasses.replace(found, detail={**found.detail, **told})

    def heard(self, answerer: QuestionAnswerer, pictures: Sequence[np.ndarray], question: Question, answer: Any, *, soft: bool) -> None:
        """Notes a question of the verdict that this thread is about; None is an answer that did not come."""
        asked = getattr(self._here, "asked", None)
        if asked is not None:
            key = request_key(answerer, pictures, question, soft=soft)
            told = {"kind": question.kind, "vote": question.vote, "prompt": question.prompt_hash(), "request": key}
            asked.append(told | ({"unanswered": True} if answer is None else {"answer": answer}))


def request_key(answerer: QuestionAnswerer, pictures: Sequence[np.ndarray], question: Question, *, soft: bool = False) -> str:
    """What the answer is found by: the answer cache's key, or a SHA-256 over words, vote and pixels."""
    if hasattr(answerer, "request_key"):
        return answerer.request_key(pictures, question, soft=soft)
    said = {"kind": question.kind, "prompt": question.text(), "vote": question.vote, "version": PROMPT_VERSION}
    return answer_cache.key_of(said, pictures)


class _Traced:
    def __init__(self, reward: Reward, tracer: Tracer):
        self.name, self.fingerprint = reward.name, getattr(reward, "fingerprint", "")
        self._reward, self._tracer = reward, tracer

    def score(self, episode: Episode) -> Verdict:
        return self._tracer.verdict(self._reward, episode)


class _Overheard:
    def __init__(self, answerer: QuestionAnswerer, tracer: Tracer):
        self._answerer, self._tracer = answerer, tracer

    def ask(self, pictures: Sequence[np.ndarray], question: Question) -> str:
        return self._listen(self._answerer.ask, pictures, question, soft=False)

    def _listen(self, ask, pictures: Sequence[np.ndarray], question: Question, *, soft: bool):
        answer = None
        try:
            answer = ask(pictures, question)
            return answer
        finally:
            self._tracer.heard(self._answerer, pictures, question, answer, soft=soft)


class _Soft(_Overheard):
    def yes_probability(self, pictures: Sequence[np.ndarray], question: Question) -> float:
        return self._listen(self._answerer.yes_probability, pictures, question, soft=True)
