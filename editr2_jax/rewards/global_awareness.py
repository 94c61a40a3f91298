"""Global awareness (GA) and content understanding (CU): a judge looks at all pictures so far and says whether every edit succeeded.

    score of turn t = 1  iff  every edit 0..t was carried out and kept the rule (memory) or hit the meant object (understanding)
The judge sees the original instructions, never a rewritten one. Each prefix is judged afresh, so a score may rise again at a later turn;
the raw answers stay in the verdict's detail (`edits`, `rules`, per vote) and a cumulative score is derived from them, not stored instead.
`edit` and `rule` there say apart what the score puts together: was the latest edit carried out, did it keep the rule.
Source: Edit-R2. Whether the rule binds the first edit is open in the wording of MICE-Bench; here it does.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards import base, questions
from editr2_jax.rewards.base import QuestionAnswerer
from editr2_jax.rewards.questions import Question

JUDGES = {"memory": "ga", "understanding": "cu", "plain": "plain"}  # by subset


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalAwarenessConfig:
    """How the judge is asked."""

    votes: int = 1  # answers averaged; the reference takes 4 at temperature 0.6
    language: str = "en"  # of the prompt: questions.LANGUAGES
    plain: bool = False  # also judge sessions without rule and pronouns: plain success of all edits so far


class GlobalAwareness:
    """The prefix judge: GA on memory sessions, CU on understanding sessions; `detail["judge"]` says which."""

    name = "ga"

    def __init__(self, answerer: QuestionAnswerer, *, config: GlobalAwarenessConfig = GlobalAwarenessConfig()):
        if config.votes < 1:
            raise ValueError(f"GlobalAwarenessConfig.votes is {config.votes}; ask at least once.")
        questions.refuse_language(config.language)
        self._answerer, self._config = answerer, config
        self.fingerprint = questions.wording(("prefix",), config.language)

    def score(self, episode: Episode) -> Verdict:
        """Share of votes that find all edits 0..t successful."""
        subset = episode.session.subset
        if subset == "plain" and not self._config.plain:
            return base.missing(Status.NOT_APPLICABLE, "a plain session has neither a rule nor pronouns")
        question = Question("prefix", prefix_fields(episode), language=self._config.language)
        answers = questions.votes(
            functools.partial(self._answerer.ask, episode.pictures),
            question,
            count=self._config.votes,
            parse=functools.partial(questions.prefix_of, turns=episode.turn + 1),
        )
        succeeded = [answer.first_failed_turn == 0 for answer in answers]
        # Of the latest edit alone, in the votes that found all before it well: a judge may stop at the first failure.
        latest = [(answer.edits[-1], answer.rules[-1]) for answer in answers if answer.first_failed_turn in (0, episode.turn + 1)]
        alone = zip(("edit", "rule"), np.mean(latest, axis=0).tolist(), strict=True) if latest else ()
        detail = {
            **dict(alone),
            "judge": JUDGES[subset],
            "prompt": question.prompt_hash(),
            "votes": succeeded,
            "edits": [list(answer.edits) for answer in answers],
            "rules": [list(answer.rules) for answer in answers],
            "reasons": [answer.reason for answer in answers],
        }
        return Verdict(value=float(np.mean(succeeded)), detail=detail)


def prefix_fields(episode: Episode) -> dict[str, Any]:
    """Fields of a question about all edits so far."""
    turns = episode.session.turns[: episode.turn + 1]
    return {
        "subset": episode.session.subset,
        "instructions": tuple(turn.instruction for turn in turns),
        "formatted": tuple(turn.formatted_instruction for turn in turns),
        "task_types": tuple(turn.task_type for turn in turns),
    }
