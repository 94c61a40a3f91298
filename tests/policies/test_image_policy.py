import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.flow import guidance
from editr2_jax.flow.kernels import Kernel
from editr2_jax.policies import context as contexts
from editr2_jax.policies import image_policy
from editr2_jax.policies.image_policy import FlowConfig

SIZE = (tiny_world.HEIGHT, tiny_world.WIDTH)


def test_log_prob_of_a_fresh_sample_gives_ratio_one_in_every_turn_and_step():
    drawn = np.asarray(tiny_world.rollout().played.image_log_prob)
    again, _ = tiny_world.asked()
    assert drawn.shape == (4, tiny_world.TURNS, tiny_world.WINDOW.size)
    np.testing.assert_allclose(np.exp(again - drawn), 1.0, atol=2e-6)  # a fifth of the narrowest clip


def test_log_prob_of_another_policy_does_not():
    """The law above would hold of constants too."""
    other, _ = tiny_world.updater().ask_again(tiny_world.fresh(), tiny_world.rollout().played)
    assert np.all(np.abs(np.asarray(other) - tiny_world.asked()[0]) > 1e-3)


# Branches count by their number: the fake model's velocity in branch i is a field of its own, plus a part of x.
FIELDS = np.random.default_rng(0).standard_normal((3, 1, 6, 64)).astype(np.float32)


class FakeModel:
    """Remembers how many branches it was asked for."""

    def __init__(self):
        self.branches = []

    def latent_grid(self, height, width):
        return height // 16, width // 16

    def velocity(self, x, t, *, grid, start, views):
        self.branches.append(x.shape[1])
        assert start.shape[1] == x.shape[1] == sum(view.visible.shape[1] for view in views)
        return 0.1 * x + FIELDS[: x.shape[1]].swapaxes(0, 1)


def _context(rows: int = 2):
    """Enough of a context for a model that looks at none of it."""
    cache = types.SimpleNamespace(k=jnp.zeros((1, rows, 1, 4, 2)), v=jnp.zeros((1, rows, 1, 4, 2)), capacity=4)
    blank = jnp.ones((rows, 4), bool)
    seen = contexts.Sight(full=blank, without_instruction=blank, without_pictures=blank, start=jnp.zeros((rows, 3), jnp.int32))
    return types.SimpleNamespace(full=cache, text=cache), seen


def _guided(flow: FlowConfig, t: float = 0.5):
    model, x = FakeModel(), np.random.default_rng(1).standard_normal((2, 6, 64)).astype(np.float32)

    def guided(x, t):
        context, seen = _context()
        return image_policy.guided_velocity(model, context, seen, x, t, flow=flow, size=SIZE)

    v = tiny_world.jit(guided)(x, np.full((2,), t, np.float32))
    return v, model.branches, [np.float32(0.1) * x + field for field in FIELDS]


@pytest.mark.parametrize(("text_scale", "image_scale", "branches"), [(4.0, 2.0, 3), (4.0, 1.0, 2), (1.0, 2.0, 1), (1.0, 1.0, 1)])
def test_guidance_that_is_off_runs_fewer_branches_and_changes_nothing(text_scale, image_scale, branches):
    v, ran, (full, no_text, no_image) = _guided(FlowConfig(text_scale=text_scale, image_scale=image_scale))
    assert ran == [branches] == [FlowConfig(text_scale=text_scale, image_scale=image_scale).branches]
    guide = tiny_world.jit(lambda *vs: guidance.guide(*vs, text_scale=text_scale, image_scale=image_scale))
    np.testing.assert_allclose(v, guide(full, no_text, no_image), rtol=1e-5)
    if branches == 1:
        np.testing.assert_allclose(v, full, rtol=1e-6, atol=1e-8)  # of terms of about 0.1; jax 0.12 adds them in another order


def test_outside_its_interval_guidance_is_off():
    flow = FlowConfig(interval=(0.2, 0.9))
    for t, guided in ((0.1, False), (0.2, False), (0.9, True), (0.95, False)):
        v, _, (full, *_) = _guided(flow, t)
        assert np.allclose(v, full, rtol=1e-6) != guided


def _sample(flow: FlowConfig, **more):
    """A drawing by the fake model, whose context is looked at by nobody."""
    context, seen = _context()
    context.full.valid = context.text.valid = seen.full
    context.full.rope = context.text.rope = context.rope_before = jnp.zeros((2,), jnp.int32)
    context.instruction = ~seen.full
    noise = jax.random.normal(jax.random.key(0), (2, 6, 64))
    return image_policy.sample(FakeModel(), context, flow=flow, size=SIZE, noise=noise, **more)


