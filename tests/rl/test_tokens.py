"""Averages over tokens, and the log_prob of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.rl import reductions, token_log_prob


def test_sums_and_means_by_hand():
    value, mask = jnp.array([[1.0, 3.0], [5.0, np.nan]]), jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(reductions.sum_per_row(value, mask), [4.0, 5.0])
    np.testing.assert_allclose(reductions.mean_per_row(value, mask), [2.0, 5.0])


@pytest.mark.parametrize("reduce", [reductions.mean_per_row, reductions.sum_per_row])
def test_no_tokens_give_zero_and_no_nan(reduce):
    value, gradient = jax.value_and_grad(lambda x: reduce(x, jnp.zeros((1, 2), bool)).sum())(jnp.array([[np.nan, 1.0]]))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sequence_mean", [1 / 3, 1, 1]),
        ("token_mean", [3 / 4] * 3),
        ("max_length", [1 / 5] * 3),
        ("sum", [1] * 3),
        ("sum_nonempty", [3 / 2] * 3),
    ],
)
def test_weights_of_rows_with_three_one_and_no_tokens(reduction, expected):
    np.testing.assert_allclose(reductions.row_weights(np.array([3, 1, 0]), reduction=reduction, slots=5), expected)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction 'mean' is unknown; choose one of sequence_mean"):
        reductions.row_weights(np.array([1]), reduction="mean", slots=1)


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
