"""The stochastic steps: flow_sde and cps, by themselves and through kernels.Kernel."""

import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import cps, flow_sde, kernels, rectified_flow, timesteps

GRID = timesteps.shifted(15, 3.0)
both = pytest.mark.parametrize(
    "kernel", [kernels.Kernel(kind="sde", noise_level=1.3), kernels.Kernel(kind="cps", noise_level=0.8)], ids=["sde", "cps"]
)


def normal(seed: int, shape=(3, 5, 4)) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_flow_sde_by_hand():
    # t = 0.5, eta = 1: sigma = 1, sigma^2/(2t) = 1, x + (1-t) v = 3, drift = 2 + 3, t' - t = -0.25, std = 0.5
    drawn = flow_sde.step(jnp.array([[2.0]]), jnp.array([[2.0]]), 0.5, 0.25, noise_level=1.0, t_guard=0.9, eps=jnp.array([[2.0]]))
    assert (drawn.mean[0, 0], drawn.std[0], drawn.sigma[0]) == (0.75, 0.5, 1.0)
    assert (drawn.next[0, 0], drawn.log_prob[0]) == (1.75, -2.0)


def test_the_guard_at_t_one_makes_the_spread_the_noise_level():
    drawn = flow_sde.moments(normal(0), normal(1), GRID[0], GRID[1], noise_level=1.3, t_guard=GRID[1])
    np.testing.assert_allclose(drawn.std, 1.3, rtol=1e-5)


def test_after_a_cps_step_the_noise_level_is_the_next_time():
    clean, noise = jnp.zeros((1, 4000)), normal(0, (1, 4000))
    x, v = rectified_flow.interpolate(clean, noise, 0.8), rectified_flow.velocity(clean, noise)
    drawn = cps.step(x, v, 0.8, 0.6, noise_level=0.8, eps=normal(1, (1, 4000)))
    np.testing.assert_allclose(jnp.std(drawn.next), 0.6, rtol=0.05)


def test_beyond_one_the_noise_of_cps_falls_again():
    less, more = (cps.moments(normal(0), normal(1), 0.8, 0.6, noise_level=level) for level in (0.7, 1.3))
    for ours, theirs in zip(less, more, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_true_gaussian_score_of_cps_divides_by_the_variance():
    args = (normal(0), normal(1), normal(2), 0.8, 0.6)
    published, scaled = cps.log_prob(*args, noise_level=0.8), cps.log_prob(*args, noise_level=0.8, scaled=True)
    np.testing.assert_allclose(scaled.log_prob * 2 * scaled.std**2, published.log_prob, rtol=1e-5)


@both
@pytest.mark.parametrize("step", [0, 1, 6, 12, 13])
def test_a_fresh_draw_has_ratio_one(kernel, step):
    x, v, eps = normal(0), normal(1), normal(2)
    draw = jax.jit(lambda x, v, eps: kernel.step(x, v, GRID[step], GRID[step + 1], t_guard=GRID[1], eps=eps, stochastic=jnp.bool_(True)))
    score = jax.jit(
        jax.vmap(lambda x, v, x_next: kernel.log_prob(x[None], v[None], x_next[None], GRID[step], GRID[step + 1], t_guard=GRID[1]))
    )
    drawn = draw(x, v, eps)
    np.testing.assert_allclose(jnp.exp(score(x, v, drawn.next).log_prob[:, 0] - drawn.log_prob), 1.0, atol=3e-7)


@both
@given(st.integers(0, 13), st.integers(0, 99))
def test_outside_the_window_the_step_is_euler_and_nothing_is_nan(kernel, step, seed):
    x, v = normal(seed), normal(seed + 1)

    def value(v, stochastic):
        taken = kernel.step(x, v, GRID[step], GRID[step + 1], t_guard=GRID[1], eps=normal(seed + 2), stochastic=stochastic)
        return jnp.sum(taken.next) + jnp.sum(taken.log_prob), taken

    (_, taken), gradient = jax.value_and_grad(value, has_aux=True)(v, jnp.bool_(False))
    np.testing.assert_array_equal(taken.next, rectified_flow.euler(x, v, GRID[step], GRID[step + 1]))
    np.testing.assert_array_equal(taken.mean, taken.next)
    assert not taken.log_prob.any() and not taken.std.any() and not taken.sigma.any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_noise_level_zero_has_no_nan_in_value_or_gradient(kind):
    kernel = kernels.Kernel(kind=kind, noise_level=0.0)

    def score(v):
        return kernel.log_prob(normal(0), v, normal(2), GRID[3], GRID[4], t_guard=GRID[1]).log_prob.sum()

    value, gradient = jax.value_and_grad(score)(normal(1))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if kind == "sde":
        assert value == 0 and not gradient.any()


@both
def test_rows_may_have_their_own_time_and_their_own_window(kernel):
    x, v, eps = normal(0), normal(1), normal(2)
    steps = jnp.array([0, 5, 9])
    stochastic = jnp.array([True, False, True])
    together = kernel.step(x, v, GRID[steps], GRID[steps + 1], t_guard=GRID[1], eps=eps, stochastic=stochastic)
    for row in range(3):
        one = slice(row, row + 1)
        alone = kernel.step(
            x[one], v[one], GRID[steps[row]], GRID[steps[row] + 1], t_guard=GRID[1], eps=eps[one], stochastic=stochastic[row]
        )
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[one], theirs, rtol=1e-6, atol=1e-6)


