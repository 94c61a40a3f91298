import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_world
from flax import nnx

from editr2_jax.models import network
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.joint_objective import ObjectiveConfig
from editr2_jax.training import state as states
from editr2_jax.training import update
from editr2_jax.training.state import NonFiniteLoss
from editr2_jax.training.train_batch import Credit
from editr2_jax.training.update import Chunk, Updater

KEY = jax.random.key(4)
ROWS, TURNS = 4, tiny_world.TURNS
OFF, ON = np.zeros((ROWS, TURNS), bool), np.ones((ROWS, TURNS), bool)


def _chunk(advantage=1.0, *, image=ON, text=ON) -> Chunk:
    worth = np.full((ROWS, TURNS), advantage, np.float32)
    why = np.full((ROWS, TURNS), "")
    credit = Credit(image_advantage=worth, text_advantage=worth, image_mask=image, text_mask=text, reward=worth, why=why)
    return _of_rollout(credit)


def _of_rollout(credit: Credit) -> Chunk:
    samples = tiny_world.rollout().samples
    numbers = {name: np.asarray([getattr(sample, name) for sample in samples], np.uint32) for name in ("group", "member")}
    return Chunk(played=tiny_world.rollout().played, credit=credit, **numbers)


def _step(state, *updates):
    """One step in which every update learns from one chunk, against the log-probabilities of the weights that played."""
    old = {id(chunk): tiny_world.asked() for chunk in updates}
    return tiny_world.updater().step(state, tiny_world.moved().frozen, [[chunk] for chunk in updates], old=old, key=KEY)[:2]


def _gain(state) -> tuple[float, float]:
    """How much likelier what was drawn and written has become: means over steps, and over tokens."""
    weights = dataclasses.replace(tiny_world.moved(), trainable=state.trainable)
    (image, text), (old_image, old_text) = tiny_world.updater().ask_again(weights, tiny_world.rollout().played), tiny_world.asked()
    tokens = int(tiny_world.rollout().played.intent_count.sum())
    return float(np.mean(image - old_image)), float(np.sum(text - old_text)) / tokens


@pytest.mark.slow
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("area", ["image", "text"])
def test_one_update_makes_what_was_worth_it_likelier_and_the_rest_less_likely(area, advantage):
    masks = {"image": OFF, "text": OFF} | {area: ON}
    state, _ = _step(tiny_world.state(), _chunk(advantage, **masks))
    gain = _gain(state)[0 if area == "image" else 1]
    assert np.sign(gain) == advantage and abs(gain) > 1e-4


@pytest.mark.slow
def test_the_slope_is_what_a_step_follows_and_leaves_the_weights_alone():
    """Rows that are masked add nothing to it, so the slopes of two halves of the rollouts add up."""
    first_two = ON & (np.arange(ROWS) < 2)[:, None]
    halves = [_chunk(image=mask, text=mask) for mask in (first_two, ~first_two)]
    slopes = []
    for chunk in (_chunk(), *halves):
        slopes.append(tiny_world.updater().slope(tiny_world.moved(), [chunk], old={id(chunk): tiny_world.asked()}, key=KEY))
    whole, first, second = slopes
    _, metrics = _step(tiny_world.state(), _chunk())
    assert (whole.loss, float(optax.tree.norm(whole.gradient))) == pytest.approx(
        (metrics["loss/total"], metrics["optimizer/gradient_norm"]), rel=1e-5
    )
    tiny_world.assert_close(whole.gradient, jax.tree.map(jnp.add, first.gradient, second.gradient), atol=1e-5)


@pytest.mark.slow
def test_a_step_tells_its_loss_its_ratios_and_the_size_of_its_update():
    state, metrics = _step(tiny_world.state(), _chunk())
    assert int(state.step) == 0  # counted by the loop
    for name in ("image/surrogate", "intent/surrogate"):
        assert metrics[name] == pytest.approx(-1, abs=1e-3)
    assert metrics["image/first_log_ratio_max"] < 1e-5 and metrics["intent/first_log_ratio_max"] < 1e-5
    assert metrics["optimizer/gradient_norm"] > 0 and metrics["optimizer/update_norm"] > 0
    assert {name for name in metrics if name.startswith("image/")} == {
        f"image/{name}"
        for name in (
            "surrogate",
            "ratio",
            "clip_fraction_low",
            "clip_fraction_high",
            "log_ratio_mean",
            "log_ratio_max",
            "first_log_ratio_max",
            "kl",
            "kl_latent",
            "kl_exact",
            "kl_velocity",
        )  # fmt: skip
    }


@pytest.mark.slow
def test_later_updates_of_a_step_are_off_policy_and_the_first_is_not():
    _, metrics = _step(tiny_world.state(), _chunk(), _chunk())
    for area in ("image", "intent"):
        assert metrics[f"{area}/first_log_ratio_max"] < 1e-5 < 1e-4 < metrics[f"{area}/log_ratio_max"]
    assert metrics["image/clip_fraction_high"] > 0.25  # of the second update, averaged with the first


