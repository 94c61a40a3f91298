import types

import jax
import jax.numpy as jnp
import numpy as np
import tiny_world

from editr2_jax.models import kv_cache
from editr2_jax.objectives import intent_objective
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig

VOCAB, BOS, TEMPERATURE = 6, 5, 0.7
TABLE = np.random.default_rng(0).standard_normal((VOCAB, VOCAB)).astype(np.float32)  # scores of the next token, by token
TOKENS = np.array([[1, 2, 3], [4, 0, 0]], np.int32)
COUNT = np.array([3, 1], np.int32)


def _traced(table, *, old, advantage=(1.0, 1.0), config=None, count=COUNT):
    """The intent term of a model that looks at the last token alone."""
    model = types.SimpleNamespace(
        config=types.SimpleNamespace(tokens=types.SimpleNamespace(bos=BOS)),
        read_text=lambda ids, **_: (jax.nn.one_hot(ids, VOCAB), None),
        logits=lambda hidden: hidden @ table,
    )
    cache = kv_cache.empty(layers=1, rows=2, capacity=4, kv_heads=1, head_dim=2)
    return intent_objective.terms(
        model, cache, jnp.asarray(TOKENS), jnp.asarray(count),
        old_log_prob=jnp.asarray(old), advantage=jnp.asarray(advantage), temperature=TEMPERATURE, config=config or IntentObjectiveConfig(),
    )  # fmt: skip


def _terms(*args, **more):
    return tiny_world.jit(lambda: _traced(*args, **more))()


def _by_hand():
    scores = TABLE / TEMPERATURE
    log_softmax = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return np.array([[log_softmax[BOS, 1], log_softmax[1, 2], log_softmax[2, 3]], [log_softmax[BOS, 4], 0, 0]])


def test_tokens_are_scored_after_the_begin_token_at_the_sampling_temperature():
    part = _terms(TABLE, old=np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(part.log_prob, _by_hand(), atol=1e-5)
    np.testing.assert_array_equal(part.real, [[True] * 3, [True, False, False]])


def test_a_long_intent_weighs_as_much_as_a_short_one():
    """At ratio one every token's loss is -A, whatever the length; the advantage is not clipped unless asked."""
    old = _by_hand().astype(np.float32)
    np.testing.assert_allclose(_terms(TABLE, old=old, advantage=(7.0, -2.0)).loss, [-7, 2], rtol=1e-4)
    clipped = _terms(TABLE, old=old, advantage=(7.0, -2.0), config=IntentObjectiveConfig(advantage_clip=5.0))
    np.testing.assert_allclose(clipped.loss, [-5, 2], rtol=1e-4)


def test_an_empty_intent_has_loss_0_and_gradient_0():
    old = np.full((2, 3), np.nan, np.float32)
    loss = lambda table: _traced(table, old=old, count=np.zeros(2, np.int32)).loss.sum()  # noqa: E731
    value, gradient = tiny_world.jit(jax.value_and_grad(loss))(TABLE)
    assert float(value) == 0 and not np.asarray(gradient).any()


def test_what_lies_beyond_the_count_changes_nothing():
    old = _by_hand().astype(np.float32)
    poisoned = np.where(np.arange(3) < COUNT[:, None], old, np.nan).astype(np.float32)
    learn = tiny_world.jit(jax.value_and_grad(lambda table, old: _traced(table, old=old, advantage=(2.0, -1.0)).loss.sum()))
    tiny_world.assert_close(learn(TABLE, poisoned), learn(TABLE, old), atol=0, rtol=0)
