"""The discrete policy: an intent is written token by token before a picture is drawn.

Letters: B rows, T slots of a segment, K intent tokens, V vocabulary. A sampled sequence y_1..y_K follows the begin token; its
log-probabilities are log softmax(logits / temperature), the same temperature in sampling and in the loss. Source: Edit-R2's text policy;
golden cases h and i_ctx. The end token belongs to the sequence, so that stopping is learned too (the reference drops it).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.rl import token_log_prob


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Intent:
    """Sampled text: tokens after the begin token; the end token, when it came, is the last counted one."""

    tokens: Int[Array, "B K"]
    count: Int[Array, "B"]
    log_prob: Float[Array, "B K"]  # as the decoder saw it; zero beyond count


def ask(model: Bagel, cache: KVCache, segments: tuple[tuple[Int[Array, "B T"], Int[Array, "B"]], ...]) -> KVCache:
    """Puts text segments (ids, counts) behind a cache. The caller keeps the old cache: thinking leaves no trace in the dialogue."""
    for ids, count in segments:
        cache = model.append_text(cache, ids, count)
    return cache


def sample(
    model: Bagel, cache: KVCache, *, keys: PRNGKeyArray | None, limit: int, temperature: float, end: int | None = None
) -> tuple[Intent, KVCache]:
    """Writes at most `limit` tokens per row behind the cache, all rows in step; a row ends with its end token.

    `keys` [B] is one random stream per row; None writes greedily, and then log-probabilities are untempered (as recorded). The loop stops
    as soon as every row has ended. `end` defaults to the model's end token. Also returns the cache with what was written in it.
    """
    rows, bos = cache.valid.shape[0], model.config.tokens.bos
    end = model.config.tokens.eos if end is None else end

    def feed(cache, token, alive):
        view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
        hidden, (k, v) = model.read_text(token[:, None, None], valid=jnp.ones((rows, 1, 1), bool), start=cache.rope[:, None], views=(view,))
        rope = cache.rope + alive.astype(jnp.int32)
        return model.remember(cache, k, v, valid=alive[:, None], rope=rope), model.logits(hidden[:, 0, 0])

    def choose(logits, i):
        if keys is None:
            token = jnp.argmax(logits, -1).astype(jnp.int32)
            return token, token_log_prob.of(logits, token)
        token = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, i), row))(keys, logits / temperature)
        token = token.astype(jnp.int32)
        return token, token_log_prob.of(logits, token, temperature=temperature)

    def more(state):
        i, _, _, alive, *_ = state
        return (i < limit) & jnp.any(alive)

    def write_one(state):
        i, cache, token, alive, tokens, log_probs, count = state
        cache, logits = feed(cache, token, alive)
        token, log_prob = choose(logits, i)
        tokens = tokens.at[:, i].set(jnp.where(alive, token, 0))
        log_probs = log_probs.at[:, i].set(jnp.where(alive, log_prob, 0.0))
        return i + 1, cache, token, alive & (token != end), tokens, log_probs, count + alive

    state = (
        jnp.zeros((), jnp.int32),
        cache,
        jnp.full((rows,), bos, jnp.int32),
        jnp.ones((rows,), bool),
        jnp.zeros((rows, limit), jnp.int32),
        jnp.zeros((rows, limit), jnp.float32),
        jnp.zeros((rows,), jnp.int32),
    )
    _, cache, _, _, tokens, log_probs, count = jax.lax.while_loop(more, write_one, state)
    return Intent(tokens=tokens, count=count, log_prob=log_probs), cache


def log_prob(
    model: Bagel, cache: KVCache, tokens: Int[Array, "B K"], count: Int[Array, "B"], *, temperature: float
) -> tuple[Float[Array, "B K"], Float[Array, "B K V"]]:
    """Teacher-forced log-probabilities of a written sequence, one causal pass over [begin, y_1 .. y_{K-1}]; zero beyond count.

    Also returns the untempered logits, float32.
    """
    real, asked, view = _teacher_forced(model, cache, tokens, count)
    hidden, _ = model.read_text(**asked, views=(view,))
    logits = model.logits(hidden[:, 0])
    return jnp.where(real, token_log_prob.of(logits, tokens, temperature=temperature), 0.0), logits


def attention(model: Bagel, cache: KVCache, tokens: Int[Array, "B K"], count: Int[Array, "B"]) -> Float[Array, "N B H K S+K"]:
    """Where the model looks as it chooses each written token, in every layer and head: slots of the cache, then [begin, y_1 .. y_{K-1}]."""
    _, asked, view = _teacher_forced(model, cache, tokens, count)
    return model.text_attention(**asked, view=view)[:, :, 0]


def _teacher_forced(model: Bagel, cache: KVCache, tokens: Array, count: Array) -> tuple[Bool[Array, "B K"], dict[str, Array], View]:
    """Which tokens are real; the segment [begin, y_1 .. y_{K-1}] as the model reads it; and what it sees of the cache."""
    rows, k = tokens.shape
    ids = jnp.concatenate([jnp.full((rows, 1), model.config.tokens.bos, tokens.dtype), tokens[:, :-1]], axis=1)
    real = jnp.arange(k) < count[:, None]
    segment = {"ids": ids[:, None], "valid": real[:, None], "start": cache.rope[:, None]}
    return real, segment, View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
