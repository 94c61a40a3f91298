"""The FLOP formulas against XLA's own count of programs with one decoder layer (XLA counts a scan's body once), and a few by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel import config as configs
from editr2_jax.models.lora import LoraConfig
from editr2_jax.policies import context as contexts
from editr2_jax.policies import flops, image_policy, intent_policy
from editr2_jax.policies.context import Sight
from editr2_jax.policies.flops import Dialogue
from editr2_jax.policies.image_policy import FlowConfig

_RANK = 32


@pytest.fixture(scope="module")
def dialogue():
    """Mid's shapes with one layer everywhere: wide enough that matrix products are nearly all there is to count."""
    mid = configs.mid()
    config = dataclasses.replace(mid, decoder=dataclasses.replace(mid.decoder, layers=1), vit=dataclasses.replace(mid.vit, layers=1))
    return Dialogue(config=config, height=128, width=128, rank=_RANK)


@pytest.fixture(scope="module")
def model(dialogue):
    """Graph and the shapes of the weights: programs are counted, never run."""
    return nnx.split(bagel.abstract(dialogue.config))


def counted(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def cache_of(dialogue, capacity):
    return jax.eval_shape(lambda: bagel.empty_cache(dialogue.config, rows=1, capacity=capacity))


def test_contexts_of_the_last_turn_at_mid(dialogue):
    assert (dialogue.latents, dialogue.patches) == (64, 81)
    assert dialogue.visible(2) == (525, 499, 78)


def test_a_block_by_hand():
    c = configs.DecoderConfig(width=4, inner=6, layers=2, heads=2, kv_heads=1, head_dim=2, vocab=8)
    assert flops.expert_weights(c) == 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6
    assert flops.block(c, tokens=3, cached=5) == 2 * 3 * (2 * 120 + 4 * 4 * (5 + 3))
    assert flops.adapter_weights(c, 1) == (4 + 4) + 2 * (4 + 2) + (4 + 4) + 3 * (4 + 6)


@pytest.mark.parametrize("phase", ["encode", "decode", "see"])
def test_pictures(dialogue, model, phase):
    graph, state = model
    picture, latent = array(1, 128, 128, 3, dtype=jnp.uint8), array(1, dialogue.latents, dialogue.config.token_dim)
    program, given = {
        "encode": (lambda state, x: nnx.merge(graph, state).encode(x), picture),
        "decode": (lambda state, x: nnx.merge(graph, state).decode(x, 128, 128), latent),
        "see": (lambda state, x: nnx.merge(graph, state).see(x), picture),
    }[phase]
    assert counted(program, state, given) == pytest.approx(getattr(flops, phase)(dialogue), rel=0.1)


def guided(graph, dialogue):
    full, text = dialogue.visible(2)[0], dialogue.visible(2)[2]

    def program(state, caches, x, t):
        model = nnx.merge(graph, *state)
        context = contexts.Context(full=caches[0], text=caches[1], instruction=jnp.zeros((1, full), bool), rope_before=caches[0].rope)
        seen = Sight(
            full=jnp.ones((1, full), bool),
            without_instruction=jnp.ones((1, full), bool),
            without_pictures=jnp.ones((1, text), bool),
            start=jnp.zeros((1, 3), jnp.int32),
        )
        return image_policy.guided_velocity(model, context, seen, x, t, flow=FlowConfig(), size=(128, 128))

    shapes = (cache_of(dialogue, full), cache_of(dialogue, text)), array(1, dialogue.latents, dialogue.config.token_dim), array(1)
    return program, shapes


def test_a_guided_denoising_step(dialogue, model):
    graph, state = model
    program, shapes = guided(graph, dialogue)
    assert counted(program, (state,), *shapes) == pytest.approx(flops.denoise(dialogue), rel=0.1)


def test_learning_from_a_step(dialogue):
    """Forward and back through an adapter over a frozen base: XLA's count of the gradient, plus the reference's pass."""

    def adapted():
        whole = bagel.Bagel(dialogue.config, rngs=nnx.Rngs(0))
        lora.attach(whole, LoraConfig(rank=_RANK), key=jax.random.key(0))
        return whole

    graph, trainable, frozen = nnx.split(nnx.eval_shape(adapted), nnx.LoRAParam, ...)
    program, shapes = guided(graph, dialogue)

    def gradient(trainable, frozen, *rest):
        return jax.grad(lambda trainable: jnp.sum(program((trainable, frozen), *rest) ** 2))(trainable)

    both_ways = counted(gradient, trainable, frozen, *shapes)
    assert both_ways + flops.denoise(dialogue) == pytest.approx(flops.learning_step(dialogue), rel=0.1)


def test_a_question_and_a_token(dialogue, model):
    graph, state = model
    before = dialogue.before(2)
    question = array(1, dialogue.question, dtype=jnp.int32), array(1, dtype=jnp.int32)
    system = array(1, dialogue.system, dtype=jnp.int32), array(1, dtype=jnp.int32)

    def ask(state, cache, *segments):
        return intent_policy.ask(nnx.merge(graph, state), cache, segments)

    # the program pays for every slot of the cache, the formula for what has been read
    assert counted(ask, state, cache_of(dialogue, before), system, question) == pytest.approx(flops.ask(dialogue), rel=0.1)

    def write(state, cache):
        return intent_policy.sample(nnx.merge(graph, state), cache, keys=None, limit=1, temperature=1.0)[0]

    capacity = before + dialogue.system + dialogue.question + dialogue.intent
    assert counted(write, state, cache_of(dialogue, capacity)) == pytest.approx(flops.token(dialogue), rel=0.1)


def test_what_has_parts_is_their_sum(dialogue):
    one = dataclasses.replace(dialogue, turns=1)
    c = dialogue.config.decoder
    text = 2 * flops.block(c, 26, 0) + c.layers * 26 * 4 * c.heads * c.head_dim * one.picture  # the full cache holds the picture too
    read = flops.block(c, 66, 0) + flops.block(c, 83, 66)
    latents = 2 * 64 * 64 * 512 + 2 * (256 * 512 + 512**2)
    assert flops.context(one) == flops.encode(one) + flops.see(one) + latents + read + text
    assert flops.session(one) == flops.context(one) + 14 * flops.denoise(one) + flops.decode(one)  # no intent is asked for
    assert flops.update(one) == flops.context(one, _RANK) + 2 * flops.learning_step(one)
    assert flops.recall(one) == flops.context(one, _RANK) + 2 * flops.denoise(one, rank=_RANK)
    assert flops.session(dialogue) > 3 * flops.session(one)  # later turns see more
