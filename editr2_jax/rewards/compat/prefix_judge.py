"""GA and CU in Edit-R2's arithmetic: a judge writes freely, and only its final answer is read.

    score of a vote = 1 iff the first <answer_final> tag of the answer says yes; no tag, or anything else in it, is 0

So an answer that was cut off counts as a failure, and tags that contradict the final one count nothing; `votes_without_tag` counts the
former. They also count a request that failed as 0 and one that could not be made as 0.5; here neither has a score. Source: Edit-R2.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards import base, global_awareness, questions
from editr2_jax.rewards.base import QuestionAnswerer
from editr2_jax.rewards.questions import Question

_FINAL = re.compile(r"<answer_final>\s*(yes|no)\s*</answer_final>", re.IGNORECASE)


class CompatPrefixJudge:
    """GA on memory sessions, CU on understanding sessions."""

    name = "ga"

    def __init__(self, answerer: QuestionAnswerer, *, votes: int = 1):
        """votes: answers averaged; Edit-R2 takes 4 at temperature 0.6."""
        if votes < 1:
            raise ValueError(f"CompatPrefixJudge: votes is {votes}; ask at least once.")
        self._answerer, self._votes = answerer, votes
        self.fingerprint = questions.wording(("r2_prefix",))

    def score(self, episode: Episode) -> Verdict:
        """Share of votes whose final answer is yes."""
        if episode.session.subset == "plain":
            return base.missing(Status.NOT_APPLICABLE, "a plain session has neither a rule nor pronouns")
        question = Question("r2_prefix", global_awareness.prefix_fields(episode))
        ask = functools.partial(self._answerer.ask, episode.pictures)
        final = questions.votes(ask, question, count=self._votes, parse=final_answer)
        detail = {
            "arithmetic": "edit_r2",
            "judge": global_awareness.JUDGES[episode.session.subset],
            "prompt": question.prompt_hash(),
            "votes": [answer is True for answer in final],
            "votes_without_tag": sum(answer is None for answer in final),
        }
        return Verdict(value=float(np.mean(detail["votes"])), detail=detail)


def final_answer(answer: str) -> bool | None:
    """What the first final-answer tag says; None where there is none."""
    found = _FINAL.search(answer)
    return None if found is None else found[1].lower() == "yes"
