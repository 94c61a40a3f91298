import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from flax import nnx

from editr2_jax.models import kv_cache
from editr2_jax.models.bagel import mot_decoder
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.execution import Execution

GEN = 3  # latent tokens of a block
RNG = np.random.default_rng(0)
UND_TOKENS, GEN_TOKENS = (jnp.asarray(RNG.standard_normal((1, 1, n, 64)), jnp.float32) for n in (2, GEN))
IDS = jnp.array([[[3, 1, 4, 1, 5]]])


def _text(model, ids, *, cache=None, start: int = 0):
    views = () if cache is None else (View(k=cache.k, v=cache.v, visible=cache.valid[:, None]),)
    return model.read_text(ids, valid=jnp.ones(ids.shape, bool), start=jnp.full(ids.shape[:2], start), views=views)


def _picture(model, und, gen):
    return model.decoder.block(und, gen, positions=jnp.zeros((1, 1, und.shape[2] + gen.shape[2]), jnp.int32))


read_text = tiny_world.compiled(_text)
read_picture = tiny_world.compiled(_picture)


@pytest.mark.parametrize(("gen_tokens", "und_tokens"), [(1, 2), (3, 2), (2, 4)])
def test_a_block_is_put_together_and_taken_apart_again(gen_tokens, und_tokens):
    und, gen = np.arange(und_tokens)[None, None] * 10, 100 + np.arange(gen_tokens)[None, None]
    joined, back = tiny_world.jit(lambda u, g: (j := mot_decoder.join(u, g), mot_decoder._part(j, gen_tokens)))(und, gen)
    np.testing.assert_array_equal(joined[0, 0], [0, *range(100, 100 + gen_tokens), *range(10, 10 * und_tokens, 10)])
    tiny_world.assert_close(back, (und, gen))


def test_a_word_does_not_see_the_words_after_it():
    hidden, (k, v) = read_text(IDS)
    changed, (k2, v2) = read_text(IDS.at[..., 3].set(200))
    for ours, theirs in ((hidden, changed), (k[0, 0], k2[0, 0]), (v[0, 0], v2[0, 0])):
        np.testing.assert_array_equal(ours[..., :3, :], theirs[..., :3, :])
        assert not np.allclose(ours[..., 3:, :], theirs[..., 3:, :], atol=1e-3)


def test_every_token_of_a_picture_sees_every_other():
    und, gen, _ = read_picture(UND_TOKENS, GEN_TOKENS)
    und2, gen2, _ = read_picture(UND_TOKENS, GEN_TOKENS.at[0, 0, -1].add(1.0))
    assert np.all(np.abs(und - und2).max(axis=-1) > 1e-5) and np.all(np.abs(gen - gen2).max(axis=-1) > 1e-5)


def test_text_read_in_two_pieces_equals_text_read_at_once():
    whole, (k, v) = read_text(IDS)

    def pieces(model, ids):
        _, (k, v) = _text(model, ids[:, :, :2])
        cache = kv_cache.empty(layers=2, rows=1, capacity=4, kv_heads=2, head_dim=16)  # longer than what it holds
        cache = kv_cache.write(cache, k[:, :, 0], v[:, :, 0], valid=jnp.ones((1, 2), bool), rope=jnp.array([2]))
        return _text(model, ids[:, :, 2:], cache=cache, start=2)

    hidden, kv = tiny_world.compiled(pieces)(IDS)
    np.testing.assert_allclose(hidden, whole[:, :, 2:], atol=1e-5)
    for part, expected in zip(kv, (k, v), strict=True):
        np.testing.assert_allclose(part, expected[..., 2:, :], atol=1e-5)


@pytest.fixture(scope="module")
def used():
    """Which experts a block of text, and the two ends of a block with latents, depend on: gradients by leaf of the layers."""
    graph, layers, rest = nnx.split(tiny_world.world_model(), nnx.PathContains("layers"), ...)

    def text(layers, rest, ids):
        return jnp.sum(jnp.sin(_text(nnx.merge(graph, layers, rest), ids)[0]))

    return tiny_world.jit(jax.grad(text))(layers, rest, IDS)


def test_text_never_touches_the_drawing_expert(used):
    experts = used["decoder"]["layers"]
    assert tiny_world.size_of(experts["gen"]) == 0
    assert tiny_world.size_of(experts["und"]) > 0


def test_latents_pass_through_the_drawing_expert_and_markers_through_the_other():
    """In the first layer's keys and values, before attention mixes the tokens."""
    _, _, kv = read_picture(UND_TOKENS, GEN_TOKENS)
    other = nnx.clone(tiny_world.world_model())
    other.decoder.layers.gen.k.w[...] *= 2
    other.decoder.layers.gen.v.w[...] *= 2
    _, _, kv2 = tiny_world.compiled(_picture, other)(UND_TOKENS, GEN_TOKENS)
    for ours, theirs in zip(kv, kv2, strict=True):
        same = np.asarray(jnp.all(ours[0] == theirs[0], axis=(0, 1, 2, 4)))  # [T] of the first layer
        np.testing.assert_array_equal(same, [True] + [False] * GEN + [True])


@pytest.mark.slow
def test_unrolling_and_recomputing_layers_changes_neither_values_nor_gradients():
    def learn(model, und, gen):
        def loss(und):
            out, drawn, _ = _picture(model, und, gen)
            return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.sin(drawn))

        return jax.value_and_grad(loss)(und)

    other = nnx.clone(tiny_world.world_model())
    other.decoder.execution = Execution(unroll=2, remat="full")
    plain, cheap = (tiny_world.compiled(learn, model)(UND_TOKENS, GEN_TOKENS) for model in (None, other))
    np.testing.assert_allclose(plain[0], cheap[0], rtol=1e-5)
    np.testing.assert_allclose(plain[1], cheap[1], atol=1e-4)
