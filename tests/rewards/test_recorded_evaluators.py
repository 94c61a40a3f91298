"""Our IF and CC in the published arithmetics against what the published functions said of the same turns, recorded once."""

import collections
import importlib.util
import json
from pathlib import Path

import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import suite
from editr2_jax.rewards.base import Detection
from editr2_jax.rewards.compat.consistency import EditR2Consistency, EdivalConsistency
from editr2_jax.rewards.compat.edit_r2_if import EDIT_R2
from editr2_jax.rewards.compat.edival_if import EDIVAL
from editr2_jax.rewards.compat.instruction_following import CompatInstructionFollowing

pytestmark = pytest.mark.golden
GOLD = Path(__file__).parents[1] / "golden" / "evaluators"
CASES = json.loads((GOLD / "cases.json").read_text())


def _scripted():
    spec = importlib.util.spec_from_file_location("scripted_evaluators", GOLD / "scripted.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scripted = _scripted()


class Scripted:
    """The detector and the model of a case."""

    def __init__(self, case):
        self.case = case

    def detect(self, pixels, phrases):
        boxes = self.case["boxes"][scripted.number_of(pixels)]
        return [Detection(box=tuple(box), score=score, phrase=phrase) for phrase in phrases for box, score in boxes.get(phrase, [])]

    def ask(self, pictures, question):
        if question.kind == "ev_core_noun":
            return scripted.noun(question.fields["name"])
        return scripted.read(self.case, pictures[0]) if question.kind == "free_text" else self.case["answer"]


def test_instruction_following_is_theirs():
    shown, seen = [scripted.flat(0), scripted.flat(1)], collections.Counter()
    for case in CASES["if"]:
        script = Scripted(case)
        episode = fakes.episode([fakes.turn(case["task_type"], case["formatted"], instruction=case["natural"])], shown)
        told = [CompatInstructionFollowing(script, script, arithmetic).score(episode).value for arithmetic in (EDIT_R2, EDIVAL)]
        assert told == case["wanted"], case
        seen[case["task_type"], *told] += 1
    assert len(CASES["if"]) == 160 and len(seen) >= 18, "every type succeeds and fails, and half of them tell the two apart"


def test_content_consistency_is_theirs():
    for case in CASES["cc"]:
        script, (one, two, three) = Scripted(case), case["wanted"]
        turn = fakes.turn(unchanged_objects=tuple(case["unchanged"]), all_objects=tuple(case["all"]), bg_consistency=case["bg"])
        episode = fakes.episode([turn], scripted.pictures(case))
        ours = suite.verdict_of(EditR2Consistency(scripted.Tokens(256), script), episode)
        assert ours.value == pytest.approx(min(max(one, 0), 1), abs=1e-5), case
        ours = suite.verdict_of(EdivalConsistency(scripted.Tokens(224), script), episode)
        assert {name: ours.detail.get(name) for name in ("object", "background")} == {
            "object": two if two is None else pytest.approx(two, abs=1e-5),
            "background": three if three is None else pytest.approx(three, abs=1e-5),
        }, case
        assert (ours.status is Status.OK) == (two is not None or three is not None)