KERNELS = [Kernel(), *(Kernel(kind=kind, noise_level=0.8) for kind in ("dance", "cps", "ddim"))]


@pytest.mark.parametrize("schedule", image_policy.SCHEDULES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
def test_each_row_s_window_is_scored_as_it_was_drawn(kernel, schedule):
    """On every grid, in one piece or in two; the last step of some kernels has no noise, so it is no part of a window here."""
    flow, steps = FlowConfig(grid_points=7, kernel=kernel, schedule=schedule), [[0, 1], [1, 4]]

    def drawn_and_scored():
        draw = lambda step: jax.random.normal(jax.random.fold_in(jax.random.key(1), step), (2, 6, 64))  # noqa: E731
        path = _sample(flow, steps=jnp.array(steps), step_noise=draw).trajectory
        in_turn = lambda z: jnp.moveaxis(z, 1, 0)  # noqa: E731
        again = [
            image_policy.log_prob(FakeModel(), *_context(), x, x_next, step, flow=flow, size=SIZE)[0].log_prob
            for x, x_next, step in zip(*map(in_turn, (path.x, path.x_next, path.step)), strict=True)
        ]
        return path, jnp.stack(again, axis=1)

    path, again = tiny_world.jit(drawn_and_scored)()
    np.testing.assert_array_equal(path.step, steps)
    assert np.all(np.isfinite(path.log_prob)) and np.all(np.asarray(path.log_prob) < 0)
    np.testing.assert_allclose(again, path.log_prob, atol=1e-6)


def test_without_a_window_nothing_is_drawn_at_random():
    def never(step):
        raise AssertionError("a drawing without noise asked for noise")

    done = tiny_world.jit(lambda: _sample(FlowConfig(grid_points=4), step_noise=never))()
    assert done.trajectory.log_prob.shape == (2, 0) and np.isfinite(done.latent).all()


def test_a_walk_keeps_every_step_of_a_drawing_without_noise():
    flow, (context, seen) = FlowConfig(grid_points=4), _context()
    noise = jax.random.normal(jax.random.key(0), (2, 6, 64))
    walk = tiny_world.jit(lambda: image_policy.walk(FakeModel(), context, seen, noise, flow=flow, size=SIZE))()
    drawn = tiny_world.jit(lambda: _sample(flow).latent)()
    np.testing.assert_allclose(walk.latent, drawn, atol=1e-6)
    np.testing.assert_array_equal(walk.x[0], noise)
    np.testing.assert_allclose(walk.t, flow.grid()[:-1])
    ends = np.concatenate([walk.x[1:], walk.latent[None]])
    np.testing.assert_allclose(ends, walk.x + np.diff(flow.grid())[:, None, None, None] * walk.v, atol=1e-5)
    full, without_instruction, without_pictures = np.moveaxis(walk.branches[1], 1, 0)
    guided = guidance.guide(full, without_instruction, without_pictures, text_scale=flow.text_scale, image_scale=flow.image_scale)
    np.testing.assert_allclose(walk.v[1], guided, atol=1e-5)


def test_a_flow_that_cannot_be_is_refused():
    assert FlowConfig(grid_points=15).steps == 14 and FlowConfig(grid_points=15).grid().shape == (15,)
    for wrong, message in (
        ({"renorm": "token"}, "renorm is 'token'; choose one of global, channel, text_channel"),
        ({"grid_points": 1}, "1 grid points"),
        ({"shift": 0.0}, "a shift of 0.0; give .* a shift above 0"),
        ({"schedule": "flux"}, "schedule is 'flux'; choose one of bagel, static, dynamic"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(FlowConfig(), **wrong)


def test_the_dynamic_schedule_follows_the_picture_s_size():
    flow = FlowConfig(grid_points=7, schedule="dynamic")
    assert np.all(np.asarray(flow.grid(4096) - flow.grid(256))[1:-1] > 0)
    with pytest.raises(ValueError, match=r"say how many there are: grid\(tokens\)"):
        flow.grid()
    other = FlowConfig(grid_points=7, schedule="static")
    np.testing.assert_array_equal(other.grid(), other.grid(256))  # the others do not depend on it
