import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from tiny_world import gradients, lesson, size_of, with_played

from editr2_jax.objectives import joint_objective
from editr2_jax.objectives.image import grpo as image_grpo
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent import grpo as intent_grpo
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.joint_objective import ObjectiveConfig

pytestmark = pytest.mark.slow  # compiles the whole objective

ROWS, TURNS, WINDOW = 4, tiny_world.TURNS, tiny_world.WINDOW.size
OFF, ON = np.zeros((ROWS, TURNS), bool), np.ones((ROWS, TURNS), bool)
CLIP = 1e-5  # of both terms


def _mask(*places) -> np.ndarray:
    """True at some (row, turn)."""
    mask = OFF.copy()
    for place in places:
        mask[place] = True
    return mask


def _means(metrics) -> dict[str, float]:
    return joint_objective.summarise([metrics])


def test_the_loss_at_ratio_one_is_the_formula():
    """-A per stochastic step, A clipped at 5 for pictures; -A once per later turn for words; over rollouts, turns and steps."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(0, 4, (2, ROWS, TURNS)).astype(np.float32)
    image_mask, text_mask = rng.random((2, ROWS, TURNS)) < 0.6
    given = lesson(image_advantage=image, text_advantage=text, image_mask=image_mask, text_mask=text_mask)
    _, loss, metrics = gradients(given, rollouts=10.0)
    pictures = -np.clip(image, -5, 5)[image_mask].sum() * WINDOW
    words = -text[:, 1:][text_mask[:, 1:]].sum()
    kl = 0.01 * float(metrics["image/kl"])  # of a moved adapter; its own value is tested where it is made
    np.testing.assert_allclose(loss, (pictures + kl + words) / (10 * TURNS * WINDOW), rtol=1e-4)
    means = _means(metrics)
    assert means["image/ratio"] == pytest.approx(1, abs=1e-5) and means["intent/ratio"] == pytest.approx(1, abs=1e-5)
    assert float(metrics["image/count"]) == image_mask.sum() * WINDOW
    assert float(metrics["intent/count"]) == sum(np.asarray(tiny_world.rollout().played.intent_count)[text_mask[:, 1], 1])


def _whole(trainable, frozen, given, objective, reference=None):
    """Gradients, loss and metrics of an objective over the rollout."""
    return joint_objective.gradients(
        lambda trainable: tiny_world.net().policy(trainable, frozen), trainable, reference, tiny_world.rollout().played, given,
        rollouts=float(ROWS), objective=objective, policy=tiny_world.POLICY,
    )  # fmt: skip


def test_the_gradient_made_pass_by_pass_is_that_of_the_loss():
    weights, given = tiny_world.moved(), lesson()
    wide = ObjectiveConfig(
        image=ImageObjectiveConfig(settings=image_grpo.Config(clip_low=0.2, clip_high=0.2)),
        intent=IntentObjectiveConfig(settings=intent_grpo.Config(clip_low=0.2, clip_high=0.2)),
    )  # at ratio one a narrow clip cuts what rounding decides

    def run(trainable, frozen):
        return _whole(trainable, frozen, given, wide, tiny_world.net().reference(frozen))[:2]

    by_pass, total = tiny_world.jit(run)(weights.trainable, weights.frozen)
    value, grad = tiny_world.jit(jax.value_and_grad(lambda *args: run(*args)[1]))(weights.trainable, weights.frozen)
    np.testing.assert_allclose(value, total, rtol=1e-5, atol=1e-6)
    tiny_world.assert_close(by_pass, grad, atol=1e-5 * size_of(grad))


def test_a_lesson_without_turns_teaches_nothing_at_all():
    grad, loss, _ = gradients(lesson(image_mask=OFF, text_mask=OFF))
    assert size_of(grad) == 0 and float(loss) == 0


def _spoilt(x, rows):
    """NaN in some rows."""
    return jnp.where(rows.reshape(-1, *(1,) * (x.ndim - 1)), np.float32(np.nan), x)


@pytest.mark.parametrize("what", ["image_log_prob", "intent_log_prob", "image_advantage", "text_advantage", "x", "x_next"])
def test_what_a_masked_row_holds_does_not_matter_even_if_it_is_no_number(what):
    rows = np.array([False, True, False, True])
    clean = lesson(image_mask=~rows[:, None] & ON, text_mask=~rows[:, None] & ON)
    spoilt, played = clean, tiny_world.rollout().played
    if what in ("x", "x_next"):
        played = with_played(**{what: _spoilt(getattr(played, what), rows)})
    else:
        spoilt = dataclasses.replace(clean, **{what: _spoilt(getattr(clean, what), rows)})
    tiny_world.assert_close(gradients(spoilt, played=played), gradients(clean), atol=0, rtol=0)


def test_turn_0_has_no_words_to_learn_from():
    grad, loss, metrics = gradients(lesson(image_mask=OFF, text_mask=_mask((slice(None), 0))))
    assert size_of(grad) == 0 and float(loss) == 0 and float(metrics["intent/count"]) == 0


def test_an_empty_intent_teaches_nothing_and_breaks_nothing():
    played = with_played(intent_count=tiny_world.rollout().played.intent_count.at[2, 1].set(0))
    grad, loss, _ = gradients(lesson(image_mask=OFF, text_mask=_mask((2, 1))), played=played)
    assert size_of(grad) == 0 and float(loss) == 0
    one, loss, _ = gradients(lesson(image_mask=OFF, text_mask=_mask((1, 1), (2, 1))), played=played)
    other, _, _ = gradients(lesson(image_mask=OFF, text_mask=_mask((1, 1))))
    assert np.isfinite(float(loss)) and size_of(one) > 0
    tiny_world.assert_close(one, other, atol=1e-7)


def test_rows_add_up():
    """Gradients of any partition of the rows sum to the gradient of all, because every part divides by the whole update's rollouts."""
    whole, loss, metrics = gradients(lesson())
    parts = [gradients(lesson(image_mask=mask, text_mask=mask)) for mask in (_mask(0, 2), _mask(1), _mask(3))]
    tiny_world.assert_close(jax.tree.map(lambda *xs: sum(xs), *(grad for grad, *_ in parts)), whole, atol=1e-5 * size_of(whole))
    np.testing.assert_allclose(sum(float(part) for _, part, _ in parts), loss, rtol=1e-5)
    together = joint_objective.summarise([part for *_, part in parts])
    for name, value in joint_objective.summarise([metrics]).items():
        assert together[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_pictures_and_words_add_up():
    whole, *_ = gradients(lesson())
    pictures, words = gradients(lesson(text_mask=OFF))[0], gradients(lesson(image_mask=OFF))[0]
    tiny_world.assert_close(jax.tree.map(jnp.add, pictures, words), whole, atol=1e-5 * size_of(whole))
    assert size_of(pictures) > 0 and size_of(words) > 0


def test_words_teach_the_writing_expert_alone_and_pictures_mostly_the_drawing_one():
    """Words are asked for against contexts that receive no gradient; of a picture's tokens two markers are not latents."""
    words = gradients(lesson(image_mask=OFF))[0]["decoder"]["layers"]
    assert size_of(words["gen"]) == 0 and size_of(words["und"]) > 0
    pictures = gradients(lesson(text_mask=OFF))[0]["decoder"]["layers"]
    assert size_of(pictures["gen"]) > size_of(pictures["und"]) > 0


def test_a_fresh_adapter_has_not_left_the_reference():
    _, _, metrics = gradients(lesson(), weights=tiny_world.fresh())
    assert abs(float(metrics["image/kl"])) < 1e-10
    assert float(gradients(lesson())[2]["image/kl"]) > 1e-3  # the moved one has


def test_kl_alone_pulls_back_to_the_reference():
    """Without advantage nothing but the KL is left: its gradient shrinks it."""
    nothing = lesson(advantage=0.0, text_mask=OFF)
    grad, loss, before = gradients(nothing)
    assert float(loss) == pytest.approx(0.01 * float(before["image/kl"]) / (ROWS * TURNS * WINDOW), rel=1e-4)
    there = tiny_world.moved()
    stepped = dataclasses.replace(there, trainable=jax.tree.map(lambda w, g: w - 0.1 * g / size_of(grad), there.trainable, grad))
    assert float(gradients(nothing, weights=stepped)[2]["image/kl"]) < float(before["image/kl"])


@pytest.mark.parametrize("gap", [10 * CLIP, -10 * CLIP])
def test_ratios_beyond_the_clip_are_counted(gap):
    """Old log-probabilities moved by a known gap in one row: its ratios are exp(gap)."""
    image, text = (x.copy() for x in tiny_world.asked())
    image[1], text[1] = image[1] - gap, text[1] - gap
    _, _, metrics = gradients(lesson(image_log_prob=image, intent_log_prob=text))
    means, count = _means(metrics), np.asarray(tiny_world.rollout().played.intent_count)[:, 1]
    high, low = ("high", "low") if gap > 0 else ("low", "high")
    assert means[f"image/clip_fraction_{high}"] == pytest.approx(1 / ROWS) and means[f"image/clip_fraction_{low}"] == 0
    assert means[f"intent/clip_fraction_{high}"] == pytest.approx(count[1] / count.sum())
    assert means["image/log_ratio_max"] == pytest.approx(abs(gap), rel=0.02)
    assert means["intent/log_ratio_max"] == pytest.approx(abs(gap), rel=0.2)


@pytest.mark.parametrize(("advantage", "gap"), [(1.0, 0.01), (-1.0, -0.01)])
def test_beyond_the_clip_there_is_nothing_more_to_gain(advantage, gap):
    """The policy has already moved where the advantage points: only the KL, zero here, would be left."""
    weights = tiny_world.fresh()
    now = jax.tree.map(np.asarray, tiny_world.updater().ask_again(weights, tiny_world.rollout().played))
    grad, *_ = gradients(lesson(advantage, image_log_prob=now[0] - gap, intent_log_prob=now[1] - gap), weights=weights)
    assert size_of(grad) < 1e-9
    grad, *_ = gradients(lesson(-advantage, image_log_prob=now[0] - gap, intent_log_prob=now[1] - gap), weights=weights)
    assert size_of(grad) > 1e-4  # on the way back the gradient is alive


def _traced(**objective):
    """Metrics of an objective, traced and not computed."""
    weights, given = tiny_world.moved(), lesson()  # made outside: nothing can be compiled inside
    return jax.eval_shape(lambda: _whole(weights.trainable, weights.frozen, given, ObjectiveConfig(**objective)))[2]


@pytest.mark.parametrize(
    ("objective", "areas"),
    [
        ({"image": ImageObjectiveConfig(weight=0.0)}, {"intent"}),
        ({"image": ImageObjectiveConfig(kl_weight=0.0), "intent": IntentObjectiveConfig(weight=0.0)}, {"image"}),
    ],
)
def test_a_term_without_weight_is_not_computed(objective, areas):
    metrics = _traced(**objective)
    assert {name.split("/")[0] for name in metrics} == areas
    assert "image/kl" not in metrics  # there is no reference here, and none is needed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "masks"),
    [
        (ObjectiveConfig(image=ImageObjectiveConfig(weight=0.0)), {"image_mask": OFF}),
        (ObjectiveConfig(intent=IntentObjectiveConfig(weight=0.0)), {"text_mask": OFF}),
    ],
)
def test_a_term_without_weight_leaves_the_other_as_it_is(objective, masks):
    def other(trainable, frozen, given):
        return _whole(trainable, frozen, given, objective, tiny_world.net().reference(frozen) if objective.image.weight else None)

    weights = tiny_world.moved()
    expected, value, _ = gradients(lesson(**masks))
    grad, ours, _ = tiny_world.jit(other)(weights.trainable, weights.frozen, lesson())
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    tiny_world.assert_close(grad, expected, atol=1e-5 * size_of(expected))


@pytest.mark.slow
def test_two_chunks_of_an_update_equal_one_chunk_of_all_rows():
    cut = lambda tree, a, b: jax.tree.map(lambda x: x[a:b], tree)  # noqa: E731
    played = tiny_world.rollout().played
    script = dataclasses.replace(played.script, source=jnp.repeat(played.script.source, 2, axis=0))  # a source per row, to be cut too
    played = dataclasses.replace(played, script=script)
    # Old log-probabilities far from the clip's edges: at ratio one, rounding decides which side of a width of 1e-5 a token is on.
    taught = dataclasses.replace(lesson(), image_log_prob=lesson().image_log_prob + 1e-3, intent_log_prob=lesson().intent_log_prob + 1e-3)
    whole, loss, _ = gradients(taught)
    parts = [gradients(cut(taught, a, a + 2), played=cut(played, a, a + 2), rollouts=4.0) for a in (0, 2)]
    tiny_world.assert_close(jax.tree.map(jnp.add, parts[0][0], parts[1][0]), whole, atol=1e-4 * size_of(whole))
    np.testing.assert_allclose(float(parts[0][1]) + float(parts[1][1]), loss, rtol=1e-4)
