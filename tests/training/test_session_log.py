"""What a step writes down for the inspector, on a rollout made up by hand."""

import json
import types

import numpy as np
import pytest

from editr2_jax.evaluation import alarms, inspector, recorded_run
from editr2_jax.records import Sample, Session, Status, Turn, Verdict
from editr2_jax.rewards.suite import Scores, Suite
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.training import session_log
from editr2_jax.training.session_log import After
from editr2_jax.training.train_batch import Credit

ROWS, TURNS, WINDOW, WORDS = 2, 2, 2, 3
GRID = (1.0, 0.9, 0.75, 0.5, 0.0)


class Letters:
    """A tokenizer of single letters."""

    def decode(self, ids) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


class Named:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def suite():
    with Suite([Named("if"), Named("cc")], {"if": 3.0, "cc": 1.0}, workers=1) as made:
        yield made


def _rollout() -> Rollout:
    """Two rollouts of one session; the first copies its input at turn 1, and writes two tokens."""
    turn = Turn(
        instruction="paint", formatted_instruction="[paint]", task_type="subject_add", bg_consistency=True,
        unchanged_objects=(), available_objects=(), all_objects=(),
    )  # fmt: skip
    session = Session(id="s", image="", turns=(turn,) * TURNS)
    source = np.full((4, 4, 3), 100, np.uint8)
    pictures = np.stack([np.full((TURNS, 4, 4, 3), shade, np.uint8) for shade in (151, 49)])
    pictures[1, 1] = 253
    log_prob = np.log(np.full((ROWS, TURNS, WORDS), 0.5, np.float32))
    played = types.SimpleNamespace(
        intent=np.tile(np.arange(WORDS, dtype=np.int32), (ROWS, TURNS, 1)),
        intent_count=np.array([[0, 2], [0, 3]]),
        intent_log_prob=log_prob,
        image_log_prob=np.zeros((ROWS, TURNS, WINDOW), np.float32),
        step=np.tile(np.array([1, 2]), (ROWS, TURNS, 1)),
    )
    return Rollout(
        samples=tuple(Sample(session=session, picture=source, group=3, member=member) for member in range(ROWS)),
        played=played,
        pictures=pictures,
        intents=((None, "ab"), (None, "abc")),
        answers=((None, "<think>ab"), (None, "abc")),
        fallback=np.zeros((ROWS, TURNS), bool),
        here=np.ones(ROWS, bool),
    )


def _scores() -> Scores:
    told = (Verdict(value=1.0, detail={"reason": "it is there"}), Verdict(value=0.5))
    silent = (Verdict(value=float("nan"), status=Status.SERVICE_ERROR), Verdict(value=0.5))
    verdicts = {name: ((told[k], told[k]), (told[k], silent[k])) for k, name in enumerate(("if", "cc"))}
    combined = np.array([[0.875, 0.875], [0.875, np.nan]], np.float32)
    return Scores(values={}, weights={}, verdicts=verdicts, combined=combined, error_share=0.0)


def _credit() -> Credit:
    ones = np.ones((ROWS, TURNS), np.float32)
    mask = np.array([[True, True], [True, False]])
    why = np.array([["", ""], ["", "no verdict"]])
    return Credit(reward=ones, image_advantage=ones, text_advantage=-ones, image_mask=mask, text_mask=mask, why=why)


def _written(folder, **more) -> list[list[dict]]:
    session_log.write(folder, 4, _rollout(), _scores(), _credit(), groups=1, **more)
    told = json.loads((folder / "rollouts.json").read_text())
    assert told["step"] == 4
    return [rollout["turns"] for rollout in told["groups"][0]["rollouts"]]


def test_a_turn_is_told_with_its_probabilities(tmp_path, suite):
    ratio = np.log(np.array([1.0, 1.5, 2.0], np.float32))
    after = After(
        intent_log_prob=_rollout().played.intent_log_prob + ratio,
        image_log_prob=np.full((ROWS, TURNS, WINDOW), np.log(1.25), np.float32),
        kl=np.full((ROWS, TURNS), 0.5, np.float32),
    )
    (first, second), (_, silent) = _written(tmp_path, tokenizer=Letters(), grid=GRID, suite=suite, after=after)
    assert [token["text"] for token in second["tokens"]] == ["a", "b"], "padding is no token"
    np.testing.assert_allclose([token["log_prob"] for token in second["tokens"]], np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose([token["ratio"] for token in second["tokens"]], [1.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(second["image_ratio"], [1.25, 1.25], rtol=1e-6)
    assert second["window"] == {"steps": [1, 2], "t": [0.9, 0.75]} and second["kl"] == 0.5
    assert second["reward_parts"] == {"if": 0.75, "cc": 0.125} and sum(second["reward_parts"].values()) == second["reward"]
    assert (second["advantage"], second["advantage_text"]) == (1.0, -1.0)
    assert first["tokens"] is None and first["advantage_text"] is None, "turn 0 has no intent"
    assert silent["reward"] is None and silent["reward_parts"] is None and silent["why_filtered"] == "no verdict"
    assert second["detail"]["if"] == {"reason": "it is there"}


def test_a_picture_is_compared_with_the_one_it_edits(tmp_path):
    (first, copy), (_, other) = _written(tmp_path)
    np.testing.assert_allclose([first["changed"], copy["changed"], other["changed"]], [51 / 255, 0.0, 204 / 255])


def test_what_is_not_known_is_left_open(tmp_path):
    (_, turn), _ = _written(tmp_path)
    assert [turn[name] for name in ("tokens", "image_ratio", "kl", "reward_parts")] == [None] * 4
    assert turn["window"] == {"steps": [1, 2], "t": []}
    without = _written(tmp_path, tokenizer=Letters())[0][1]["tokens"]
    assert [token["ratio"] for token in without] == [None, None]


def test_what_is_written_is_what_the_inspector_and_the_alarms_read(tmp_path, suite):
    _written(tmp_path / "sessions" / "4", tokenizer=Letters(), grid=GRID, suite=suite)
    run = recorded_run.read(tmp_path)
    index, (block,) = inspector.read(run)
    (rows,) = [group["rollouts"] for group in index["groups"]]
    told = [dict(zip(index["fields"], row, strict=True)) for row in rows]
    assert [one["copies"] for one in told] == [1, 0] and [one["missing"] for one in told] == [0, 1] and run.notices == []
    assert block["rollouts"][0][1]["tokens"][1][0] == "b"
    assert list(alarms.copies(run.sessions)) == []