@pytest.mark.slow
def test_chunks_of_one_update_add_up_to_one_update():
    """The rollouts in two halves of the credit, in one update, against all of them at once."""
    half = np.arange(ROWS)[:, None] < 2
    one, _ = _step(tiny_world.state(), _chunk())
    halves = [_chunk(image=half & ON, text=half & ON), _chunk(image=~half & ON, text=~half & ON)]
    old = {id(chunk): tiny_world.asked() for chunk in halves}
    two, metrics, _ = tiny_world.updater().step(tiny_world.state(), tiny_world.moved().frozen, [halves], old=old, key=KEY)
    assert metrics["image/surrogate"] == pytest.approx(-1, abs=1e-3)  # a mean over what counted in either
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b), one.trainable, two.trainable)
    # Adam's first update is the sign of the gradient, so a few numbers whose gradient is rounding alone may differ.
    assert float(jnp.mean(jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(gap)]) > 1e-4)) < 0.01


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_naming_step_and_term():
    state = dataclasses.replace(tiny_world.state(), step=jnp.asarray(7, jnp.int32))
    poisoned = state.trainable["decoder"]["layers"]["gen"]["q"]["lora_b"]
    poisoned[...] = jnp.full_like(poisoned[...], jnp.nan)
    kept = jax.tree.map(np.asarray, state.trainable)
    with pytest.raises(NonFiniteLoss, match=r"step 7, update 0: .*loss/total = nan.*image/surrogate = nan"):
        _step(state, _chunk())
    tiny_world.assert_close(state.trainable, kept)  # nothing was given away


def test_a_lesson_takes_the_chunk_s_own_turns():
    """Credit of a step is as wide as its longest session."""
    wide = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    credit = Credit(
        image_advantage=wide, text_advantage=wide + 1, image_mask=wide > 5, text_mask=wide > 7, reward=wide, why=np.full(wide.shape, "")
    )
    given = update.lesson(_of_rollout(credit), *tiny_world.asked(), np.ones((ROWS, TURNS), np.float32), key=KEY)
    np.testing.assert_array_equal(given.image_advantage, wide[:, :TURNS])
    np.testing.assert_array_equal(given.text_advantage, wide[:, :TURNS] + 1)
    np.testing.assert_array_equal(given.image_mask, wide[:, :TURNS] > 5)
    np.testing.assert_array_equal(given.text_mask, wide[:, :TURNS] > 7)


def test_full_training_refuses_a_divergence_from_a_reference_it_does_not_have():
    net, trainable, frozen = network.whole(nnx.clone(tiny_world.world_model()), ("latent",))
    optimizer = tiny_world.updater().optimizer
    updater = tiny_world.quickly(Updater, net, ObjectiveConfig(), tiny_world.POLICY, optimizer)
    chunk = _chunk()
    with pytest.raises(ValueError, match="full training has no adapter to switch off.*set objective.image.kl_weight to 0 or train=lora"):
        updater.step(states.create(trainable, optimizer), frozen, [[chunk]], old={id(chunk): tiny_world.asked()}, key=KEY)


def test_metrics_of_a_step_s_updates_are_means_and_maxima():
    first = {"loss/total": 1.0, "image/log_ratio_max": 0.0}
    second = {"loss/total": 3.0, "image/log_ratio_max": 0.5}
    assert update._over_updates([first, second]) == {"loss/total": 2.0, "image/log_ratio_max": 0.5, "image/first_log_ratio_max": 0.0}


def _pretended(tokens, slots: int = 4):
    """A chunk of which nothing but its shape and its teaching tokens [B, T] is looked at."""
    rows, turns = np.shape(tokens)
    played = types.SimpleNamespace(intent=np.zeros((rows, turns, slots)), step=np.zeros((rows, turns, 1)))
    return types.SimpleNamespace(tokens=np.array(tokens), rows=rows, turns=turns, played=played)


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("sequence_mean", [[1 / 3], [0], [1], [1 / 2]]),
        ("token_mean", [[4 / 6], [0], [4 / 6], [4 / 6]]),  # every token weighs one of all six, wherever it stands
        ("sum_nonempty", [[4 / 3], [0], [4 / 3], [4 / 3]]),
        ("max_length", [[1 / 4], [0], [1 / 4], [1 / 4]]),
    ],
)
def test_rows_of_which_no_token_teaches_count_among_the_rows_of_a_reduction(reduction, weights):
    config = ObjectiveConfig(intent=IntentObjectiveConfig(reduction=reduction))
    owner = types.SimpleNamespace(objective=config)
    first, second = Updater._token_weights(owner, [_pretended([[0, 3], [0, 0]]), _pretended([[0, 1], [0, 2]])])
    given = np.concatenate([first, second])
    np.testing.assert_allclose(given[:, 1:] * (np.array(weights) > 0), weights, rtol=1e-6)
    assert not given[:, 0].any(), "turn 0 has no words"


def test_a_turn_of_a_short_session_weighs_as_much_as_one_of_a_long_session(monkeypatch):
    """A pass divides by rollouts times its own turns: both are told so many rollouts that all turns of the update are counted once."""
    monkeypatch.setattr(update, "lesson", lambda *_, **__: None)
    divided_by = []

    def gradients(weights, behaviour, played, taught, rollouts):
        divided_by.append(float(rollouts) * played.step.shape[1])
        return {"w": jnp.zeros(())}, 0.0, {}

    chunks = [_pretended(np.ones((2, 1))), _pretended(np.ones((4, 3)))]
    owner = types.SimpleNamespace(objective=ObjectiveConfig(), _gradients=gradients, _token_weights=lambda chunks: [None] * len(chunks))
    Updater.slope(owner, None, chunks, old={id(chunk): (None, None) for chunk in chunks}, key=KEY)
    assert divided_by == pytest.approx([2 * 1 + 4 * 3] * 2)
