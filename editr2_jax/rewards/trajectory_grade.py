"""Trajectory grade: a judge looks at the whole session and grades every edit from 1 to 5, all in one answer.

    score of turn t = (grade of edit t - 1) / 4, of an answer about edits 0..t; the mean over votes
    `whole`: score of the last turn = the mean over its edits, of one answer about all of them; no other turn has one

Grades tell apart what yes and no do not, and a group is less often without spread. By turn, every (rollout, turn) has a score of its own,
so that every grouping and every aggregate has turns to work on, for one question a turn. That about the last turn is MT-EditFlow's; the
others show the judge no later picture. `whole` asks that one alone, for a trajectory's advantage (advantage.grouping=trajectory,
aggregate=mean or last); the turns before are NOT_APPLICABLE, in all rollouts of a group alike, and leave their weight to other rewards.
Source: MT-EditFlow (one request a trajectory, thoughts before grades); the wording is ours.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from editr2_jax.records import Episode, Status, Verdict
from editr2_jax.rewards import base, global_awareness, questions
from editr2_jax.rewards.base import QuestionAnswerer
from editr2_jax.rewards.questions import Question


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryGradeConfig:
    """How the judge is asked."""

    votes: int = 1  # answers averaged
    language: str = "en"  # of the prompt: questions.LANGUAGES
    whole: bool = False  # one question a trajectory, about its last turn
    turns: int = 0  # played of a session at most, which tells `whole` the last one; 0: all


class TrajectoryGrade:
    """The judge that grades. All sessions are graded, those with a rule or pronouns by what they mean."""

    name = "trajectory_grade"

    def __init__(self, answerer: QuestionAnswerer, *, config: TrajectoryGradeConfig = TrajectoryGradeConfig()):
        if config.votes < 1:
            raise ValueError(f"TrajectoryGradeConfig.votes is {config.votes}; ask at least once.")
        if config.turns < 0:
            raise ValueError(f"TrajectoryGradeConfig.turns is {config.turns}; give the turns that are played, or 0 for all.")
        questions.refuse_language(config.language)
        self._answerer, self._config = answerer, config
        self.fingerprint = f"{questions.wording(('grades',), config.language)} whole={config.whole} turns={config.turns}"

    def score(self, episode: Episode) -> Verdict:
        """The grade of the latest turn, or of the whole trajectory, in [0, 1]."""
        turns, planned = episode.turn + 1, len(episode.session.turns)
        if self._config.whole and turns < min(planned, self._config.turns or planned):
            return base.missing(Status.NOT_APPLICABLE, "a trajectory is graded after its last turn")
        question = Question("grades", global_awareness.prefix_fields(episode), language=self._config.language)
        ask = functools.partial(self._answerer.ask, episode.pictures)
        answers = questions.votes(ask, question, count=self._config.votes, parse=functools.partial(questions.grades_of, turns=turns))
        worst, best = questions.GRADES
        grades = np.array([answer.grades for answer in answers])  # [votes, turns]
        value = float(((grades if self._config.whole else grades[:, -1]).mean() - worst) / (best - worst))
        reasons = [answer.reason for answer in answers]
        return Verdict(value=value, detail={"prompt": question.prompt_hash(), "grades": grades.tolist(), "reasons": reasons})
