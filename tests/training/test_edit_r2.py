import copy
import dataclasses
import itertools
import json
import re
import threading

import jax
import numpy as np
import optax
import pytest
import tiny_world
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.records import Sample, Session, Verdict
from editr2_jax.rewards.suite import Suite
from editr2_jax.runtime import metrics as metrics_files
from editr2_jax.runtime.metrics import MetricsWriter
from editr2_jax.runtime.signals import Interrupted
from editr2_jax.training import edit_r2, session_log, train_batch
from editr2_jax.training.edit_r2 import EditR2, RatioError, StepConfig
from editr2_jax.training.train_batch import AdvantageConfig

pytestmark = pytest.mark.slow  # compiles the whole objective


class Scripted:
    """A reward that is a number of the latest picture."""

    def __init__(self, name, value):
        self.name, self._value = name, value

    def score(self, episode):
        return Verdict(value=self._value(episode.pictures[-1]))


def _brightness(picture) -> float:
    return float(picture.mean()) / 255


def _fails_half(picture) -> float:
    return float(int(picture.sum()) % 2)


@pytest.fixture(scope="module")
def suite():
    with Suite([Scripted("if", _fails_half), Scripted("cc", _brightness)], {"if": 0.5, "cc": 0.5}, workers=1) as suite:
        yield suite


def _recipe(suite, **more) -> EditR2:
    parts = {"player": tiny_world.player(), "updater": tiny_world.updater(), "suite": suite, "frozen": tiny_world.moved().frozen}
    settings = {"tokenizer": tiny_world.Words(), "seed": 0, "advantage": AdvantageConfig(), "config": StepConfig(rows=4)}
    return EditR2(**parts | settings | more)


@pytest.fixture(scope="module")
def done(suite):
    """One step: the state after it, its metrics, and what was recorded of it."""
    records = []
    state, metrics = _recipe(suite, record=records.append).step(tiny_world.state(), tiny_world.samples(), 0)
    return state, metrics, records


def test_a_step_changes_what_learns(done):
    state, *_ = done
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.trainable, tiny_world.moved().trainable)
    assert 1e-5 < max(jax.tree.leaves(moved)) < 1e-2


def test_a_step_s_metrics_can_be_written_and_say_what_a_run_has_to_show(done, tmp_path):
    _, metrics, _ = done
    with MetricsWriter(tmp_path, start=0, total=1) as out:  # refuses a name that is not area/quantity
        out.write(0, metrics)
    (line,) = metrics_files.read(tmp_path)
    for name in (
        "reward/mean", "reward/if/mean", "reward/cc/turn_0", "reward/cc/turn_1", "reward/mean/turn_1", "reward/error_share",
        "reward/missing_share", "filter/dropped", "filter/kept_turn_1", "advantage/mean_turn_0", "advantage/zero_variance_share",
        "intent/tokens", "intent/fallback_share", "intent/first_log_ratio_max",
        "image/first_log_ratio_max", "image/kl", "image/clip_fraction_high", "loss/total", "optimizer/gradient_norm",
        "time/rollout_s", "time/reward_wait_s", "time/update_s",
    ):  # fmt: skip
        assert isinstance(line.get(name), float), name


def test_rewards_of_the_pictures_become_credit(done):
    _, metrics, (record,) = done
    (rollout,), (scores,), (credit,) = record.rollouts, record.scores, record.credits
    np.testing.assert_allclose(scores.values["cc"], [[_brightness(p) for p in row] for row in rollout.pictures], rtol=1e-5)
    np.testing.assert_allclose(metrics["reward/mean"], scores.combined.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["intent/tokens"], np.asarray(rollout.played.intent_count)[:, 1].mean())
    np.testing.assert_array_equal(~credit.image_mask[:, 1], scores.values["if"][:, 0] == 0)  # after a failure
    np.testing.assert_array_equal(credit.text_mask[:, 1], ~rollout.fallback[:, 1])
    for members in (slice(0, 2), slice(2, 4)):  # better than the other of the group is worth more
        better = np.diff(scores.combined[members, 0])
        assert np.sign(np.diff(credit.image_advantage[members, 0])) == np.sign(better)