def test_the_score_is_a_mean_over_the_latent_not_a_sum():
    one = flow_sde.log_prob(normal(0), normal(1), normal(2), 0.5, 0.4, noise_level=1.0, t_guard=0.9)
    wide = flow_sde.log_prob(*(jnp.tile(normal(i), (1, 1, 7)) for i in range(3)), 0.5, 0.4, noise_level=1.0, t_guard=0.9)
    np.testing.assert_allclose(one.log_prob, wide.log_prob, rtol=1e-5)


def test_an_unknown_kernel_or_noise_level_is_refused():
    with pytest.raises(ValueError, match="choose one of cps, sde"):
        kernels.Kernel(kind="dance")
    with pytest.raises(ValueError, match=r"must be in \[0, 2\)"):
        kernels.Kernel(kind="cps", noise_level=2.0)
    with pytest.raises(ValueError, match="must be at least 0"):
        kernels.Kernel(kind="sde", noise_level=-0.1)


def compare_single(case, bits):
    """A case of one picture with explicit times."""
    kernel = kernels.Kernel(kind=case.args["sde_type"], noise_level=case.args["noise_level"])
    x, v = (golden.put(case[name], bits)[None] for name in ("x", "v"))
    t, t_next, t_guard = (golden.put(case[name], bits) for name in ("t", "t_prev", "sigma_max"))
    if "eps" in case:
        eps = golden.put(case["eps"], bits)[None]
        golden.agree(kernel.step(x, v, t, t_next, t_guard=t_guard, eps=eps).next[0], case, "next", bits)
    x_next = golden.put(case["prev_sample"] if "prev_sample" in case else case["next"], bits)[None]

    def score(v):
        density = kernel.log_prob(x, v, x_next, t, t_next, t_guard=t_guard)
        return density.log_prob[0], density

    (log_prob, density), gradient = jax.value_and_grad(score, has_aux=True)(v)
    golden.agree(density.mean[0], case, "mean", bits)
    golden.agree(density.sigma[0], case, "std_dev_t", bits)
    if "log_prob" in case:
        golden.agree(log_prob, case, "log_prob", bits)
        golden.agree(gradient[0], case, "grad_log_prob_v", bits, kind="gradient")


def compare_batch(case, bits):
    """A case of several pictures on a recorded grid. The references keep the Gaussian constants, which are added here."""
    args = case.args
    kind = "cps" if "cps" in (args.get("sde_type"), str(args.get("dynamics")).lower()) else "sde"
    kernel = kernels.Kernel(kind=kind, noise_level=args.get("noise_level", args.get("eta")))
    grid = golden.put(case["sigmas"], bits)
    steps = np.array(args["step_indices"]) if "step_indices" in args else args["step_index"]
    times = (grid[steps], grid[steps + 1])
    x, v, eps = (golden.put(case[name], bits) for name in ("x", "v", "eps"))
    drawn = kernel.step(x, v, *times, t_guard=grid[1], eps=eps, stochastic=not args.get("deterministic", False))
    golden.agree(drawn.next, case, "next", bits)
    if "x0_pred" in case:
        golden.agree(rectified_flow.clean_from(x, v, times[0]), case, "x0_pred", bits)

    def score(v):
        density = kernel.log_prob(x, v, golden.put(case["next"], bits), *times, t_guard=grid[1])
        return density.log_prob.sum(), density

    (_, density), gradient = jax.value_and_grad(score, has_aux=True)(v)
    golden.agree(density.mean, case, "mean", bits)
    constants = jnp.log(density.std) + jnp.log(2 * jnp.pi) / 2 if kind == "sde" else 0.0
    golden.agree(density.log_prob - constants, case, "log_prob", bits)
    if "std_total" in case:
        golden.agree(density.std[0], case, "std_total", bits)
    if "std_dev_t" in case:
        golden.agree(density.sigma[: case["std_dev_t"].size], case, "std_dev_t", bits)
    if "grad_v" in case:
        golden.agree(gradient, case, "grad_v", bits, kind="gradient")


def single(case) -> bool:
    return "t_prev" in case


@golden.each("step_flow_sde", single)
def test_flow_sde_matches_edit_r2(case, bits):
    compare_single(case, bits)


@golden.each("step_cps", single)
def test_cps_matches_edit_r2(case, bits):
    compare_single(case, bits)


@golden.each("step_flow_sde", lambda case: not single(case))
def test_flow_sde_matches_batched_references(case, bits):
    compare_batch(case, bits)


@golden.each("step_cps", lambda case: not single(case))
def test_cps_matches_batched_references(case, bits):
    compare_batch(case, bits)
