"""How many turns of MICE-Bench's test sets IF can judge: the denominator of every IF that is reported on them."""

import collections

import numpy as np
import pytest

from editr2_jax.data.session_source import SessionFolder
from editr2_jax.records import Episode, Status
from editr2_jax.rewards import suite
from editr2_jax.rewards.compat.edit_r2_if import EDIT_R2
from editr2_jax.rewards.compat.instruction_following import UNPARSED, CompatInstructionFollowing
from editr2_jax.rewards.instruction_following import InstructionFollowing


class SeesNothing:
    def detect(self, picture, phrases):
        return []


class SaysNo:
    def ask(self, pictures, question):
        return '{"texts": []}' if question.kind == "read_text" else "no"


@pytest.mark.slow
def test_2153_of_2160_test_turns_can_be_judged(mice_bench):
    sessions = [session for name in ("cm", "cu") for session in SessionFolder(mice_bench / name, "test", pictures=False).sessions]
    blank = np.zeros((8, 8, 3), np.uint8)
    episodes = [Episode(session=session, pictures=(blank,) * (t + 2)) for session in sessions for t in range(len(session.turns))]
    assert len(episodes) == 2160
    ours = [suite.verdict_of(InstructionFollowing(SeesNothing(), SaysNo()), episode) for episode in episodes]
    assert collections.Counter(verdict.status for verdict in ours) == {Status.OK: 2153, Status.INVALID_ANNOTATION: 7}
    blanks = [
        episode.session.turns[episode.turn] for episode, verdict in zip(episodes, ours, strict=True) if verdict.status is not Status.OK
    ]
    assert {turn.task_type for turn in blanks} == {"text_change"} and all("'[]'" in turn.formatted_instruction for turn in blanks)
    # Edit-R2 scores the seven, and always with 0.
    theirs = [suite.verdict_of(CompatInstructionFollowing(SeesNothing(), SaysNo(), EDIT_R2), episode) for episode in episodes]
    assert all(verdict.status is Status.OK for verdict in theirs)
    assert [verdict.detail.get("reason") == UNPARSED for verdict in theirs] == [verdict.status is not Status.OK for verdict in ours]
