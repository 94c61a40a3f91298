"""The joint objective: one loss over the words a model thinks and the pictures it draws.

    L = 1/(n T W) sum over rollouts b, turns t of  [ sum_w image_mask (surrogate_w + kl_weight KL_w)  +  text_mask text_weight text ]

Letters: B rows of a chunk, n rollouts of the whole update, T turns, W stochastic steps, K intent tokens.
Contexts are read again under the current weights without gradient, as in Edit-R2: the image loss does not train context encoding. The
reference velocity is computed on the policy's contexts. Source: Edit-R2 (golden cases i1 .. i6, group joint_grpo).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.objectives import image_objective, intent_objective
from editr2_jax.objectives.image_objective import ImageObjectiveConfig, StoredStep
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.policies import dialogue, image_policy, intent_policy
from editr2_jax.policies.context import Sight
from editr2_jax.policies.dialogue import Played, PolicyConfig, Replay
from editr2_jax.rl import joint


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The terms of the joint objective; weight 0 leaves a term out of the computation."""

    image: ImageObjectiveConfig = ImageObjectiveConfig()
    intent: IntentObjectiveConfig = IntentObjectiveConfig()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a rollout teaches: the behaviour policy's log-probabilities, advantages, and which turns count."""

    image_log_prob: Float[Array, "B T W"]
    intent_log_prob: Float[Array, "B T K"]
    image_advantage: Float[Array, "B T"]
    text_advantage: Float[Array, "B T"]  # differs from the picture's where the filter spares the words
    image_mask: Bool[Array, "B T"]
    text_mask: Bool[Array, "B T"]


def gradients(
    policy_of: Callable[[Any], Bagel],
    trainable: Any,
    reference: Bagel | None,
    played: Played,
    lesson: Lesson,
    *,
    rollouts: float,
    objective: ObjectiveConfig,
    policy: PolicyConfig,
) -> tuple[Any, Float[Array, ""], dict[str, Array]]:
    """Gradient of a chunk's loss with respect to `trainable`, the loss, and metrics; `policy_of` makes the model of some `trainable`.

    `rollouts` is n, so chunks of one update add up. Without `reference` there is no KL term. Each pass over (turn, step) is differentiated
    on its own and added up: the gradient of the whole scan would be the same, but would run every pass forward twice.
    """
    turns, window = played.step.shape[1:]
    share = 1 / (rollouts * turns * window)
    model = policy_of(jax.lax.stop_gradient(trainable))
    total, metrics, summed = jnp.float32(0), {}, jax.tree.map(jnp.zeros_like, trainable)
    for term in _terms(model, reference, played, lesson, objective, policy):
        scale = term.weight * share

        def add_pass(carry, x, term=term, scale=scale):
            def scaled(trainable):
                value, statistics = term.one_pass(policy_of(trainable), x)
                return scale * value, statistics

            (value, statistics), gradient = jax.value_and_grad(scaled, has_aux=True)(trainable)
            return (carry[0] + value, jax.tree.map(jnp.add, carry[1], gradient)), statistics

        (total, summed), statistics = jax.lax.scan(add_pass, (total, summed), term.passes)
        metrics |= _named(term.name, statistics)
    return summed, total, metrics


@dataclasses.dataclass(frozen=True)
class _Term:
    """A term of the objective: a sum over passes, each of them one turn (and step) of all rows."""

    name: str
    weight: float
    one_pass: Callable[[Bagel, Any], tuple[Float[Array, ""], dict[str, Array]]]  # value and statistics
    passes: Any  # what distinguishes the passes, stacked


def _terms(model: Bagel, reference: Bagel | None, played: Played, lesson: Lesson, objective: ObjectiveConfig, policy: PolicyConfig):
    """The terms with a weight, over contexts that `model` reads once for all of them."""
    replay = jax.lax.stop_gradient(dialogue.replay(model, played.script, policy.slots))
    turns, window = played.step.shape[1:]
    terms = []
    if objective.image.weight:
        terms.append(_image_term(reference, replay, played, lesson, objective.image, policy, _each(turns, window)))
    if objective.intent.weight and turns > 1:
        terms.append(_intent_term(replay, played, lesson, objective.intent, policy, jnp.arange(1, turns)))
    return terms


def log_probs(model: Bagel, played: Played, *, policy: PolicyConfig) -> tuple[Float[Array, "B T W"], Float[Array, "B T K"]]:
    """Log-probabilities of everything drawn and written, through the same passes as the loss."""
    replay = dialogue.replay(model, played.script, policy.slots)

    def image(_, turn_and_slot):
        stored, seen = _stored(played, replay, *turn_and_slot)
        density, _ = image_policy.log_prob(model, replay.context, seen, *stored, **_flow(played, policy))
        return None, density.log_prob

    def intent(_, turn):
        cache, tokens, count = _asked(model, played, replay, turn, policy)
        return None, intent_policy.log_prob(model, cache, tokens, count, temperature=policy.temperature)[0]

    rows, turns, window = played.step.shape
    _, images = jax.lax.scan(image, None, _each(turns, window))
    pictures = images.reshape(turns, window, rows).transpose(2, 0, 1)
    words = jnp.zeros((rows, turns, played.intent.shape[2]), jnp.float32)
    if turns > 1:
        _, later = jax.lax.scan(intent, None, jnp.arange(1, turns))
        words = words.at[:, 1:].set(later.transpose(1, 0, 2))
    return pictures, words


