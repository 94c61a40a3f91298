import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_world
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.models import attention

ROWS, TOKENS, HEADS, KV_HEADS, DIM = 3, 3, 4, 2, 8
VIEWS = ((5, 2), (4, 1))  # (slots, variants) per cache; one more variant sees no cache
VARIANTS = 1 + sum(variants for _, variants in VIEWS)


def _case(seed: int = 0):
    """Random queries, keys, values, masks and two caches."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    q = normal(ROWS, VARIANTS, TOKENS, HEADS, DIM)
    k, v = (normal(ROWS, VARIANTS, TOKENS, KV_HEADS, DIM) for _ in range(2))
    mask = (rng.random((ROWS, VARIANTS, TOKENS, TOKENS)) < 0.6) | np.eye(TOKENS, dtype=bool)  # every token sees itself
    views = tuple((normal(ROWS, KV_HEADS, s, DIM), normal(ROWS, KV_HEADS, s, DIM), rng.random((ROWS, r, s)) < 0.6) for s, r in VIEWS)
    return q, k, v, mask, views


def _dense(q, k, v, block_mask, views):
    """One query head of one variant of one row at a time, over its keys one after the other."""
    out = np.zeros((ROWS, VARIANTS, TOKENS, HEADS, DIM))
    caches = [(view, i) for view in views for i in range(view[2].shape[1])]
    for b in range(ROWS):
        for r in range(VARIANTS):
            for head in range(HEADS):
                kv = head * KV_HEADS // HEADS
                keys, values, seen = k[b, r, :, kv], v[b, r, :, kv], block_mask[b, r]
                if r < len(caches):
                    (cached_k, cached_v, visible), variant = caches[r]
                    keys, values = np.concatenate([cached_k[b, kv], keys]), np.concatenate([cached_v[b, kv], values])
                    seen = np.concatenate([np.tile(visible[b, variant], (TOKENS, 1)), seen], axis=1)
                weights = np.where(seen, np.exp(q[b, r, :, head] @ keys.T / np.sqrt(DIM)), 0.0)
                out[b, r, :, head] = weights / weights.sum(axis=1, keepdims=True) @ values
    return out.reshape(ROWS, VARIANTS, TOKENS, HEADS * DIM)


attend = tiny_world.jit(attention.attend)


@given(st.integers(0, 1000))
def test_attention_is_one_softmax_over_cache_and_block(seed):
    case = _case(seed)
    np.testing.assert_allclose(attend(*case), _dense(*case), atol=2e-5)


@given(st.integers(0, 1000))
def test_what_a_mask_hides_changes_nothing(seed):
    q, k, v, mask, views = _case(seed)
    mask[..., 0], mask[..., -1] = True, False  # everybody sees the first token of the block, nobody the last
    for _, _, visible in views:
        visible[:, :, 0] = False
    expected = np.asarray(attend(q, k, v, mask, views))
    k[:, :, -1] = v[:, :, -1] = 1e4
    for keys, values, _ in views:
        keys[:, :, 0], values[:, :, 0] = 1e4, -1e4
    np.testing.assert_array_equal(attend(q, k, v, mask, views), expected)


def test_variants_do_not_know_of_each_other():
    q, k, v, mask, views = _case()
    together = attend(q, k, v, mask, views)
    caches = [(keys, values, visible[:, i : i + 1]) for keys, values, visible in views for i in range(visible.shape[1])]
    for r in range(VARIANTS):
        one = slice(r, r + 1)
        alone = attend(q[:, one], k[:, one], v[:, one], mask[:, one], tuple(caches[one]))
        np.testing.assert_allclose(alone, together[:, one], atol=1e-6)


def test_going_through_the_rows_in_pieces_changes_neither_values_nor_gradients(monkeypatch):
    *arrays, mask, views = _case()
    pieces_of = []
    whole = attention._attend

    def noticed(q, *rest):
        pieces_of.append(q.shape[0])
        return whole(q, *rest)

    def learn(q, k, v, caches):
        def value(q, k, v, caches):
            out = attention.attend(q, k, v, mask, tuple((*kv, seen) for kv, (*_, seen) in zip(caches, views, strict=True)))
            return jnp.sum(jnp.sin(out)), out

        return jax.value_and_grad(value, argnums=(0, 1, 2, 3), has_aux=True)(q, k, v, caches)

    monkeypatch.setattr(attention, "_attend", noticed)
    caches = tuple((keys, values) for keys, values, _ in views)
    row_bytes = 4 * VARIANTS * TOKENS * HEADS * (TOKENS + max(slots for slots, _ in VIEWS))
    results = []
    for size in (1 << 30, 2 * row_bytes):  # all rows; two rows, which leaves a third
        monkeypatch.setattr(attention, "_CACHE_BYTES", size)
        results.append(tiny_world.jit(lambda *xs: learn(*xs))(*arrays, caches))
    assert pieces_of[0] == ROWS and set(pieces_of[1:]) == {1}  # the second time row by row, batched by two
    tiny_world.assert_close(*results, atol=1e-6)


def test_neighbouring_query_heads_share_a_key_value_head():
    q, k, v, mask, views = _case()
    v[...] = np.arange(KV_HEADS)[:, None]  # every value is the number of its head
    for _, values, _ in views:
        values[...] = np.arange(KV_HEADS)[:, None, None]
    heads = attend(q, k, v, mask, views).reshape(ROWS, VARIANTS, TOKENS, HEADS, DIM)
    np.testing.assert_allclose(heads[0, 0, 0, :, 0], [0, 0, 1, 1], atol=1e-6)


def test_the_weights_are_what_values_are_mixed_by():
    q, k, v, mask, ((keys, values, visible), _) = _case()
    some = slice(0, visible.shape[1])  # the variants of the first view
    q, k, v, mask = q[:, some], k[:, some], v[:, some], mask[:, some]
    weights = tiny_world.jit(attention.weights)(q, k, mask, (keys, values, visible))
    assert weights.shape == (ROWS, visible.shape[1], HEADS, TOKENS, keys.shape[2] + TOKENS)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    seen = np.concatenate([np.broadcast_to(visible[:, :, None], (*visible.shape[:2], TOKENS, keys.shape[2])), mask], axis=-1)
    assert np.all(np.asarray(weights)[~np.broadcast_to(seen[:, :, None], weights.shape)] == 0)
    shared = np.arange(HEADS) * KV_HEADS // HEADS
    everything = np.concatenate([np.broadcast_to(values[:, None], (ROWS, visible.shape[1], *values.shape[1:])), v.swapaxes(2, 3)], axis=3)
    mixed = np.einsum("brhts,brhsd->brthd", weights, everything[:, :, shared])
    np.testing.assert_allclose(mixed.reshape(*mixed.shape[:3], -1), attend(q, k, v, mask, ((keys, values, visible),)), atol=1e-5)


def test_a_token_that_sees_nothing_gives_numbers():
    q, k, v, mask, views = _case()
    blind = tuple((keys, values, np.zeros_like(visible)) for keys, values, visible in views)
    assert bool(jnp.all(jnp.isfinite(attend(q, k, v, np.zeros_like(mask), blind))))


def test_norm_divides_by_the_root_mean_square_and_then_scales():
    norm = tiny_world.jit(attention.rms_norm)
    np.testing.assert_allclose(norm(np.float32([3, 4]), np.float32([1, 10]), 0.0), [3 / 12.5**0.5, 40 / 12.5**0.5], rtol=1e-6)
    assert norm(jnp.ones((2, 4), jnp.bfloat16), np.ones(4, np.float32), 1e-6).dtype == jnp.bfloat16


@functools.partial(tiny_world.jit, static_argnums=2)
def turn(x, position, theta):
    """One token of one head, turned to its position."""
    return attention.rotate(x[None, None], *attention.rotary_table(position[None], x.shape[0], theta))[0, 0]


def test_rotation_pairs_a_channel_with_the_one_half_a_head_away():
    x = np.float32([1, 2, 3, 4])
    np.testing.assert_array_equal(turn(x, np.int32(0), 100.0), x)
    c, s = np.cos([1, 0.1]), np.sin([1, 0.1])  # angles at position 1
    expected = [c[0] - 3 * s[0], 2 * c[1] - 4 * s[1], 3 * c[0] + s[0], 4 * c[1] + 2 * s[1]]
    np.testing.assert_allclose(turn(x, np.int32(1), 100.0), expected, rtol=1e-5)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_rotated_products_depend_on_the_distance_alone(a, b, shift):
    q, k = np.random.default_rng(0).standard_normal((2, DIM)).astype(np.float32)
    product = lambda i, j: np.vdot(turn(q, np.int32(i), 1e4), turn(k, np.int32(j), 1e4))  # noqa: E731
    np.testing.assert_allclose(product(a, b), product(a + shift, b + shift), atol=2e-3)
