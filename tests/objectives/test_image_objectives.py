"""Image objectives by hand: the numbers that their heads promise."""

import jax
import jax.numpy as jnp
import numpy as np
import points_by_hand as by_hand
import pytest

from editr2_jax.objectives import image_objective
from editr2_jax.objectives.image import awm, dpo, dppo, grpo, guard, nft, rwr
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.points import Velocities
from editr2_jax.rl import selection

OLD = by_hand.velocity(2)


def test_the_surrogate_is_minus_the_clipped_advantage_at_ratio_one():
    at = by_hand.window([7.0, -7.0])
    np.testing.assert_allclose(grpo.loss(at, Velocities(OLD), grpo.Config()).value, [-5.0, 5.0], rtol=1e-5)
    np.testing.assert_allclose(grpo.loss(at, Velocities(OLD), grpo.Config(advantage_clip=2.0)).value, [-2.0, 2.0], rtol=1e-5)


@pytest.mark.parametrize("form", image_objective.KL_FORMS)
def test_the_divergence_is_a_multiple_of_the_squared_gap_of_velocities(form):
    """mean - mean_ref = (1 + sigma^2 (1 - t) / 2t) dt (v - v_ref), over 2 sigma^2 (latent), or over 2 sigma^2 dt (exact)."""
    at, gap = by_hand.window([1.0, 1.0], noise_level=1.3), np.array([0.5, -0.2])
    ours = image_objective.kl(form, at, OLD, OLD + gap[:, None, None])
    dt, sigma = by_hand.T - by_hand.T_NEXT, 1.3 * np.sqrt(by_hand.T / (1 - by_hand.T))
    shift = np.square(gap * (1 + sigma**2 * (1 - by_hand.T) / (2 * by_hand.T)) * dt)
    expected = {"latent": shift / (2 * sigma**2), "exact": shift / (2 * sigma**2 * dt), "velocity": np.square(gap)}[form]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_the_term_adds_the_weighted_divergence_and_leaves_it_out_without_weight():
    at, v = by_hand.window([1.0, 1.0]), Velocities(OLD, reference=OLD + 0.5)
    without, told = image_objective.terms(at, v, ImageObjectiveConfig(kl_weight=0.0))
    assert "kl" not in told
    value, told = image_objective.terms(at, v, ImageObjectiveConfig(kl_weight=2.0, kl="velocity"))
    np.testing.assert_allclose(value - without, 2 * 0.25, rtol=1e-5)
    np.testing.assert_allclose(told["kl"], 0.25, rtol=1e-6)


def test_guard_gives_gradients_of_one_size_where_grpo_s_grow_with_the_step():
    """The gradient on the velocity is c |eps| per number, whatever the step: GRPO's goes with dt / s."""
    sizes = {}
    for algorithm in (grpo, guard):
        for dt in (0.05, 0.2):
            at = by_hand.window([1.0, 1.0])
            v = OLD
            eps = by_hand.normal(1, 2, *by_hand.SHAPE)
            taken = at.kernel.step(at.x, v, at.t, at.t - dt, t_guard=at.t_guard, eps=eps)
            at = type(at)(**{**vars(at), "x_next": taken.next, "t_next": at.t - dt, "old_log_prob": taken.log_prob})
            gradient = jax.grad(
                lambda v, at=at, algorithm=algorithm: algorithm.loss(at, Velocities(v, OLD), algorithm.Config()).value.sum()
            )(v)
            sizes[algorithm, dt] = float(jnp.abs(gradient).mean())
    assert sizes[guard, 0.2] == pytest.approx(sizes[guard, 0.05], rel=1e-3)
    assert sizes[grpo, 0.2] == pytest.approx(2 * sizes[grpo, 0.05], rel=1e-3)  # sqrt(4)


