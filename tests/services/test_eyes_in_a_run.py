"""Detector and features as a config names them, and a run that looks through them."""

import collections

import dinov3_cases
import numpy as np
import pytest
import tiny_eyes
from small_checkpoint import CONFIG, call

from editr2_jax import judging, presets, resuming
from editr2_jax.records import Episode
from editr2_jax.runtime import metrics
from editr2_jax.tabletop import perception, world


def config(**rewards):
    made = presets.tabletop(presets.edit_r2())
    made.rewards.update(use=("cc",), **rewards)
    return made


def identity():
    """An episode whose output is its source."""
    session, source, _ = world.make_session("train", 0, 1, turns=1, subset="memory", size=(48, 48))
    return [[Episode(session=session, pictures=(source, source))]]


class Counting(perception.TabletopDetector):
    """In Grounding DINO's place; `asked`: the questions of the one that was made last."""

    asked = None

    def __init__(self, folder, **_):
        super().__init__()
        Counting.asked = collections.Counter()

    def detect(self, picture, phrases):
        self.asked[picture.tobytes(), tuple(phrases)] += 1
        return super().detect(picture, phrases)


def rollouts(*, group, turns):
    """The episodes of a group after each turn: one source picture, and outputs that no two rollouts share."""
    session, source, targets = world.make_session("train", 0, 1, turns=turns, subset="memory", size=(48, 48))
    drawn = [[np.roll(target, row, 0) for target in targets] for row in range(group)]
    return [[Episode(session=session, pictures=(source, *row[: t + 1])) for row in drawn] for t in range(turns)]


@pytest.mark.parametrize("arithmetic", ["fixed", "edit_r2"])
def test_a_group_over_turns_asks_the_detector_in_process_each_question_once(monkeypatch, tmp_path, arithmetic):
    monkeypatch.setattr(judging, "GroundingDino", Counting)
    (tmp_path / "config.json").write_text("{}")
    made = config(features="dinov3", dinov3={"folder": str(dinov3_cases.FOLDER / "plain")}, arithmetic=arithmetic)
    made.rewards.use, turns = ("if", "cc"), rollouts(group=6, turns=3)
    with judging.suite(made, whole=None) as suite:
        plain = suite.score(turns)
        assert suite.counted() == {}
    made.rewards.update(detector="grounding_dino", grounding_dino={"folder": str(tmp_path)})
    with judging.suite(made, whole=None) as suite:
        scores, counted = suite.score(turns), suite.counted()
        assert repr(suite.score(turns).verdicts) == repr(scores.verdicts) and suite.counted()["detector/cache_misses"] == 0
    assert repr(scores.verdicts) == repr(plain.verdicts) and scores.error_share == 0
    assert set(Counting.asked.values()) == {1} and counted["detector/cache_misses"] == len(Counting.asked)
    source = turns[0][0].pictures[0].tobytes()
    of_source = sum(shown == source for shown, _ in Counting.asked)
    assert of_source and counted["detector/cache_hits"] >= 5 * of_source  # each of the six rollouts asks about it


def told(made) -> str:
    with pytest.raises(ValueError) as caught:
        judging.suite(made, whole=None)
    return str(caught.value)


@pytest.mark.parametrize("arithmetic", ["fixed", "edit_r2", "edival"])
def test_the_same_picture_is_consistent_with_itself_seen_by_dinov3(arithmetic):
    made = config(features="dinov3", dinov3={"folder": str(dinov3_cases.FOLDER / "plain")}, arithmetic=arithmetic)
    with judging.suite(made, whole=None) as suite:
        ((verdict,),) = suite.score(identity()).verdicts["cc"]
    assert verdict.value == pytest.approx(1.0, abs=1e-5) and {"object", "background"} <= set(verdict.detail)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"features": "dinov3"}, "rewards.dinov3.folder is empty; give the folder of a DINOv3 checkpoint"),
        ({"features": "dinov3_torch"}, "rewards.dinov3.folder is empty"),
        ({"features": "dinov3", "dinov3": {"folder": "/nowhere"}}, "rewards.dinov3.folder: /nowhere holds no config.json"),
        ({"features": "dinov3", "dinov3": {"folder": str(dinov3_cases.FOLDER / "plain"), "size": 30}}, "multiples of 4, such as 32x32"),
        ({"detector": "grounding_dino"}, "rewards.grounding_dino.folder is empty"),
        ({"detector": "grounding_dino", "grounding_dino": {"folder": "/nowhere"}}, "/nowhere holds no config.json"),
        ({"detector": "grounding_dion"}, "did you mean 'grounding_dino'"),
        ({"features": "dinov2"}, "did you mean 'dinov3'"),
    ],
)
def test_eyes_that_are_not_there_are_refused_by_setting(rewards, message):
    assert message in told(config(**rewards))


def test_eyes_that_are_not_used_do_not_matter_to_verdicts():
    plain, moved = config(), config(dinov3={"folder": "/elsewhere"}, grounding_dino={"threshold": 0.3})
    assert resuming.judging(plain) == resuming.judging(moved)
    plain.rewards.features = moved.rewards.features = "dinov3"
    assert resuming.judging(plain) != resuming.judging(moved)
    other_device = config(features="dinov3", dinov3={"device": "cuda"})
    assert resuming.judging(plain) == resuming.judging(other_device)


@pytest.mark.parity
@pytest.mark.slow
def test_a_run_looks_through_grounding_dino_and_dinov3(small_checkpoint, compiled_once, tmp_path):
    pytest.importorskip("torch")
    eyes = tiny_eyes.grounding_dino(tmp_path / "grounding_dino")
    settings = {
        "model.checkpoint": small_checkpoint, "loop.steps": 1, "loop.record_every": 1, "advantage.filter": "off",
        "rewards.use": "if,cc", "rewards.detector": "grounding_dino", "rewards.grounding_dino.folder": eyes,
        "rewards.features": "dinov3", "rewards.dinov3.folder": dinov3_cases.FOLDER / "plain", "doctor.before": False,
    }  # fmt: skip
    done = call("train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *(f"--config.{k}={v}" for k, v in settings.items()))
    assert done.status == 0, done.err
    (learned,) = metrics.read(tmp_path / "run")
    assert 0 < learned["reward/cc/mean"] <= 1 and learned["reward/error_share"] == 0
