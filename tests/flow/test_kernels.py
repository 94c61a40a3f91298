"""The transitions: laws of every kernel through kernels.Kernel, which is what sampler and loss call, and the recorded steps."""

import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import kernels, rectified_flow, timesteps

GRID = timesteps.shifted(15, 3.0)
NOISY = [
    kernels.Kernel(kind="sde", noise_level=1.3),
    kernels.Kernel(kind="dance", noise_level=0.3),
    kernels.Kernel(kind="cps", noise_level=0.8),
    kernels.Kernel(kind="cps", noise_level=0.8, scaled=True),
    kernels.Kernel(kind="ddim", noise_level=0.7),
]
ODE = kernels.Kernel(kind="ode", noise_level=0.0)
LEAVE_T = ("cps", "ddim")  # kernels that leave a noise level of exactly t'


def _name(kernel) -> str:
    return kernel.kind + ("_scaled" if kernel.scaled else "")


noisy = pytest.mark.parametrize("kernel", NOISY, ids=_name)
every = pytest.mark.parametrize("kernel", [*NOISY, ODE], ids=_name)
times = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(lambda pair: (max(pair) / 1000, min(pair) / 1000))


def normal(seed: int, shape=(3, 5, 4)) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def moments(kernel, x, v, t, t_next):
    """(mean, std) of a step; t_guard is the kernel's own next time, as on a grid."""
    density = kernel.log_prob(x, v, x, t, t_next, t_guard=t_next)
    return density.mean, density.std


# By hand -------------------------------------------------------------------------------------------------------------------------


def one(value: float) -> jax.Array:
    return jnp.array([[value]])


def test_flow_sde_by_hand():
    # t = 0.5, eta = 1: sigma = 1, sigma^2/(2t) = 1, x + (1-t) v = 3, drift = 2 + 3, t' - t = -0.25, std = 0.5
    drawn = kernels.Kernel(kind="sde", noise_level=1.0).step(one(2), one(2), 0.5, 0.25, t_guard=0.9, eps=one(2))
    assert (drawn.mean[0, 0], drawn.std[0], drawn.sigma[0]) == (0.75, 0.5, 1.0)
    assert (drawn.next[0, 0], drawn.log_prob[0]) == (1.75, -2.0)


def test_dance_by_hand():
    # t = 0.5, eta = 0.5: eta^2/(2t) = 0.25, x + (1-t) v = 3, drift = 2 + 0.75, t' - t = -0.25, std = 0.25
    drawn = kernels.Kernel(kind="dance", noise_level=0.5).step(one(2), one(2), 0.5, 0.25, t_guard=0.9, eps=one(2))
    assert (drawn.mean[0, 0], drawn.std[0], drawn.sigma[0]) == (1.3125, 0.25, 0.5)
    assert (drawn.next[0, 0], drawn.log_prob[0]) == (1.8125, -2.0)


def test_ddim_by_hand():
    # t = 0.8, t' = 0.5: q = 0.25, sqrt(1 - q^2) = 0.9682; eta = 1 leaves t' q = 0.125 of the old noise; clean = 1, noise = 3
    clean, noise = one(1), one(3)
    x, v = rectified_flow.interpolate(clean, noise, 0.8), rectified_flow.velocity(clean, noise)
    drawn = kernels.Kernel(kind="ddim", noise_level=1.0).step(x, v, 0.8, 0.5, t_guard=0.9, eps=one(2))
    np.testing.assert_allclose(drawn.std, 0.5 * np.sqrt(1 - 0.25**2), rtol=1e-6)
    np.testing.assert_allclose(drawn.mean, 0.5 * 1 + 0.125 * 3, rtol=1e-6)
    np.testing.assert_allclose(drawn.log_prob, -2.0, rtol=1e-5)


def test_the_guard_at_t_one_makes_the_spread_of_flow_sde_the_noise_level():
    density = NOISY[0].log_prob(normal(0), normal(1), normal(2), GRID[0], GRID[1], t_guard=GRID[1])
    np.testing.assert_allclose(density.std, 1.3, rtol=1e-5)


