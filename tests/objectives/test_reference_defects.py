"""Defects of published implementations that belong to losses and updates, by their numbers in the list that this project keeps of them.

Those of credit are in tests/rl, those of sampling in tests/flow and tests/rollouts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import points_by_hand as by_hand
import pytest

from editr2_jax.objectives import image_objective, intent_objective
from editr2_jax.objectives.image import grpo, guard
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.points import Velocities
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.rl import clipped_surrogate
from editr2_jax.rl.policy_average import Schedule
from editr2_jax.training import state as states
from editr2_jax.training.state import Averages, OptimizerConfig

V = by_hand.velocity(2)


def test_defect_07_an_empty_intent_is_no_nan():
    """Edit-R2 takes the mean over zero tokens."""
    empty = by_hand.tokens([1.0, 1.0], mask=np.zeros((2, 4), bool))
    value, _ = intent_objective.terms(empty, jnp.ones((2, 4)), None, IntentObjectiveConfig())
    np.testing.assert_array_equal(value, 0)


def test_defect_08_a_divergence_with_the_step_s_length_exists():
    """Edit-R2, Flow-GRPO and verl-omni leave 1/dt out; the exact form has it."""
    at = by_hand.window([1.0, 1.0])
    latent, exact = (image_objective.kl(form, at, V, V + 0.1) for form in ("latent", "exact"))
    np.testing.assert_allclose(exact * (at.t - at.t_next), latent, rtol=1e-5)


def test_defect_09_a_reference_can_look_at_contexts_of_its_own():
    """Edit-R2's looks at the policy's. tests/objectives/test_combinations.py runs the other choice."""
    assert ImageObjectiveConfig().reference_context == "policy" and ImageObjectiveConfig(reference_context="rebuilt").needs_reference


def test_defect_10_the_gradient_s_norm_is_clipped_by_the_optimizer_itself():
    """Edit-R2 configures a clip and never calls it."""
    rule = OptimizerConfig(learning_rate=1.0, clip_norm=1.0).build()
    weights = {"w": jnp.zeros(4)}
    big, small = (rule.update({"w": jnp.full(4, size)}, rule.init(weights), weights)[1] for size in (100.0, 0.5))
    moments = [jax.tree.leaves(moments)[1] for moments in (big, small)]
    np.testing.assert_allclose(*moments, rtol=1e-5)  # 4 x 100 is cut to norm 1, which 4 x 0.5 has


def test_defect_13_a_log_prob_is_one_picture_s():
    """Edit-R2 averages over the whole packed batch."""
    at = by_hand.window([1.0, 1.0])
    other = dataclasses.replace(at, x_next=at.x_next.at[1].add(1.0))
    np.testing.assert_array_equal(at.density(V).log_prob[0], other.density(V).log_prob[0])
    assert at.density(V).log_prob[1] != other.density(V).log_prob[1]


def test_defect_16_times_are_the_same_fractions_in_sampler_and_loss():
    """DiffusionNFT samples at integers of a thousandth and trains between them."""
    grid = np.asarray(FlowConfig(grid_points=11).grid())
    assert grid.dtype == np.float32 and (1000 * grid[1:-1] % 1 != 0).any()
    np.testing.assert_array_equal(grid, FlowConfig(grid_points=11).grid())


def test_defect_18_guard_keeps_every_sample_s_own_step_and_divides_by_its_length():
    """Flow-Factory broadcasts (B,) against (B, 1, 1), which is right only while all samples share a step, and does not divide."""
    at, v = by_hand.window([1.0, -1.0]), V + 0.05
    mixed = dataclasses.replace(at, t_next=jnp.array([0.5, 0.6]))
    both = guard.loss(mixed, Velocities(v, V), guard.Config()).value
    for row in range(2):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1] if x.ndim else x, mixed)
        np.testing.assert_allclose(
            guard.loss(one, Velocities(v[row : row + 1], V[row : row + 1]), guard.Config()).value, both[row], rtol=1e-5
        )
    plain = guard.loss(mixed, Velocities(v, V), guard.Config(per_time=False)).value
    np.testing.assert_allclose(both * (mixed.t - mixed.t_next), plain, rtol=1e-6)


@pytest.mark.parametrize(("clock", "count"), [("updates", 6), ("steps", 3)])
def test_defect_22_a_schedule_names_its_clock(clock, count):
    """Flow-Factory feeds epochs to a schedule that was tuned for optimizer updates."""
    averages = Averages(old=Schedule(kind="ramp", clock=clock))
    weights = {"w": jnp.ones(2)}
    state = dataclasses.replace(states.create(weights, optax.sgd(0.1), averages), step=jnp.asarray(2, jnp.int32))
    _, told = states.follow(state, averages, updates=2)
    assert told == {"average/old_decay": pytest.approx(0.001 * count)}


def test_defect_23_no_divergence_depends_on_the_noise_without_saying_so():
    """Flow-Factory's x-based KL is divided by no variance. Here: velocity does not know the noise, exact is the Gaussians' own."""
    quiet, loud = (by_hand.window([1.0, 1.0], noise_level=level) for level in (0.3, 1.2))
    np.testing.assert_array_equal(image_objective.kl("velocity", quiet, V, V + 0.1), image_objective.kl("velocity", loud, V, V + 0.1))
    assert (image_objective.kl("exact", quiet, V, V + 0.1) > image_objective.kl("exact", loud, V, V + 0.1)).all()


def test_defect_24_the_estimator_without_gradient_is_no_loss_and_no_reference_is_asked_for_in_silence():
    """Tunix' default KL loss is k1, and a weight makes it want a reference that nobody mentioned."""
    with pytest.raises(ValueError, match="would not regularise"):
        IntentObjectiveConfig(kl="k1", kl_weight=0.1)
    assert not IntentObjectiveConfig().needs_reference and IntentObjectiveConfig(kl_weight=0.1).needs_reference


def test_defect_26_ratios_are_outside_the_clip_on_either_side():
    """lmpo tests abs(ratio) - 1 where abs(ratio - 1) is meant, and so never sees a small ratio."""
    out = clipped_surrogate.surrogate(jnp.log(jnp.array([0.5, 1.0, 2.0])), jnp.zeros(3), jnp.ones(3), clip_low=0.2, clip_high=0.2)
    np.testing.assert_array_equal(out.below | out.above, [True, False, True])


def test_the_surrogate_s_resolution_is_told():
    """A clip of 1e-5 is about a hundred roundings of float32 wide: a log_prob in bfloat16 would never be inside."""
    assert grpo.Config().clip_low / np.finfo(np.float32).eps > 80
    assert grpo.Config().clip_low < float(jnp.finfo(jnp.bfloat16).eps)