def _image_term(reference, replay, played, lesson, config: ImageObjectiveConfig, policy: PolicyConfig, passes) -> _Term:
    """Surrogate and KL of one stochastic step of one turn, summed over rows."""
    common = _flow(played, policy)

    def one_pass(model: Bagel, turn_and_slot):
        """Value [] and statistics of turn `turn`, stochastic step `slot`."""
        turn, slot = turn_and_slot
        (x, x_next, step), seen = _stored(played, replay, turn, slot)
        mask = lesson.image_mask[:, turn]
        x, x_next, old, advantage = _behind(mask, (x, x_next, lesson.image_log_prob[:, turn, slot], lesson.image_advantage[:, turn]))
        stored = StoredStep(x=x, x_next=x_next, step=step, old_log_prob=old, advantage=advantage)
        v_ref = None
        if reference is not None:
            v_ref = image_policy.guided_velocity(reference, replay.context, seen, x, policy.flow.grid()[step], **common)
        part = image_objective.terms(model, replay.context, seen, stored, reference_velocity=v_ref, config=config, **common)
        combined = joint.combine(
            part.surrogate.loss[:, None],
            None if part.kl is None else part.kl[:, None],
            None,
            image_mask=mask,
            text_mask=mask,
            kl_weight=config.kl_weight,
        )
        return combined.total.sum(), _statistics(part.surrogate, part.density.log_prob - stored.old_log_prob, mask, part.kl)

    return _Term("image", config.weight, one_pass, passes)


def _intent_term(replay, played, lesson, config: IntentObjectiveConfig, policy: PolicyConfig, passes) -> _Term:
    """Surrogate of the words of one turn, summed over rows."""

    def one_pass(model: Bagel, turn):
        """Value [] and statistics of turn `turn`."""
        cache, tokens, count = _asked(model, played, replay, turn, policy)
        mask = lesson.text_mask[:, turn] & (count > 0)
        old, advantage = _behind(mask, (lesson.intent_log_prob[:, turn], lesson.text_advantage[:, turn]))
        part = intent_objective.terms(
            model, jax.lax.stop_gradient(cache), tokens, count,
            old_log_prob=old, advantage=advantage, temperature=policy.temperature, config=config,
        )  # fmt: skip
        statistics = _statistics(part.surrogate, part.log_prob - old, mask[:, None] & part.real, None)
        return jnp.where(mask, part.loss, 0.0).sum(), statistics

    return _Term("intent", config.weight, one_pass, passes)


def _behind(mask: Bool[Array, "B"], stored: tuple[Array, ...]) -> tuple[Array, ...]:
    """Stored numbers, 0 in the rows that a mask takes out: a NaN there would reach the gradient as 0 * NaN, whatever is selected later."""
    return tuple(jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0) for x in stored)


def _each(turns: int, window: int) -> tuple[Int[Array, "TW"], Int[Array, "TW"]]:
    turn, slot = jnp.meshgrid(jnp.arange(turns), jnp.arange(window), indexing="ij")
    return turn.reshape(-1), slot.reshape(-1)


def _flow(played: Played, policy: PolicyConfig) -> dict:
    return {"flow": policy.flow, "size": played.script.source.shape[1:3], "scratch": policy.slots.scratch}


def _stored(played: Played, replay: Replay, turn, slot) -> tuple[tuple[Array, Array, Array], Sight]:
    """The stochastic step `slot` of `turn` (x, x', index on the grid) and what was seen then."""
    seen = jax.tree.map(lambda x: x[turn], replay.drawing)
    return (played.x[:, turn][:, slot], played.x_next[:, turn][:, slot], played.step[:, turn, slot]), seen


def _asked(model: Bagel, played: Played, replay: Replay, turn, policy: PolicyConfig) -> tuple[KVCache, Array, Array]:
    """The dialogue before `turn` followed by its question, and the tokens that were written."""
    question = tuple((ids[:, turn], count[:, turn]) for ids, count in played.script.question)
    cache = intent_policy.ask(model, replay.thinking(turn, policy.slots.scratch), question)
    return cache, played.intent[:, turn], played.intent_count[:, turn]


def _statistics(surrogate, log_ratio, mask, kl) -> dict[str, Array]:
    """Sums and counts of one pass, and the largest |log ratio|."""
    where = lambda x: jnp.sum(jnp.where(mask, x, 0.0))  # noqa: E731
    gap = jnp.where(mask, jnp.abs(log_ratio), 0.0)
    sums = {
        "count": jnp.sum(mask).astype(jnp.float32),
        "surrogate": where(surrogate.loss),
        "ratio": where(surrogate.ratio),
        "clip_fraction_low": where(surrogate.below),
        "clip_fraction_high": where(surrogate.above),
        "log_ratio_mean": jnp.sum(gap),
        "log_ratio_max": jnp.max(gap),
    }
    return sums if kl is None else {**sums, "kl": where(kl)}


def _named(area: str, metrics: dict[str, Float[Array, "n"]]) -> dict[str, Array]:
    """Totals over the passes, named area/quantity; `summarise` divides them once all chunks are in."""
    return {f"{area}/{name}": jnp.max(x) if name.endswith("_max") else jnp.sum(x) for name, x in metrics.items()}


def summarise(chunks: list[dict[str, Array]]) -> dict[str, float]:
    """Metrics of an update from those of its chunks: sums become means over what counted, maxima stay maxima."""
    names = {name for chunk in chunks for name in chunk}
    total = {name: (max if name.endswith("_max") else sum)(float(chunk[name]) for chunk in chunks if name in chunk) for name in names}
    means = {}
    for name, value in total.items():
        area, quantity = name.split("/")
        if quantity == "count":
            continue
        means[name] = value if quantity.endswith("_max") else value / max(total[f"{area}/count"], 1.0)
    return means
