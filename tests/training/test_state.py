import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_world

from editr2_jax.models import network
from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.config import tiny
from editr2_jax.runtime import mesh
from editr2_jax.runtime.mesh import Layout
from editr2_jax.training import state as states
from editr2_jax.training.state import OptimizerConfig

WEIGHTS = {"a": np.float32([1.0, -2.0]), "b": np.float32([[0.5]])}
GRADIENTS = {"a": np.float32([3.0, 0.0]), "b": np.float32([[4.0]])}  # norm 5


def _scaled(factor: float):
    return {name: np.float32(factor) * g for name, g in GRADIENTS.items()}


def _after(config: OptimizerConfig, *gradients):
    """State and the last update's metrics."""
    optimizer = config.build()
    state, apply = states.create(WEIGHTS, optimizer), tiny_world.jit(lambda state, g: states.apply(state, g, optimizer))
    for gradient in gradients:
        state, metrics = apply(state, gradient)
    return state, metrics


def test_a_huge_gradient_moves_the_weights_as_its_clipped_form_does():
    """A second, small gradient shows the clip: Adam alone forgives the scale of a first one."""
    config, free = OptimizerConfig(learning_rate=0.1, clip_norm=1.0), OptimizerConfig(learning_rate=0.1, clip_norm=0.0)
    huge, told = _after(config, _scaled(1e6), GRADIENTS)
    by_hand, _ = _after(free, _scaled(1 / 5), _scaled(1 / 5))
    unclipped, _ = _after(free, _scaled(1e6), GRADIENTS)
    tiny_world.assert_close(huge.trainable, by_hand.trainable, rtol=1e-5)
    assert not np.allclose(huge.trainable["a"], unclipped.trainable["a"], atol=1e-2)
    assert float(told["optimizer/gradient_norm"]) == pytest.approx(5.0)  # what came in, not what was left


def test_gradients_below_the_clip_pass_as_they_are():
    small, _ = _after(OptimizerConfig(learning_rate=0.1, clip_norm=10.0), GRADIENTS)
    free, _ = _after(OptimizerConfig(learning_rate=0.1, clip_norm=0.0), GRADIENTS)
    tiny_world.assert_close(small.trainable, free.trainable, rtol=1e-6)


def test_an_update_is_adam_s_and_the_step_is_left_to_the_loop():
    state, metrics = _after(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), GRADIENTS)
    np.testing.assert_allclose(state.trainable["a"], [1 - 0.1 - 0.05, -2 + 0.1], rtol=1e-4)  # sign of the gradient, and decay
    assert float(metrics["optimizer/update_norm"]) == pytest.approx(np.sqrt(0.15**2 + 0.1**2 + 0.125**2), rel=1e-3)
    assert int(state.step) == 0


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (OptimizerConfig(learning_rate=2.0), {0: 2.0, 1000: 2.0}),
        (OptimizerConfig(learning_rate=2.0, warmup_steps=3), {0: 0.5, 1: 1.0, 2: 1.5, 3: 2.0, 50: 2.0}),
        (OptimizerConfig(learning_rate=2.0, decay_steps=10), {0: 2.0, 5: 1.0, 10: 0.0, 20: 0.0}),
        (OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay_steps=10), {2: 1.0, 4: 2.0, 7: 1.0, 10: 0.0}),
    ],
)
def test_learning_rates_by_update(config, rates):
    schedule = config.schedule()
    for update, rate in rates.items():
        assert float(schedule(jnp.asarray(update))) == pytest.approx(rate, abs=1e-6), update


def test_the_rate_in_use_is_the_schedule_s():
    state, metrics = _after(OptimizerConfig(learning_rate=0.4, warmup_steps=3, weight_decay=0.0), GRADIENTS)
    assert float(metrics["optimizer/update_norm"]) == pytest.approx(0.1 * np.sqrt(2), rel=1e-3)  # two numbers with a gradient
    assert float(optax.global_norm(state.trainable)) > 0


def test_muon_moves_stacked_matrices_by_orthogonal_steps_and_the_rest_as_adam_does():
    rng = np.random.default_rng(0)
    weights = {"stack": np.zeros((3, 8, 4), np.float32), "table": np.zeros((8, 4), np.float32)}
    gradients = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in weights.items()}
    muon = OptimizerConfig(name="muon", learning_rate=0.1, weight_decay=0.0, clip_norm=0.0).build()
    adam = optax.adamw(0.1, weight_decay=0.0, nesterov=True)
    moved, theirs = (states.apply(states.create(weights, rule), gradients, rule)[0].trainable for rule in (muon, adam))
    np.testing.assert_allclose(moved["table"], theirs["table"], atol=1e-6)
    singular = np.linalg.svd(np.asarray(moved["stack"]), compute_uv=False)
    size = 0.1 * 0.2 * np.sqrt(8)  # learning rate, root mean square of an AdamW step, longer side
    assert singular.shape == (3, 4) and np.all(singular > 0.6 * size) and np.all(singular < 1.3 * size)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_every_moment_of_either_optimizer_has_a_place_on_a_mesh(name, clip_norm):
    layout = Layout(mesh.make(devices=jax.devices()[:1]), "fsdp")
    _, trainable, _ = network.whole(bagel.abstract(tiny()))
    optimizer = OptimizerConfig(name=name, clip_norm=clip_norm).build()
    where = states.moment_shardings(trainable, optimizer, layout)
    moments = jax.eval_shape(optimizer.init, trainable)
    assert jax.tree.structure(where) == jax.tree.structure(moments)
    assert all(isinstance(place, jax.sharding.NamedSharding) for place in jax.tree.leaves(where))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="name is 'sgd'; choose adamw or muon"):
        OptimizerConfig(name="sgd")
