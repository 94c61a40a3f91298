import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.models import kv_cache
from editr2_jax.models.bagel.bagel import empty_cache
from editr2_jax.models.bagel.mot_decoder import View


def _segment(rows: int, tokens: int, value: float):
    return (jnp.full((1, rows, 1, tokens, 2), value),) * 2


def test_segments_follow_each_other_and_holes_are_not_valid():
    cache = kv_cache.empty(layers=1, rows=2, capacity=6, kv_heads=1, head_dim=2)
    first = kv_cache.write(cache, *_segment(2, 2, 1.0), valid=jnp.array([[True, True], [True, False]]), rope=jnp.array([2, 1]))
    second = kv_cache.write(first, *_segment(2, 3, 5.0), valid=jnp.array([[True, True, False], [True, True, True]]), rope=jnp.array([4, 4]))
    np.testing.assert_array_equal(second.k[0, 0, 0, :, 0], [1, 1, 5, 5, 5, 0])
    np.testing.assert_array_equal(second.valid, [[True, True, True, True, False, False], [True, False, True, True, True, False]])
    np.testing.assert_array_equal(second.rope, [4, 4])
    assert (int(first.length), int(second.length), second.capacity) == (2, 5, 6)
    assert not bool(cache.valid.any()) and int(cache.length) == 0  # a write returns a new cache


def test_repeat_keeps_the_copies_of_a_row_together():
    cache = kv_cache.empty(layers=1, rows=2, capacity=2, kv_heads=1, head_dim=2)
    k = jnp.arange(2.0)[None, :, None, None, None] * jnp.ones((1, 2, 1, 1, 2))
    cache = kv_cache.write(cache, k, k, valid=jnp.array([[True], [False]]), rope=jnp.array([1, 0]))
    three = kv_cache.repeat(cache, 3)
    np.testing.assert_array_equal(three.k[0, :, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(three.valid[:, 0], [True] * 3 + [False] * 3)
    np.testing.assert_array_equal(three.rope, [1, 1, 1, 0, 0, 0])
    assert int(three.length) == 1


# Rows of two text segments around a seen block: (3 and 2 tokens) and (1 and 4 tokens).
TEXTS = (([7, 8, 9], [20, 21]), ([40], [50, 51, 52, 53]))
GRID = (1, 2)
LATENTS = np.random.default_rng(0).standard_normal((2, 2, 64)).astype(np.float32)


def _read(model, rows, slots: tuple[int, int], latents):
    """Both segments of some rows with a latent picture between them, then a next token's logits and a velocity behind everything."""
    cache = empty_cache(model.config, rows=len(rows), capacity=sum(slots) + 4)
    for part, room in enumerate(slots):
        ids = np.full((len(rows), room), 99, np.int32)  # what stands in the padding must not matter
        for i, row in enumerate(rows):
            ids[i, : len(TEXTS[row][part])] = TEXTS[row][part]
        cache = model.append_text(cache, jnp.asarray(ids), jnp.asarray([len(TEXTS[row][part]) for row in rows]))
        if part == 0:
            cache = model.append_latents(cache, latents, GRID)
    view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
    token, here = jnp.full((len(rows), 1, 1), 5), cache.rope[:, None]
    hidden, _ = model.read_text(token, valid=jnp.ones((len(rows), 1, 1), bool), start=here, views=(view,))
    velocity = model.velocity(latents[:, None], jnp.full((len(rows), 1), 0.7), grid=GRID, start=here, views=(view,))
    return cache, model.logits(hidden[:, 0, 0]), velocity[:, 0]


@pytest.fixture(scope="module")
def padded():
    return tiny_world.compiled(lambda model, latents: _read(model, (0, 1), (5, 6), latents))(LATENTS)


def test_a_row_with_holes_equals_the_row_without(padded, row=1):
    slots = tuple(map(len, TEXTS[row]))
    alone, logits, velocity = tiny_world.compiled(lambda model, latents: _read(model, (row,), slots, latents))(LATENTS[row : row + 1])
    cache, *ours = padded
    real, tokens = np.asarray(cache.valid[row]), int(alone.length)
    assert int(real.sum()) == tokens == sum(slots) + 4
    for padded_part, part in ((cache.k, alone.k), (cache.v, alone.v)):
        np.testing.assert_allclose(padded_part[:, row][:, :, real], part[:, 0, :, :tokens], atol=1e-5)
    np.testing.assert_allclose(ours[0][row], logits[0], atol=1e-4)
    np.testing.assert_allclose(ours[1][row], velocity[0], atol=1e-5)


def test_rotary_positions_count_real_tokens_and_one_per_picture(padded):
    np.testing.assert_array_equal(padded[0].rope, [3 + 1 + 2, 1 + 1 + 4])
    assert int(padded[0].length) == 5 + 4 + 6  # slots, on the other hand, are taken whole
