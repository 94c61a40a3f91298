import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.policies import intent_policy

LIMIT, EOS = tiny_world.SLOTS.intent, tiny_world.Words.eos


def _intents():
    """Tokens [B, K], counts [B], log_probs [B, K] of the rollout's second turn."""
    played = tiny_world.rollout().played
    return tuple(np.asarray(x[:, 1]) for x in (played.intent, played.intent_count, played.intent_log_prob))


def test_the_rollout_has_rows_that_ended_early_and_rows_that_met_the_limit():
    """What the laws below are worth; the end token of the tiny world is loud for this."""
    tokens, count, _ = _intents()
    cut = (tokens == EOS).sum(axis=1) == 0
    assert np.any(count < LIMIT) and np.any(cut) and np.all(count[cut] == LIMIT)


@pytest.mark.slow
def test_log_prob_of_a_fresh_intent_gives_ratio_one_for_every_token():
    tokens, count, drawn = _intents()
    again = tiny_world.asked()[1]
    np.testing.assert_allclose(np.exp(again[:, 1] - drawn), 1.0, atol=1e-4)  # decoding one by one rounds differently
    real = np.arange(LIMIT) < count[:, None]
    assert np.all(drawn[real] < 0) and not drawn[~real].any() and not again[:, 1][~real].any()
    assert not again[:, 0].any()  # turn 0 has no intent


def test_a_row_ends_with_its_first_end_token_and_is_silent_after_it():
    tokens, count, _ = _intents()
    for row, n in zip(tokens, count, strict=True):
        assert not np.any(row[: n - 1] == EOS)
        assert n == LIMIT or row[n - 1] == EOS
        assert not row[n:].any()


@pytest.fixture(scope="module")
def greedy():
    """(segments, context, the intent that is likeliest token by token)."""
    question = tuple((ids[:, 1], count[:, 1]) for ids, count in tiny_world.rollout().played.script.question)
    context = tiny_world.stages()[2]
    keys = tiny_world.jit(lambda: jnp.zeros((4, 2), jnp.uint32))()  # not looked at
    given = jax.tree.map(jnp.copy, context)  # thinking takes its context over
    context, intent = tiny_world.still_player().think(tiny_world.moved(), given, question, keys)
    return question, context, intent


def _ask(model, cache, question, tokens, count, temperature):
    return intent_policy.log_prob(model, intent_policy.ask(model, cache, question), tokens, count, temperature=temperature)


@pytest.fixture(scope="module")
def asked(greedy):
    """log_prob of the greedy intent, untempered, as a function of the tokens."""
    question, context, intent = greedy
    run = tiny_world.compiled(lambda model, *args: _ask(model, *args, 1.0), tiny_world.policy_model())
    return lambda tokens: run(context.full, question, tokens, intent.count)


def test_greedy_tokens_are_the_likeliest_and_their_log_probs_untempered(greedy, asked):
    _, _, intent = greedy
    log_prob, logits = asked(intent.tokens)
    real = np.arange(LIMIT) < np.asarray(intent.count)[:, None]
    np.testing.assert_array_equal(np.argmax(logits, axis=-1)[real], np.asarray(intent.tokens)[real])
    np.testing.assert_allclose(log_prob, intent.log_prob, atol=1e-4)


def test_tokens_beyond_the_count_are_not_looked_at(greedy, asked):
    _, _, intent = greedy
    real = np.arange(LIMIT) < np.asarray(intent.count)[:, None]
    assert not real.all()
    noisy = np.where(real, intent.tokens, 77).astype(np.int32)
    np.testing.assert_array_equal(asked(noisy)[0], asked(intent.tokens)[0])
