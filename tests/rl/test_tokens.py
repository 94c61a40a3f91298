"""Averages over tokens, and the log_prob of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.rl import reductions, token_log_prob


def test_means_by_hand():
    value, mask = jnp.array([[1.0, 3.0], [5.0, np.nan]]), jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(reductions.mean_per_row(value, mask), [2.0, 5.0])
    np.testing.assert_allclose(reductions.mean_over_tokens(value, mask), 3.0)


@pytest.mark.parametrize("mean", [reductions.mean_per_row, reductions.mean_over_tokens])
def test_no_tokens_give_zero_and_no_nan(mean):
    value, gradient = jax.value_and_grad(lambda x: mean(x, jnp.zeros((1, 2), bool)).sum())(jnp.array([[np.nan, 1.0]]))
    assert value == 0 and not gradient.any()


def test_log_probs_of_all_tokens_sum_to_one_at_any_temperature():
    logits = jax.random.normal(jax.random.key(0), (7,))
    every = token_log_prob.of(jnp.tile(logits, (7, 1)), jnp.arange(7), temperature=0.7)
    np.testing.assert_allclose(jnp.exp(every).sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(every, jax.nn.log_softmax(logits / 0.7), rtol=1e-5)


def test_greedy_temperature_and_misaligned_logits_are_refused():
    with pytest.raises(ValueError, match="positive"):
        token_log_prob.of(jnp.zeros((3, 7)), jnp.zeros(3, int), temperature=0.0)
    with pytest.raises(ValueError, match="one row of logits per token"):
        token_log_prob.of(jnp.zeros((4, 7)), jnp.zeros(3, int))
