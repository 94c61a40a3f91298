import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.flow import denoise, kernels, rectified_flow, timesteps

GRID = timesteps.shifted(8, 3.0)
KERNEL = kernels.Kernel(kind="sde", noise_level=0.7)


def normal(seed, shape=(3, 5, 4)):
    return jax.random.normal(jax.random.key(seed), shape)


def velocity(x, t, step):
    return jnp.sin(x) + t


def noise(step):
    return jax.random.normal(jax.random.fold_in(jax.random.key(9), step), (3, 5, 4))


def test_without_a_window_a_straight_path_arrives_at_the_picture():
    clean, start = normal(0), normal(1)
    arrived = denoise.run(lambda x, t, step: rectified_flow.velocity(clean, start), noise, start, grid=GRID, kernel=KERNEL)
    np.testing.assert_allclose(arrived.latent, clean, atol=1e-5)
    assert arrived.trajectory.log_prob.shape == (3, 0)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_replaying_the_recorded_steps_gives_ratio_one(kind):
    kernel = kernels.Kernel(kind=kind, noise_level=0.7)
    walk = jax.jit(lambda x, start: denoise.run(velocity, noise, x, grid=GRID, kernel=kernel, start=start, size=2))
    for start in (0, 3, 5):
        kept = walk(normal(1), start).trajectory
        for w in range(2):
            x, x_next, t, t_next = kept.latents[:, w], kept.latents[:, w + 1], kept.t[:, w], kept.t_next[:, w]
            again = kernel.log_prob(x, velocity(x, t[:, None, None], None), x_next, t, t_next, t_guard=GRID[1])
            np.testing.assert_allclose(jnp.exp(again.log_prob - kept.log_prob[:, w]), 1.0, atol=1e-6)
            np.testing.assert_array_equal(kept.step[:, w], start + w)


def test_rows_may_have_windows_of_their_own():
    starts = jnp.array([0, 2, 5])
    together = denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, start=starts, size=2)
    for row in range(3):
        alone = denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, start=int(starts[row]), size=2)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[row], theirs[row], rtol=1e-5, atol=1e-6)


def test_a_window_longer_than_the_grid_is_refused():
    with pytest.raises(ValueError, match="8 stochastic steps does not fit into a grid of 7"):
        denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, size=8)


@golden.each("rollout")
def test_the_sampler_matches_edit_r2(case, bits):
    args = case.args
    velocities, eps = golden.put(case["v_per_step"], bits), golden.put(case["eps_per_step"], bits)
    arrived = jax.jit(
        lambda x, start: denoise.run(
            lambda x, t, step: velocities[step][None],
            lambda step: eps[step][None],
            x,
            grid=timesteps.shifted(args["num_timesteps"], args["timestep_shift"]),
            kernel=kernels.Kernel(kind="sde", noise_level=args["noise_level"]),
            start=start,
            size=args["window_size"],
        )
    )(golden.put(case["x_init"], bits)[None], args["window_start"])
    golden.agree(arrived.latent[0], case, "x_final", bits, kind="rollout")
    golden.agree(arrived.trajectory.latents[0], case, "window_latents", bits, kind="rollout")
    golden.agree(arrived.trajectory.log_prob[0], case, "window_log_probs", bits, kind="rollout")
    golden.agree(arrived.trajectory.t[0], case, "window_t", bits)
