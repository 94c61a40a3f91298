import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from flax import nnx

from editr2_jax.models import lora, network
from editr2_jax.models.lora import Linear, LoraConfig

PROJECTIONS = {"q", "k", "v", "o", "gate", "up", "down"}
X = jnp.asarray(np.random.default_rng(0).standard_normal((1, 1, 6, 64)), jnp.float32)
IDS = jnp.array([[[3, 1, 4]]])


def _outputs(model, ids, x):
    """Logits of a text and the velocity of a picture, both without context: what an adapter can change."""
    hidden, _ = model.read_text(ids, valid=jnp.ones(ids.shape, bool), start=jnp.zeros((1, 1), jnp.int32), views=())
    return model.logits(hidden), _velocity(model, x)


def _velocity(model, x):
    return model.velocity(x, jnp.full((1, 1), 0.5), grid=(2, 3), start=jnp.zeros((1, 1), jnp.int32), views=())


def _adapted(**config):
    """A copy of the tiny model with an adapter, split."""
    return network.with_adapter(nnx.clone(tiny_world.world_model()), LoraConfig(rank=2, alpha=4.0, **config), key=jax.random.key(1))


def _moved(trainable):
    return jax.tree.map(lambda leaf: leaf + 0.1, trainable)


def _of(net):
    """(reference, policy) outputs of a network, as a function of its adapter and its frozen weights."""
    return tiny_world.jit(lambda t, f: (_outputs(net.reference(f), IDS, X), _outputs(net.policy(t, f), IDS, X)))


@pytest.fixture(scope="module")
def bare():
    """Outputs of the model that never had an adapter."""
    return tiny_world.compiled(_outputs)(IDS, X)


@pytest.fixture(scope="module")
def both():
    """An adapter on both experts: (network, fresh adapter, frozen weights, its outputs as `_of`)."""
    net, trainable, frozen = _adapted()
    return net, trainable, frozen, _of(net)


def test_an_adapter_adds_its_scaled_product():
    linear = Linear(2, 1, bias=True, rngs=nnx.Rngs(0))
    linear.w[...], linear.b[...] = jnp.array([[1.0], [2.0]]), jnp.array([0.5])
    linear.attach(1, 3.0, jax.random.key(0))
    linear.lora_a[...], linear.lora_b[...] = jnp.array([[1.0], [1.0]]), jnp.array([[10.0]])
    np.testing.assert_allclose(linear(jnp.array([1.0, 1.0])), [1 + 2 + 0.5 + 3 * (2 * 10)])


def test_an_adapter_stays_float32_on_a_half_precision_base_and_computes_in_the_base_s_type():
    linear = Linear(4, 4, bias=False, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    linear.attach(2, 4.0, jax.random.key(0))
    assert {linear.lora_a[...].dtype, linear.lora_b[...].dtype} == {jnp.dtype(jnp.float32)}
    assert linear(jnp.ones((1, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_fresh_adapter_changes_nothing(bare, both):
    _, trainable, frozen, outputs = both
    _, policy = outputs(trainable, frozen)
    tiny_world.assert_close(policy, bare, atol=0, rtol=0)


def test_the_reference_is_the_model_without_adapter_whatever_the_adapter_has_learned(bare, both):
    _, trainable, frozen, outputs = both
    reference, policy = outputs(_moved(trainable), frozen)
    tiny_world.assert_close(reference, bare, atol=0, rtol=0)
    assert all(not np.allclose(ours, theirs, atol=1e-3) for ours, theirs in zip(policy, bare, strict=True))


def test_an_adapter_on_the_drawing_expert_leaves_text_alone(bare):
    net, trainable, frozen = _adapted(experts=("gen",))
    _, (logits, velocity) = _of(net)(_moved(trainable), frozen)
    np.testing.assert_array_equal(logits, bare[0])
    assert not np.allclose(velocity, bare[1], atol=1e-3)


def test_every_projection_of_the_chosen_experts_is_adapted_and_nothing_else():
    for experts in (("gen",), ("und",), ("und", "gen")):
        paths = lora.attach(nnx.clone(tiny_world.world_model()), LoraConfig(rank=1, alpha=1.0, experts=experts), key=jax.random.key(0))
        assert set(paths) == {f"decoder.layers.{expert}.{name}" for expert in experts for name in PROJECTIONS}


def test_only_the_adapter_is_trainable(both):
    _, trainable, frozen, _ = both
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(trainable)]
    assert len(paths) == 2 * 2 * len(PROJECTIONS)
    assert all(path.rsplit(".", 1)[1] in ("lora_a", "lora_b") for path in paths)
    assert not any("lora" in str(path) for path, _ in nnx.to_flat_state(frozen))


def test_gradients_exist_for_the_adapter_alone_and_reach_both_experts(both):
    net, trainable, frozen, _ = both

    def loss(trainable, frozen):
        return jnp.sum(jnp.sin(_velocity(net.policy(trainable, frozen), X)))  # latents meet the markers, which are the other expert's

    gradients = tiny_world.jit(jax.grad(loss))(_moved(trainable), frozen)
    assert jax.tree.structure(gradients) == jax.tree.structure(trainable)
    assert all(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in jax.tree.leaves(gradients))


def test_the_draw_of_a_projection_does_not_depend_on_the_others(both):
    one, two = _adapted(experts=("gen",))[1], both[1]
    tiny_world.assert_close(one["decoder"]["layers"]["gen"], two["decoder"]["layers"]["gen"], atol=0, rtol=0)


def test_settings_that_make_no_adapter_are_refused():
    with pytest.raises(ValueError, match="rank is 0.*train='full'"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match=r"\['vit'\].*'und' and 'gen'"):
        LoraConfig(experts=("gen", "vit"))
    with pytest.raises(ValueError, match="no projection lies in the experts"):
        lora.attach(Linear(2, 2, bias=False, rngs=nnx.Rngs(0)), LoraConfig(), key=jax.random.key(0))


def test_full_training_has_no_reference_and_says_what_to_set():
    net, trainable, frozen = network.whole(nnx.clone(tiny_world.world_model()), ("latent",))
    assert {path[0] for path, _ in nnx.to_flat_state(trainable)} == {"latent"}
    assert "pos" not in trainable["latent"]  # a table is saved, never trained
    with pytest.raises(ValueError, match="objective.image.kl_weight to 0 or train=lora"):
        net.reference(frozen)
    with pytest.raises(ValueError, match=r"cannot train \['wheels'\].*decoder, latent"):
        network.whole(tiny_world.world_model(), ("wheels",))
