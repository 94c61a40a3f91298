"""Every image objective with every intent objective, through the joint loss that an update compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.objectives import catalogue, joint_objective
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.joint_objective import ObjectiveConfig

WORTH = np.array([[1.0, -1.0], [-1.0, 0.5], [0.5, 1.0], [-0.5, -0.5]], np.float32)


SILENT = IntentObjectiveConfig(weight=0.0)


def objective(image: str, intent: str | None, **more) -> ObjectiveConfig:
    """`intent` None: the words do not learn."""
    pictures, words = catalogue.named("image", image), intent and catalogue.named("intent", intent)
    return ObjectiveConfig(
        image=ImageObjectiveConfig(kind=image, kl="velocity", settings=pictures.Config(), **more),
        intent=IntentObjectiveConfig(kind=intent, kl_weight=0.01, settings=words.Config()) if words else SILENT,
    )


def learn(given: ObjectiveConfig, *, behaviour: bool):
    """(function, its arguments): gradients, loss and metrics of the rollout, against the policy that played where `behaviour`."""
    weights, lesson = tiny_world.moved(), tiny_world.lesson(image_advantage=WORTH, text_advantage=WORTH, reward=WORTH + 1)
    played, policy = tiny_world.rollout().played, tiny_world.POLICY
    if not given.image.guided:
        assert given.image.policy(policy).flow.branches == 1

    def run(trainable, frozen, old):
        return joint_objective.gradients(
            lambda trainable: tiny_world.net().policy(trainable, frozen), trainable, tiny_world.net().reference(frozen), played, lesson,
            rollouts=4.0, objective=given, policy=policy, behaviour=old if behaviour else None,
        )  # fmt: skip

    return run, (weights.trainable, weights.frozen, tiny_world.fresh().trainable)


@pytest.mark.slow
@pytest.mark.parametrize("intent", catalogue.names("intent"))
@pytest.mark.parametrize("image", catalogue.names("image"))
def test_any_image_objective_meets_any_intent_objective(image, intent):
    """Traced, not computed: one loss, a gradient of what learns, and metrics of both terms."""
    run, given = learn(objective(image, intent), behaviour=True)
    gradient, loss, metrics = jax.eval_shape(run, *given)
    assert jax.tree.structure(gradient) == jax.tree.structure(given[0]) and loss.shape == ()
    assert {name.split("/")[0] for name in metrics} == {"image", "intent"}
    assert {"image/kl", "intent/k1", "intent/k2", "intent/k3"} <= set(metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("image", "intent", "more"), [
    ("grpo", "gspo_token", {"reference_context": "rebuilt"}),  # over the sampler's own steps, with words
    ("dpo", None, {}),  # over points of the path, in pairs
])  # fmt: skip
def test_what_is_compiled_learns_in_the_drawing_expert(image, intent, more):
    """Two that differ most in what they ask for; that every objective learns in the right direction is tests/objectives/test_laws.py."""
    run, given = learn(objective(image, intent, **more), behaviour=False)
    gradient, loss, metrics = tiny_world.jit(run)(*given)
    assert np.isfinite(float(loss)) and 0 < tiny_world.size_of(gradient["decoder"]["layers"]["gen"]) < np.inf
    assert any(name.startswith("intent/") for name in metrics) == bool(intent)
    if "image/log_ratio_max" in metrics:
        assert float(metrics["image/log_ratio_max"]) < 1e-5  # the policy that learns is the one that played


@pytest.mark.slow
def test_the_old_policy_is_the_one_that_is_given():
    """Against a policy that has not moved, NFT sees a gap; against itself it sees none."""
    run, (trainable, frozen, unmoved) = learn(objective("nft", None), behaviour=True)
    asked = tiny_world.jit(run)
    gradient, loss, metrics = asked(trainable, frozen, trainable)
    assert np.isfinite(float(loss)) and 0 < tiny_world.size_of(gradient["decoder"]["layers"]["gen"]) < np.inf
    assert float(metrics["image/old_gap"]) == 0 < float(asked(trainable, frozen, unmoved)[2]["image/old_gap"])


@pytest.mark.slow
def test_a_loss_without_guidance_asks_one_branch():
    """Another velocity: the rollout's own steps are no longer what it would draw."""
    run, given = learn(objective("grpo", None, guided=False), behaviour=False)
    metrics = tiny_world.jit(run)(*given)[2]
    assert float(jnp.abs(metrics["image/log_ratio_max"])) > 1e-3
