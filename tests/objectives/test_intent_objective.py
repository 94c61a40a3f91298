import jax
import jax.numpy as jnp
import numpy as np
import points_by_hand as by_hand
import pytest

from editr2_jax.objectives import intent_objective
from editr2_jax.objectives.intent import grpo, gspo_token, rwr
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.rl import divergence, reductions

MASK = np.array([[True] * 4, [True, False, False, False]])


def _terms(tokens, *, reference=None, reduction="sequence_mean", **config):
    weights = reductions.row_weights(MASK.sum(1), reduction=reduction, slots=4)
    weight = jnp.broadcast_to(jnp.asarray(weights, jnp.float32)[:, None], MASK.shape)
    return intent_objective.terms(tokens, weight, reference, IntentObjectiveConfig(reduction=reduction, **config))


def test_a_long_intent_weighs_as_much_as_a_short_one():
    """At ratio one every token's loss is -A, whatever the length; the advantage is not clipped unless asked."""
    tokens = by_hand.tokens([7.0, -2.0], mask=MASK)
    np.testing.assert_allclose(_terms(tokens)[0], [-7, 2], rtol=1e-6)
    np.testing.assert_allclose(_terms(tokens, settings=grpo.Config(advantage_clip=5.0))[0], [-5, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"), [("token_mean", [-4 * 2 / 5, -1 * 2 / 5]), ("max_length", [-1, -1 / 4]), ("sum", [-4, -1])]
)
def test_other_reductions_weigh_tokens(reduction, expected):
    np.testing.assert_allclose(_terms(by_hand.tokens([1.0, 1.0], mask=MASK), reduction=reduction)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["k2", "k3"])
def test_the_divergence_joins_every_token_and_all_three_are_told(form):
    tokens = by_hand.tokens([0.0, 0.0], mask=MASK)
    reference = tokens.old_log_prob - 0.3
    value, told = _terms(tokens, reference=reference, kl=form, kl_weight=2.0)
    per_token = getattr(divergence, form)(tokens.log_prob, reference)[0, 0]
    np.testing.assert_allclose(value, [2 * per_token] * 2, rtol=1e-4)
    np.testing.assert_allclose(told["k1"][0], 0.3, rtol=1e-5)
    assert set(told) >= {"k1", "k2", "k3"}


def test_an_empty_intent_has_loss_0_and_gradient_0():
    nothing = np.zeros((2, 4), bool)

    def total(log_prob):
        tokens = by_hand.tokens([1.0, -1.0], log_prob=log_prob, old=jnp.full((2, 4), jnp.nan), mask=nothing)
        return intent_objective.terms(tokens, jnp.ones((2, 4)), jnp.full((2, 4), jnp.nan), IntentObjectiveConfig(kl_weight=1.0))[0].sum()

    value, gradient = jax.value_and_grad(total)(jnp.zeros((2, 4)))
    assert value == 0 and not gradient.any()


def test_gspo_s_ratio_is_one_number_per_intent():
    tokens = by_hand.tokens([1.0, 1.0], mask=MASK)
    moved = by_hand.tokens([1.0, 1.0], log_prob=tokens.old_log_prob + jnp.array([0.1, -0.1, 0.2, 0.2]), old=tokens.old_log_prob, mask=MASK)
    ratio = gspo_token.loss(moved, gspo_token.Config()).statistics["ratio"]
    np.testing.assert_allclose(ratio[0], np.exp(0.1), rtol=1e-5)
    np.testing.assert_allclose(ratio[1, 0], np.exp(0.1), rtol=1e-5)


def test_settings_that_cannot_be_are_refused():
    for make, message in (
        (lambda: IntentObjectiveConfig(kl="k1"), "expected gradient on the policy's own tokens is zero"),
        (lambda: IntentObjectiveConfig(kl="k4"), "choose one of k2, k3"),
        (lambda: IntentObjectiveConfig(reduction="mean"), "choose one of sequence_mean, token_mean"),
        (lambda: rwr.Config(temperature=0.0), "temperature is positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