def test_credit_of_one_s_own_is_what_is_learned_from(suite, done):
    """Here every turn is worth the opposite; the story around it stays."""

    def opposite(*given, **more):
        made, metrics = train_batch.credit(*given, **more)
        worth = {name: -getattr(made, name) for name in ("image_advantage", "text_advantage")}
        return dataclasses.replace(made, **worth), metrics | {"advantage/mine": 1.0}

    records = []
    state, metrics = _recipe(suite, credit=opposite, record=records.append).step(tiny_world.state(), tiny_world.samples(), 0)
    np.testing.assert_array_equal(records[0].credits[0].image_advantage, -done[2][0].credits[0].image_advantage)
    assert metrics["advantage/mine"] == 1.0
    ways = [jax.tree.map(lambda a, b: a - b, moved.trainable, tiny_world.moved().trainable) for moved in (state, done[0])]
    assert optax.tree.vdot(*ways) < 0


def test_the_first_update_has_ratio_one(done):
    _, metrics, _ = done
    assert metrics["image/first_log_ratio_max"] < 1e-5 and metrics["intent/first_log_ratio_max"] < 1e-5


def test_steps_play_anew(suite, done):
    records = []
    _recipe(suite, record=records.append).step(tiny_world.state(), tiny_world.samples(), 1)
    assert not np.array_equal(records[0].rollouts[0].pictures, done[2][0].rollouts[0].pictures)


def _disagreeing(images: float = 0.0, words: float = 0.0):
    """An updater that sees other log-probabilities than the sampler."""
    other = copy.copy(tiny_world.updater())
    ask = other.ask_again
    other.ask_again = lambda *given, **how: tuple(x + gap for x, gap in zip(ask(*given, **how), (images, words), strict=True))
    return other


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        ({"images": 1e-3}, r"image log-probabilities differ from the loss's by up to 0.001\d* \(limit 0.0001\)"),
        ({"words": 0.01}, r"intent log-probabilities differ .* by up to 0.01\d* \(limit 0.001\)"),
        ({"images": float("nan")}, "image log-probabilities differ .* nan"),
    ],
)
def test_a_sampler_that_disagrees_with_the_loss_is_refused_before_anything_is_learned(suite, gaps, message):
    recipe, state = _recipe(suite, updater=_disagreeing(**gaps), first_step=2), tiny_world.state()
    with pytest.raises(RatioError, match=message):
        recipe.step(state, tiny_world.samples(), 2)
    tiny_world.assert_close(state.trainable, tiny_world.moved().trainable)


def test_only_the_first_step_of_a_process_is_checked(suite):
    recipe = _recipe(suite, updater=_disagreeing(words=0.01), first_step=2)
    _, metrics = recipe.step(tiny_world.state(), tiny_world.samples(), 3)
    assert "intent/sampler_log_ratio_max" not in metrics  # nor at the first: a run that is resumed reports what a whole one does
    assert 0 <= metrics["intent/first_log_ratio_max"] < 1e-3, "with one update a step, it learns against the sampler's own"


def test_a_step_is_written_down_for_the_inspector(done, tmp_path):
    (record,) = done[2]
    session_log.write(tmp_path, record.step, record.rollouts[0], record.scores[0], record.credits[0], groups=1)
    told = json.loads((tmp_path / "rollouts.json").read_text())
    (group,) = told["groups"]
    assert told["step"] == 0 and group["session"]["id"] == "s5" and len(group["rollouts"]) == 2
    for r, rollout in enumerate(group["rollouts"]):
        for t, turn in enumerate(rollout["turns"]):
            assert (tmp_path / turn["picture"]).is_file()
            assert turn["intent"] == record.rollouts[0].intents[r][t] and set(turn["scores"]) == {"if", "cc"}
            assert turn["text_learns"] == bool(t and record.credits[0].text_mask[r, t])