def test_dppo_drops_what_has_moved_far_enough_in_the_right_direction():
    at = by_hand.window([1.0, -1.0])
    towards = jax.grad(lambda v: at.density(v).log_prob.sum())(OLD)
    v = OLD + towards / jnp.abs(towards).max()  # both rows become likelier
    told = dppo.loss(at, Velocities(v, OLD), dppo.Config()).statistics
    assert (told["ratio"] > 1).all() and (told["moved"] > 1e-5).all()
    np.testing.assert_array_equal(told["dropped"], [True, False])
    assert not dppo.loss(at, Velocities(v, OLD), dppo.Config(threshold=10.0)).statistics["dropped"].any()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("all", [1.0, 0.7, 0.4, 0.0]),
        ("positive_only", [1.0, 0.7, 0.5, 0.5]),
        ("negative_only", [0.5, 0.5, 0.4, 0.0]),
        ("one_only", [0.6, 0.6, 0.5, 0.5]),
        ("binary", [0.6, 0.6, 0.4, 0.4]),
    ],
)
def test_optimality_by_mode(mode, expected):
    np.testing.assert_allclose(nft.optimality(jnp.array([9.0, 2.0, -1.0, -7.0]), nft.Config(mode=mode)), expected, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nft_s_gradient_at_the_old_policy_does_not_depend_on_beta(beta):
    at, old = by_hand.path([3.0, -2.0]), by_hand.velocity(2)
    learn = jax.grad(lambda v, b: nft.loss(at, Velocities(v, old), nft.Config(beta=b)).value.sum())
    np.testing.assert_allclose(learn(old, beta), learn(old, 0.5), rtol=1e-3, atol=1e-6)


def test_awm_s_clip_stops_a_sample_that_already_fits_better():
    at, old = by_hand.path([1.0, -1.0]), by_hand.velocity(2)
    better = old + 0.1 * (at.target - old)
    gradient = jax.grad(lambda v: awm.loss(at, Velocities(v, old), awm.Config()).value.sum())(better)
    assert not gradient[0].any() and gradient[1].any()


def test_dpo_pairs_the_best_with_the_worst_that_teach_and_nothing_on_ties():
    advantage = jnp.array([[1.0, 3.0, -2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 3.0, -2.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    mask = jnp.array([[True] * 4, [True] * 4, [True, False, False, True], [True, False, False, False]])
    best, worst, paired = dpo.pairs(advantage, mask)
    np.testing.assert_array_equal(paired, [True, False, True, False])
    assert (int(best[0]), int(worst[0]), int(best[2]), int(worst[2])) == (1, 2, 0, 3)


def test_dpo_of_an_unmoved_policy_is_log_2_and_a_mean_over_groups():
    at = by_hand.path([1.0, 0.0, -1.0, 0.0, 0.0, 0.0], group=3)
    v = by_hand.velocity(6)
    np.testing.assert_allclose(dpo.loss(at, Velocities(v, reference=v), dpo.Config()).value.mean(), np.log(2) / 2, rtol=1e-6)


def test_weights_of_a_regression():
    advantage, reward, mask = jnp.array([1.0, 2.0, 2.0, 0.0]), jnp.array([0.2, 0.9, 0.9, 0.7]), jnp.array([True, True, True, False])
    of = lambda weighting, group=4: selection.weights(reward, advantage, mask, group=group, weighting=weighting, temperature=2.0)  # noqa: E731
    np.testing.assert_allclose(of("reward"), [0.2, 0.9, 0.9, 0])
    np.testing.assert_allclose(of("best"), [0, 1, 1, 0])
    np.testing.assert_allclose(of("exp"), [np.exp(0.5), np.e, np.e, 0], rtol=1e-6)
    np.testing.assert_allclose(of("best", group=2), [0, 1, 0, 0])  # of the second group one member is left, which has no rival
    with pytest.raises(ValueError, match="whole groups"):
        of("best", group=3)


def test_settings_that_cannot_be_are_refused():
    for make, message in (
        (lambda: ImageObjectiveConfig(kl="reverse"), "kl is 'reverse'; choose one of latent, exact, velocity"),
        (
            lambda: ImageObjectiveConfig(kind="nft", settings=nft.Config()),
            "at the path and has none; set objective.image.kl=velocity",
        ),
        (lambda: ImageObjectiveConfig(reference_context="own"), "choose one of policy, rebuilt"),
        (lambda: ImageObjectiveConfig(times="late"), "choose one of grid, continuous"),
        (lambda: nft.Config(mode="none"), "mode is one of all, positive_only"),
        (lambda: awm.Config(weighting="t3"), "weighting is one of uniform, t, t2, huber, ghuber"),
        (lambda: rwr.Config(weighting="worst"), "weighting is one of reward, best, exp"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
