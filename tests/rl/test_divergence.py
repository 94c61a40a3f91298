import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import flow_sde
from editr2_jax.rl import divergence, reductions


def test_gaussian_forms_by_hand():
    mean, reference = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(divergence.velocity(mean, reference), [2.5])
    np.testing.assert_allclose(divergence.latent(mean, reference, jnp.array([2.0])), [2.5 / 8])
    np.testing.assert_allclose(divergence.exact(mean, reference, jnp.array([0.5])), [5.0])


def test_a_step_without_noise_has_no_kl_and_no_nan():
    value, gradient = jax.value_and_grad(lambda mean: divergence.exact(mean, jnp.zeros((1, 2)), jnp.zeros(1)).sum())(jnp.ones((1, 2)))
    assert value == 0 and not gradient.any()


@given(st.floats(0.3, 0.95), st.floats(0.05, 0.25), st.floats(0.3, 1.3), st.integers(0, 20))
def test_the_exact_kl_is_the_velocity_gap_in_closed_form(t, delta, noise_level, seed):
    x, v, v_ref = (jax.random.normal(jax.random.key(3 * seed + i), (2, 4, 3)) for i in range(3))
    ours, reference = (flow_sde.moments(x, w, t, t - delta, noise_level=noise_level, t_guard=0.97) for w in (v, v_ref))
    closed = delta / 2 * (1 / ours.sigma + ours.sigma * (1 - t) / (2 * t)) ** 2 * divergence.velocity(v, v_ref)
    np.testing.assert_allclose(divergence.exact(ours.mean, reference.mean, ours.std), closed, rtol=1e-4)
    np.testing.assert_allclose(divergence.latent(ours.mean, reference.mean, ours.sigma), closed * delta, rtol=1e-4)


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_k2_and_k3_are_never_negative_and_all_vanish_at_the_reference(log_prob, reference):
    ours, theirs = jnp.array([log_prob]), jnp.array([reference])
    assert divergence.k2(ours, theirs)[0] >= 0 and divergence.k3(ours, theirs)[0] >= 0
    for estimator in (divergence.k1, divergence.k2, divergence.k3):
        assert estimator(ours, ours)[0] == 0


def test_the_reference_receives_no_gradient():
    ones = jnp.ones((1, 2))
    assert not jax.grad(lambda reference: divergence.velocity(2 * ones, reference).sum())(ones).any()
    assert not jax.grad(lambda reference: divergence.k3(2 * ones, reference).sum())(ones).any()


@golden.each("kl")
def test_token_estimators_match_tunix(case, bits):
    log_prob, reference = golden.put(case["logp"], bits), golden.put(case["ref_logp"], bits)
    mask = jnp.asarray(case["mask"]) > 0
    for name in ("k1", "k2", "k3"):
        estimator = getattr(divergence, name)
        golden.agree(estimator(log_prob, reference), case, name, bits)
        weights = golden.put(reductions.row_weights(np.asarray(mask.sum(1)), reduction="token_mean", slots=mask.shape[1]), bits)

        def masked_mean(x, estimator=estimator, weights=weights):
            return (weights * reductions.sum_per_row(estimator(x, reference), mask)).mean()

        mean, gradient = jax.value_and_grad(masked_mean)(log_prob)
        golden.agree(mean, case, f"{name}_masked_mean", bits)
        golden.agree(gradient, case, f"{name}_grad", bits, kind="gradient")