def test_flow_sde_with_a_spread_that_is_even_in_time_is_dance():
    """sigma of flow_sde is eta sqrt(t / (1-t)): at t = 0.5 it is eta."""
    args = (normal(0), normal(1), normal(2), 0.5, 0.4)
    ours, theirs = (kernels.Kernel(kind=kind, noise_level=0.3).log_prob(*args, t_guard=0.9) for kind in ("sde", "dance"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_beyond_one_the_noise_of_cps_falls_again():
    less, more = (kernels.Kernel(kind="cps", noise_level=level) for level in (0.7, 1.3))
    for ours, theirs in zip(moments(less, normal(0), normal(1), 0.8, 0.6), moments(more, normal(0), normal(1), 0.8, 0.6), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_true_gaussian_score_of_cps_divides_by_the_variance():
    args = (normal(0), normal(1), normal(2), 0.8, 0.6)
    published, scaled = (kernels.Kernel(kind="cps", noise_level=0.8, scaled=flag).log_prob(*args, t_guard=0.9) for flag in (False, True))
    np.testing.assert_allclose(scaled.log_prob * 2 * scaled.std**2, published.log_prob, rtol=1e-5)


# Laws ----------------------------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("step", [0, 1, 6, 12, 13])
def test_a_fresh_draw_has_ratio_one(kernel, step):
    """Exactly where sampler and loss run the same operations, and within a float's step where the compiler cuts them up differently."""
    x, v, eps = normal(0), normal(1), normal(2)
    t, t_next, t_guard = GRID[step], GRID[step + 1], GRID[1]
    drawn = kernel.step(x, v, t, t_next, t_guard=t_guard, eps=eps)
    np.testing.assert_array_equal(kernel.log_prob(x, v, drawn.next, t, t_next, t_guard=t_guard).log_prob, drawn.log_prob)
    draw = jax.jit(lambda x, v, eps: kernel.step(x, v, t, t_next, t_guard=t_guard, eps=eps, stochastic=jnp.bool_(True)))
    score = jax.jit(jax.vmap(lambda x, v, x_next: kernel.log_prob(x[None], v[None], x_next[None], t, t_next, t_guard=t_guard).log_prob[0]))
    drawn = draw(x, v, eps)
    np.testing.assert_allclose(jnp.exp(score(x, v, drawn.next) - drawn.log_prob), 1.0, atol=3e-7)


@every
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


@pytest.mark.parametrize("kind", sorted(kernels.KINDS))
@pytest.mark.parametrize("step", [0, 3, 13])
def test_without_noise_every_kernel_is_the_ode_and_nothing_is_nan(kind, step):
    kernel, t, t_next = kernels.Kernel(kind=kind, noise_level=0.0), GRID[step], GRID[step + 1]
    x, v = normal(0), normal(1)
    drawn = kernel.step(x, v, t, t_next, t_guard=GRID[1], eps=normal(2))
    np.testing.assert_array_equal(drawn.next, rectified_flow.euler(x, v, t, t_next))
    np.testing.assert_allclose(kernel.log_prob(x, v, x, t, t_next, t_guard=GRID[1]).mean, drawn.next, atol=1e-6)

    def score(v):
        return kernel.log_prob(x, v, normal(2), t, t_next, t_guard=GRID[1]).log_prob.sum()

    value, gradient = jax.value_and_grad(score)(v)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if kind != "cps":  # whose published score is a distance, whatever the spread
        assert value == 0 and not gradient.any()


@every
@given(times, st.integers(0, 99))
def test_every_step_between_two_times_is_finite(kernel, pair, seed):
    (t, t_next), x, v = pair, normal(seed), normal(seed + 1)

    def score(v):
        drawn = kernel.step(x, v, t, t_next, t_guard=0.95, eps=normal(seed + 2))
        return kernel.log_prob(x, v, jax.lax.stop_gradient(drawn.next), t, t_next, t_guard=0.95).log_prob.sum(), drawn

    (value, drawn), gradient = jax.value_and_grad(score, has_aux=True)(v)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in (gradient, *drawn))


@every
@given(times)
def test_what_is_known_of_the_picture_is_kept(kernel, pair):
    """Without noise in x, a step's mean lies on the straight path, whatever the kernel."""
    with jax.enable_x64(True):  # flow_sde multiplies rounding by up to 1000 towards t = 1
        (t, t_next), clean = pair, jnp.linspace(-2.0, 2.0, 8, dtype=jnp.float64)[None]
        mean, _ = moments(kernel, (1 - t) * clean, -clean, t, t_next)
        np.testing.assert_allclose(mean, (1 - t_next) * clean, atol=1e-9)


@given(times, st.floats(0.0, 1.0), st.sampled_from(LEAVE_T))
def test_cps_and_ddim_leave_exactly_the_noise_of_the_next_time(pair, level, kind):
    """The old noise that is kept and the new that is drawn have the variance t'^2 together."""
    (t, t_next), noise = pair, jnp.ones((1, 4))
    kept, std = moments(kernels.Kernel(kind=kind, noise_level=level), t * noise, noise, t, t_next)
    np.testing.assert_allclose(np.square(kept[0, 0]) + np.square(std[0]), t_next**2, rtol=2e-5, atol=1e-7)


@given(st.floats(0.1, 0.9), st.floats(0.0, 1.3), st.sampled_from(["sde", "dance"]))
def test_the_sdes_leave_the_noise_of_the_next_time_as_steps_get_short(t, eta, kind):
    """To first order in the step what is drawn is what the drift takes away: the surplus of variance falls with its square."""
    with jax.enable_x64(True):
        noise, step = jnp.ones((1, 4), jnp.float64), 1e-5
        kept, std = moments(kernels.Kernel(kind=kind, noise_level=eta), t * noise, noise, t, t - step)
        surplus = float(jnp.square(kept[0, 0]) + jnp.square(std[0]) - (t - step) ** 2)
    assert abs(surplus) < 100 * step**2


@noisy
@pytest.mark.parametrize("step", [0, 1, 6, 12])
def test_the_score_s_gradient_is_the_gaussian_s(kernel, step):
    """The mean is linear in v with one factor, so d log_prob/d v = factor (x' - mean) / (std^2 D), or twice that without std^2."""
    t, t_next = float(GRID[step]), float(GRID[step + 1])
    x, v = normal(0), normal(1)
    drawn = kernel.step(x, v, t, t_next, t_guard=GRID[1], eps=normal(2))
    gradient = jax.grad(lambda v: kernel.log_prob(x, v, drawn.next, t, t_next, t_guard=GRID[1]).log_prob.sum())(v)
    std, sigma = np.asarray(drawn.std)[:, None, None], np.asarray(drawn.sigma)[:, None, None]
    if kernel.kind in LEAVE_T:
        factor = -t * (1 - t_next) + (1 - t) * np.sqrt(t_next**2 - std**2)
    else:
        factor = (t_next - t) * (1 + sigma**2 * (1 - t) / (2 * t))
    expected = factor * np.asarray(drawn.next - drawn.mean) / x[0].size
    expected = 2 * expected if kernel.kind == "cps" and not kernel.scaled else expected / std**2
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=1e-6 * np.abs(expected).max())


@noisy
def test_rows_may_have_their_own_time_and_their_own_window(kernel):
    x, v, eps = normal(0), normal(1), normal(2)
    steps = jnp.array([0, 5, 9])
    stochastic = jnp.array([True, False, True])
    together = kernel.step(x, v, GRID[steps], GRID[steps + 1], t_guard=GRID[1], eps=eps, stochastic=stochastic)
    for row in range(3):
        alone = slice(row, row + 1)
        taken = kernel.step(
            x[alone], v[alone], GRID[steps[row]], GRID[steps[row] + 1], t_guard=GRID[1], eps=eps[alone], stochastic=stochastic[row]
        )
        for ours, theirs in zip(together, taken, strict=True):
            np.testing.assert_allclose(ours[alone], theirs, rtol=1e-6, atol=1e-6)


@noisy
def test_the_score_is_a_mean_over_the_latent_not_a_sum(kernel):
    narrow = kernel.log_prob(normal(0), normal(1), normal(2), 0.5, 0.4, t_guard=0.9)
    wide = kernel.log_prob(*(jnp.tile(normal(i), (1, 1, 7)) for i in range(3)), 0.5, 0.4, t_guard=0.9)
    np.testing.assert_allclose(narrow.log_prob, wide.log_prob, rtol=1e-5)


def test_a_kernel_says_whether_its_steps_have_a_density():
    assert [kernel.has_density for kernel in (*NOISY, ODE, kernels.Kernel(noise_level=0.0))] == [True] * 5 + [False] * 2
    assert {kernel.kind for kernel in (*NOISY, ODE) if kernel.bare_last_step} == set(LEAVE_T)


def test_an_unknown_kernel_or_noise_level_is_refused():
    for wrong, message in (
        ({"kind": "flow"}, "choose one of cps, dance, ddim, ode, sde"),
        ({"kind": "cps", "noise_level": 2.0}, r"must be in \[0, 2\)"),
        ({"kind": "ddim", "noise_level": 1.3}, r"must be in \[0, 1\]"),
        ({"kind": "sde", "noise_level": -0.1}, "must be at least 0"),
        ({"kind": "dance", "noise_level": -0.1}, "must be at least 0"),
        ({"kind": "sde", "scaled": True}, "kernel 'sde' has one density, its Gaussian"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.Kernel(**wrong)


# Recorded ------------------------------------------------------------------------------------------------------------------------

GROUPS = {"step_ode": "ode", "step_flow_sde": "sde", "step_dance": "dance", "step_cps": "cps", "step_ddim": "ddim"}


def kernel_of(case) -> kernels.Kernel:
    return kernels.Kernel(kind=GROUPS[case.group], noise_level=case.args.get("noise_level", case.args.get("eta")))


def single(case) -> bool:
    """One picture with explicit times; the other cases have several on a recorded grid."""
    return "t_prev" in case


def compare_single(case, bits):
    kernel = kernel_of(case)
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
    args, kernel, grid = case.args, kernel_of(case), golden.put(case["sigmas"], bits)
    steps = np.array(args["step_indices"]) if "step_indices" in args else args["step_index"]
    times = (grid[steps], grid[steps + 1])
    stochastic = not args.get("deterministic", False) and args.get("sde", True)
    x, v, eps = (golden.put(case[name], bits) for name in ("x", "v", "eps"))
    drawn = kernel.step(x, v, *times, t_guard=grid[1], eps=eps, stochastic=stochastic)
    golden.agree(drawn.next, case, "next", bits)
    if "x0_pred" in case:
        golden.agree(rectified_flow.clean_from(x, v, times[0]), case, "x0_pred", bits)

    def score(v):
        density = kernel.log_prob(x, v, golden.put(case["next"], bits), *times, t_guard=grid[1])
        return density.log_prob.sum(), density

    (_, density), gradient = jax.value_and_grad(score, has_aux=True)(v)
    for name, ours in (("mean", density.mean), ("std_total", density.std[0]), ("rho", density.std[0])):
        if name in case:
            golden.agree(ours, case, name, bits)
    if "std_dev_t" in case:
        golden.agree(density.sigma[: case["std_dev_t"].size], case, "std_dev_t", bits)
    if "log_prob" in case:
        of_the_draw = not stochastic and "mean" not in case  # scored against the mean of the step that was taken, not of the SDE's
        ours = drawn.log_prob if of_the_draw else density.log_prob - constants(case, density.std)
        golden.agree(ours, case, "log_prob", bits)
    if "grad_v" in case:
        golden.agree(gradient, case, "grad_v", bits, kind="gradient")


def constants(case, std):
    """What a reference's Gaussian log density has and ours has not, log std + log(2 pi)/2.

    Flow-SDE is recorded with them, of dance Flow-Factory's alone (it names its dynamics), and CPS and the ODE are no Gaussians.
    """
    keeps = case.group == "step_flow_sde" or (case.group == "step_dance" and "dynamics" in case.args)
    return jnp.log(std) + jnp.log(2 * jnp.pi) / 2 if keeps else 0.0


def matches(group: str):
    @golden.each(group)
    def test(case, bits):
        (compare_single if single(case) else compare_batch)(case, bits)

    return test


test_the_plain_step_matches = matches("step_ode")
test_flow_sde_matches = matches("step_flow_sde")
test_dance_matches = matches("step_dance")
test_cps_matches = matches("step_cps")
test_ddim_matches = matches("step_ddim")