def test_a_step_that_waits_for_its_judges_can_be_stopped():
    """Asked after every turn, then while it waits; what learns is as it was."""
    let, asks, state = threading.Event(), iter([False] * tiny_world.TURNS + [True]), tiny_world.state()
    thinking = Scripted("if", lambda picture: float(let.wait(60)))
    with Suite([thinking], {"if": 1.0}, workers=1) as suite:
        with pytest.raises(Interrupted, match="verdicts had come"):
            _recipe(suite, should_stop=lambda: next(asks), first_step=9).step(state, tiny_world.samples(), 0)
        let.set()
    tiny_world.assert_close(state.trainable, tiny_world.moved().trainable)


# Batches ---------------------------------------------------------------------------------------------------------------------------


def _groups(*shapes_and_sizes) -> list[Sample]:
    """A group per (height, turns, members)."""
    made = []
    for number, (height, turns, members) in enumerate(shapes_and_sizes):
        session = Session(id=str(number), image="", turns=tuple(tiny_world.turn("x") for _ in range(turns)))
        made += [Sample(session=session, picture=np.zeros((height, 8, 3), np.uint8), group=number, member=m) for m in range(members)]
    return made


@given(st.lists(st.tuples(st.sampled_from([8, 16]), st.integers(1, 3), st.just(2)), min_size=1, max_size=8), st.integers(2, 7))
def test_batches_hold_whole_groups_of_one_shape(groups, rows):
    sessions = _groups(*groups)
    batches = edit_r2.batches(sessions, turns=2, rows=rows)
    places = [(sample.group, sample.member) for sample in itertools.chain(*batches)]
    assert sorted(places) == [(sample.group, sample.member) for sample in sessions]
    for batch in batches:
        assert 0 < len(batch) <= rows
        assert len({(sample.picture.shape, min(2, len(sample.session.turns))) for sample in batch}) == 1
        members = [(sample.group, sample.member) for sample in batch]
        assert members == sorted(members) and len(members) == 2 * len({group for group, _ in members})


def test_sessions_that_differ_beyond_the_turns_played_share_a_batch():
    assert [len(batch) for batch in edit_r2.batches(_groups((8, 2, 2), (8, 3, 2)), turns=2, rows=4)] == [4]
    assert [len(batch) for batch in edit_r2.batches(_groups((8, 2, 2), (8, 3, 2)), turns=3, rows=4)] == [2, 2]


def test_a_group_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a group has 3 rollouts but a batch holds 2; set step.rows to a multiple of the group size"):
        edit_r2.batches(_groups((8, 1, 3)), turns=1, rows=2)


def test_batches_are_dealt_to_updates_in_turn():
    assert edit_r2._deal("abcde", 2) == [["a", "c", "e"], ["b", "d"]]
    with pytest.raises(ValueError, match=re.escape("1 batches cannot feed 2 updates a step; lower step.rows or step.updates")):
        edit_r2._deal("a", 2)


@pytest.mark.slow
def test_a_step_of_several_batches_and_updates(suite):
    records = []
    recipe = _recipe(suite, config=StepConfig(rows=2, updates=2), record=records.append)
    state, metrics = recipe.step(tiny_world.state(), tiny_world.samples(), 0)
    assert [len(rollout.samples) for rollout in records[0].rollouts] == [2, 2]
    assert metrics["image/first_log_ratio_max"] < 1e-5 < metrics["image/log_ratio_max"]
    together, _ = _recipe(suite).step(tiny_world.state(), tiny_world.samples(), 0)
    assert dataclasses.asdict(records[0].credits[0])["image_advantage"].shape == (2, tiny_world.TURNS)
    assert jax.tree.structure(state.trainable) == jax.tree.structure(together.trainable)
