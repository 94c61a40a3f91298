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
    kept = arrived.trajectory
    assert kept.log_prob.shape == kept.step.shape == (3, 0) and kept.x.shape == kept.x_next.shape == (3, 0, 5, 4)


@pytest.mark.parametrize("steps", [[0, 1], [5, 6], [0, 2, 5], [3]])
@pytest.mark.parametrize("kind", ["sde", "dance", "cps", "ddim"])
def test_replaying_the_recorded_steps_gives_ratio_one(kind, steps):
    """In one piece or not; a step that starts where the last one ended starts from the same numbers."""
    kernel = kernels.Kernel(kind=kind, noise_level=0.7)
    rows = jnp.broadcast_to(jnp.array(steps), (3, len(steps)))
    kept = jax.jit(lambda x, steps: denoise.run(velocity, noise, x, grid=GRID, kernel=kernel, steps=steps))(normal(1), rows).trajectory
    np.testing.assert_array_equal(kept.step, rows)
    np.testing.assert_array_equal(kept.t, GRID[rows])
    np.testing.assert_array_equal(kept.t_next, GRID[rows + 1])  # defect 11: of the grid, also for a window's last step
    for w, step in enumerate(steps):
        x, x_next, t, t_next = (part[:, w] for part in (kept.x, kept.x_next, kept.t, kept.t_next))
        again = kernel.log_prob(x, velocity(x, t[:, None, None], None), x_next, t, t_next, t_guard=GRID[1])
        np.testing.assert_allclose(jnp.exp(again.log_prob - kept.log_prob[:, w]), 1.0, atol=1e-6)
        if step + 1 in steps:
            np.testing.assert_array_equal(x_next, kept.x[:, w + 1])


def test_between_the_pieces_of_a_window_the_walk_is_the_ode():
    kept = denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, steps=jnp.array([[1, 4]] * 3)).trajectory
    x = kept.x_next[:, 0]
    for step in (2, 3):
        x = rectified_flow.euler(x, velocity(x, GRID[step], step), GRID[step], GRID[step + 1])
    np.testing.assert_allclose(x, kept.x[:, 1], atol=1e-5)


def test_rows_may_have_windows_of_their_own():
    steps = jnp.array([[0, 1], [2, 6], [5, 6]])
    walk = jax.jit(lambda steps: denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, steps=steps))
    together = walk(steps)
    for row in range(3):
        alone = walk(jnp.broadcast_to(steps[row], (3, 2)))
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[row], theirs[row], rtol=1e-5, atol=1e-6)


def test_more_stochastic_steps_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match="8 stochastic steps does not fit into a grid of 7"):
        denoise.run(velocity, noise, normal(1), grid=GRID, kernel=KERNEL, steps=jnp.zeros((3, 8), jnp.int32))


@golden.each("rollout")
def test_the_sampler_matches_edit_r2(case, bits):
    args = case.args
    velocities, eps = golden.put(case["v_per_step"], bits), golden.put(case["eps_per_step"], bits)
    arrived = jax.jit(
        lambda x, steps: denoise.run(
            lambda x, t, step: velocities[step][None],
            lambda step: eps[step][None],
            x,
            grid=timesteps.shifted(args["num_timesteps"], args["timestep_shift"]),
            kernel=kernels.Kernel(kind="sde", noise_level=args["noise_level"]),
            steps=steps,
        )
    )(golden.put(case["x_init"], bits)[None], args["window_start"] + jnp.arange(args["window_size"])[None])
    kept = arrived.trajectory
    golden.agree(arrived.latent[0], case, "x_final", bits, kind="rollout")
    golden.agree(jnp.concatenate([kept.x[0, :1], kept.x_next[0]]), case, "window_latents", bits, kind="rollout")
    golden.agree(kept.log_prob[0], case, "window_log_probs", bits, kind="rollout")
    golden.agree(kept.t[0], case, "window_t", bits)
