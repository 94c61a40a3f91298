import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.objectives import image_objective
from editr2_jax.objectives.image_objective import ImageObjectiveConfig, StoredStep
from editr2_jax.policies import context as contexts
from editr2_jax.policies.image_policy import FlowConfig

FLOW = FlowConfig(grid_points=5, text_scale=1.0)  # one branch: the velocity is the model's own
SIZE = (16, 16)
STEP = np.array([1, 2], np.int32)


def _model(v):
    """A model whose velocity is given."""
    return types.SimpleNamespace(latent_grid=lambda h, w: (1, 1), velocity=lambda x, *_, **__: v[:, None])


def _traced(v, *, reference=None, old=0.0, advantage=1.0, config=None):
    rng = np.random.default_rng(0)
    x, x_next = (jnp.asarray(rng.standard_normal((2, 1, 4)), jnp.float32) for _ in range(2))
    stored = StoredStep(x=x, x_next=x_next, step=jnp.asarray(STEP), old_log_prob=jnp.full(2, old), advantage=jnp.full(2, advantage))
    blank = jnp.ones((2, 3), bool)
    seen = contexts.Sight(full=blank, without_instruction=blank, without_pictures=blank, start=jnp.zeros((2, 3), jnp.int32))
    cache = types.SimpleNamespace(k=jnp.zeros((1, 2, 1, 3, 2)), v=jnp.zeros((1, 2, 1, 3, 2)), capacity=3)
    context = types.SimpleNamespace(full=cache, text=cache)
    return image_objective.terms(
        _model(v), context, seen, stored, reference_velocity=reference, config=config or ImageObjectiveConfig(), flow=FLOW, size=SIZE
    )


def _terms(*args, **more):
    return tiny_world.jit(lambda: _traced(*args, **more))()


V = jnp.asarray(np.random.default_rng(1).standard_normal((2, 1, 4)), jnp.float32)


@pytest.mark.parametrize("form", image_objective.KL_FORMS)
def test_the_divergence_is_a_multiple_of_the_squared_gap_of_velocities(form):
    """mean - mean_ref = (1 + sigma^2 (1 - t) / 2t) dt (v - v_ref), over 2 sigma^2 (latent), or over 2 sigma^2 dt (exact)."""
    gap = np.array([0.5, -0.2], np.float32)[:, None, None]
    part = _terms(V, reference=V + gap, config=ImageObjectiveConfig(kl=form))
    t, t_next = np.asarray(FLOW.grid())[STEP], np.asarray(FLOW.grid())[STEP + 1]
    sigma = 1.3 * np.sqrt(t / (1 - t))
    dt = t - t_next
    shift = np.square(gap[:, 0, 0] * (1 + sigma**2 * (1 - t) / (2 * t)) * dt)
    expected = {"latent": shift / (2 * sigma**2), "exact": shift / (2 * sigma**2 * dt), "velocity": np.square(gap[:, 0, 0])}[form]
    np.testing.assert_allclose(part.kl, expected, rtol=1e-4)


def test_without_a_reference_there_is_no_divergence_and_no_gradient_flows_into_one():
    assert _terms(V).kl is None
    assert not tiny_world.jit(jax.grad(lambda v_ref: _traced(V, reference=v_ref).kl.sum()))(V + 1).any()


def test_the_surrogate_is_minus_the_clipped_advantage_at_ratio_one():
    fresh = _terms(V).density.log_prob
    part = _terms(V, old=fresh, advantage=7.0)
    np.testing.assert_allclose(part.surrogate.loss, [-5.0, -5.0], rtol=1e-6)
    narrow = ImageObjectiveConfig(advantage_clip=2.0)
    np.testing.assert_allclose(_terms(V, old=fresh, advantage=-7.0, config=narrow).surrogate.loss, [2.0, 2.0], rtol=1e-6)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="kl is 'reverse'; choose one of latent, exact, velocity"):
        ImageObjectiveConfig(kl="reverse")
