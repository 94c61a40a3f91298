"""The joint objective: one loss over the words a model thinks and the pictures it draws.

    L = 1/(n T W) sum over rollouts b, turns t of  [ sum_w image_mask (image_w + kl_weight KL_w)  +  text_mask text_weight text ]

Letters: B rows of a chunk, n rollouts of the whole update, T turns, W passes over a picture (stochastic steps, or points of the path), K
intent tokens. Any image objective meets any intent objective here. Contexts are read again without gradient, as in Edit-R2: the image loss
does not train context encoding. Source: Edit-R2 (golden cases i1 .. i6, group joint_grpo).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from editr2_jax.flow import training_times
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.objectives import image_objective, intent_objective
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.points import Path, Tokens, Velocities, Window
from editr2_jax.policies import dialogue, image_policy, intent_policy
from editr2_jax.policies.context import Sight
from editr2_jax.policies.dialogue import Played, PolicyConfig, Replay

TOLD_BY_ROW = ("kl",)  # statistics that are also kept for every pass and row, under their name and ROWS
ROWS = "_by_row"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The terms of the joint objective; weight 0 leaves a term out of the computation."""

    image: ImageObjectiveConfig = ImageObjectiveConfig()
    intent: IntentObjectiveConfig = IntentObjectiveConfig()

    @property
    def needs_reference(self) -> bool:
        return self.image.needs_reference or self.intent.needs_reference


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a rollout teaches: the behaviour policy's log-probabilities, advantages, and which turns count."""

    image_log_prob: Float[Array, "B T W"]
    intent_log_prob: Float[Array, "B T K"]
    image_advantage: Float[Array, "B T"]
    text_advantage: Float[Array, "B T"]  # differs from the picture's where the filter spares the words
    reward: Float[Array, "B T"]
    image_mask: Bool[Array, "B T"]
    text_mask: Bool[Array, "B T"]
    image_weight: Float[Array, "B T"]
    token_weight: Float[Array, "B T K"]  # of the reduction over tokens, and whatever else weighs them
    group_keys: PRNGKeyArray  # [B]: randomness of the objective, shared by a group
    member_keys: PRNGKeyArray  # [B]: and each member's own


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
    behaviour: Any = None,
    replay: Replay | None = None,
    place: Callable[[Any], Any] = lambda gradient: gradient,
) -> tuple[Any, Float[Array, ""], dict[str, Array]]:
    """Gradient of a chunk's loss with respect to `trainable`, the loss, and metrics; `policy_of` makes the model of some `trainable`.

    `rollouts` is n, of all chunks of an update, so that they add up; where chunks have unequal turns, the others' are counted in turns of
    this one, and every turn of the update weighs the same. `reference` may be None where no term needs it. `behaviour` is the trainable
    part of the policy that played; None says that it is `trainable` itself, which spares a pass. `replay`: the
    dialogue as the policy reads it, where that is at hand. `place` tells the compiler where a gradient lies. Each pass is differentiated on
    its own and added up: the gradient of the whole scan would be the same, but would run every pass forward twice.
    """
    turns = played.step.shape[1]
    total, metrics, summed = jnp.float32(0), {}, place(jax.tree.map(jnp.zeros_like, trainable))
    frozen = jax.lax.stop_gradient(trainable)
    models = _Models(
        policy=policy_of(frozen),
        reference=reference,
        old=None if behaviour is None else policy_of(jax.lax.stop_gradient(behaviour)),
    )
    share = 1 / (rollouts * turns * max(objective.image.passes(played.step.shape[2]), 1))
    for term in _terms(models, played, lesson, objective, policy, replay):
        scale = term.weight * share

        def add_pass(carry, x, term=term, scale=scale):
            def scaled(trainable):
                value, statistics = term.one_pass(policy_of(trainable), x)
                return scale * value, statistics

            (value, statistics), gradient = jax.value_and_grad(scaled, has_aux=True)(trainable)
            return (carry[0] + value, jax.tree.map(jnp.add, carry[1], place(gradient))), statistics

        (total, summed), statistics = jax.lax.scan(add_pass, (total, summed), term.passes)
        metrics |= _named(term.name, statistics)
    return summed, total, metrics


@dataclasses.dataclass(frozen=True)
class _Models:
    """The policies of one gradient, none of which receives it."""

    policy: Bagel
    reference: Bagel | None
    old: Bagel | None  # None: the policy itself


@dataclasses.dataclass(frozen=True)
class _Fixed:
    """A policy that does not learn, and the contexts it looks at."""

    model: Bagel
    replay: Replay


@dataclasses.dataclass(frozen=True)
class _Term:
    """A term of the objective: a sum over passes, each of them one turn (and step) of all rows."""

    name: str
    weight: float
    one_pass: Callable[[Bagel, Any], tuple[Float[Array, ""], dict[str, Array]]]  # value and statistics
    passes: Any  # what distinguishes the passes, stacked


def _terms(
    models: _Models, played: Played, lesson: Lesson, objective: ObjectiveConfig, policy: PolicyConfig, replay: Replay | None
) -> list[_Term]:
    """The terms with a weight, over contexts that every model reads once for all of them."""
    read = lambda model: jax.lax.stop_gradient(dialogue.replay(model, played.script, policy.slots))  # noqa: E731
    replay = read(models.policy) if replay is None else jax.lax.stop_gradient(replay)
    reference = old = None
    if objective.needs_reference:
        reference = _Fixed(models.reference, read(models.reference) if objective.image.reference_context == "rebuilt" else replay)
    if objective.image.needs_old and models.old is not None:
        old = _Fixed(models.old, read(models.old))
    turns, window = played.step.shape[1:]
    terms = []
    if objective.image.weight:
        passes = _each(turns, objective.image.passes(window))
        terms.append(_image_term(replay, reference, old, played, lesson, objective.image, objective.image.policy(policy), passes))
    if objective.intent.weight and turns > 1:
        fixed = reference if objective.intent.needs_reference else None
        terms.append(_intent_term(replay, fixed, played, lesson, objective.intent, policy, jnp.arange(1, turns)))
    return terms


def log_probs(
    model: Bagel, played: Played, *, policy: PolicyConfig, replay: Replay | None = None
) -> tuple[Float[Array, "B T W"], Float[Array, "B T K"]]:
    """Log-probabilities of everything drawn and written, through the same passes as the loss; `replay` where that is at hand."""
    replay = dialogue.replay(model, played.script, policy.slots) if replay is None else replay

    def image(_, turn_and_slot):
        stored, seen = _stored(played, replay, *turn_and_slot)
        density, _ = image_policy.log_prob(model, replay.context, seen, *stored, **_flow(played, policy))
        return None, density.log_prob

    def intent(_, turn):
        cache, tokens, count = dialogue.asked(model, played, replay, turn, slots=policy.slots)
        return None, intent_policy.log_prob(model, cache, tokens, count, temperature=policy.temperature)[0]

    rows, turns, window = played.step.shape
    pictures = jnp.zeros((rows, turns, window), jnp.float32)
    if window:
        _, images = jax.lax.scan(image, None, _each(turns, window))
        pictures = images.reshape(turns, window, rows).transpose(2, 0, 1)
    words = jnp.zeros((rows, turns, played.intent.shape[2]), jnp.float32)
    if turns > 1:
        _, later = jax.lax.scan(intent, None, jnp.arange(1, turns))
        words = words.at[:, 1:].set(later.transpose(1, 0, 2))
    return pictures, words


def _image_term(replay, reference, old, played, lesson, config: ImageObjectiveConfig, policy: PolicyConfig, passes) -> _Term:
    """One pass over the pictures of one turn, summed over rows."""
    common = _flow(played, policy)

    def one_pass(model: Bagel, turn_and_slot):
        """Value [] and statistics of turn `turn`, pass `slot`."""
        turn, slot = turn_and_slot
        at = (_window if config.replays else _path)(played, lesson, turn, slot, config, policy)

        def ask(model, replay):
            seen = jax.tree.map(lambda x: x[turn], replay.drawing)
            return image_policy.guided_velocity(model, replay.context, seen, at.x, at.t, **common)

        v = ask(model, replay)
        v_old = v_reference = None
        if config.needs_old:
            v_old = jax.lax.stop_gradient(v if old is None else ask(old.model, old.replay))
        if config.needs_reference:
            v_reference = jax.lax.stop_gradient(ask(reference.model, reference.replay))
        value, statistics = image_objective.terms(at, Velocities(v, v_old, v_reference), config)
        return learned(value, at.mask, lesson.image_weight[:, turn]).sum(), _statistics(statistics, at.mask)

    return _Term("image", config.weight, one_pass, passes)


def _window(played: Played, lesson: Lesson, turn, slot, config: ImageObjectiveConfig, policy: PolicyConfig) -> Window:
    """The stochastic step `slot` of `turn`, as it was drawn."""
    grid, step = policy.flow.grid(played.clean.shape[2]), played.step[:, turn, slot]
    (x, x_next, _), mask = _latents(played, turn, slot), lesson.image_mask[:, turn]
    x, x_next, old, advantage, reward = _behind(
        mask, (x, x_next, lesson.image_log_prob[:, turn, slot], lesson.image_advantage[:, turn], lesson.reward[:, turn])
    )
    return Window(
        x=x, x_next=x_next, t=grid[step], t_next=grid[step + 1], t_guard=grid[1],
        old_log_prob=old, advantage=advantage, reward=reward, mask=mask, kernel=policy.flow.kernel, group=played.script.group,
    )  # fmt: skip


def _path(played: Played, lesson: Lesson, turn, slot, config: ImageObjectiveConfig, policy: PolicyConfig) -> Path:
    """Point `slot` of the path to the picture of `turn`: the times of a turn are drawn together, the noise anew for each."""
    shared = getattr(config.objective, "SHARED_DRAWS", False)
    fold = lambda keys, number: jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)  # noqa: E731
    keys = fold(lesson.group_keys if shared else lesson.member_keys, turn)
    grid, mask = policy.flow.grid(played.clean.shape[2]), lesson.image_mask[:, turn]
    times = training_times.draw(fold(keys, 0), grid, count=config.draws, times=config.times, shift=policy.flow.pull(played.clean.shape[2]))
    clean, advantage, reward = _behind(mask, (played.clean[:, turn], lesson.image_advantage[:, turn], lesson.reward[:, turn]))
    noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], clean.dtype))(fold(keys, 1 + slot))
    return Path(clean=clean, noise=noise, t=times[:, slot], advantage=advantage, reward=reward, mask=mask, group=played.script.group)


def _intent_term(replay, reference, played, lesson, config: IntentObjectiveConfig, policy: PolicyConfig, passes) -> _Term:
    """The words of one turn, summed over rows."""

    def one_pass(model: Bagel, turn):
        """Value [] and statistics of turn `turn`."""

        def ask(model, replay):
            cache, tokens, count = dialogue.asked(model, played, replay, turn, slots=policy.slots)
            return intent_policy.log_prob(model, jax.lax.stop_gradient(cache), tokens, count, temperature=policy.temperature)[0]

        count, teaches = played.intent_count[:, turn], lesson.text_mask[:, turn]
        mask = teaches & (count > 0)
        old, advantage, reward, weight = _behind(
            mask, (lesson.intent_log_prob[:, turn], lesson.text_advantage[:, turn], lesson.reward[:, turn], lesson.token_weight[:, turn])
        )
        exists = (jnp.arange(old.shape[1]) < count[:, None]) & mask[:, None]
        tokens = Tokens(
            log_prob=ask(model, replay), old_log_prob=old, advantage=advantage, reward=reward, mask=exists, group=played.script.group
        )
        fixed = None if reference is None else jax.lax.stop_gradient(ask(reference.model, reference.replay))
        value, statistics = intent_objective.terms(tokens, weight, fixed, config)
        return learned(value, mask).sum(), _statistics(statistics, exists)

    return _Term("intent", config.weight, one_pass, passes)


def learned(value: Float[Array, "B"], mask: Bool[Array, "B"], weight: Float[Array, "B"] | float = 1.0) -> Float[Array, "B"]:
    """What rows add to the loss. A mask selects, it does not multiply: a NaN behind it stays there."""
    return jnp.where(mask, weight * value, 0.0)


def _behind(mask: Bool[Array, "B"], stored: tuple[Array, ...]) -> tuple[Array, ...]:
    """Stored numbers, 0 in the rows that a mask takes out: a NaN there would reach the gradient as 0 * NaN, whatever is selected later."""
    return tuple(jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0) for x in stored)


def _each(turns: int, window: int) -> tuple[Int[Array, "TW"], Int[Array, "TW"]]:
    turn, slot = jnp.meshgrid(jnp.arange(turns), jnp.arange(window), indexing="ij")
    return turn.reshape(-1), slot.reshape(-1)


def _flow(played: Played, policy: PolicyConfig) -> dict:
    return {"flow": policy.flow, "size": played.script.source.shape[1:3], "scratch": policy.slots.scratch}


def _latents(played: Played, turn, slot) -> tuple[Array, Array, Array]:
    """The stochastic step `slot` of `turn`: x, x', index on the grid."""
    return played.x[:, turn][:, slot], played.x_next[:, turn][:, slot], played.step[:, turn, slot]


def _stored(played: Played, replay: Replay, turn, slot) -> tuple[tuple[Array, Array, Array], Sight]:
    """A stochastic step and what was seen then."""
    return _latents(played, turn, slot), jax.tree.map(lambda x: x[turn], replay.drawing)


def _statistics(statistics: dict[str, Array], mask: Bool[Array, "..."]) -> dict[str, Array]:
    """Sums over what the mask leaves, or maxima where the name says so, and the count."""
    chosen = {name: jnp.where(mask, jax.lax.stop_gradient(value), 0.0) for name, value in statistics.items()}
    told = {name: jnp.max(value) if name.endswith("_max") else jnp.sum(value) for name, value in chosen.items()}
    rows = {f"{name}{ROWS}": chosen[name] for name in TOLD_BY_ROW if name in chosen}
    return {"count": jnp.sum(mask).astype(jnp.float32)} | told | rows


def _named(area: str, metrics: dict[str, Array]) -> dict[str, Array]:
    """Totals over the passes, named area/quantity; `summarise` divides them once all chunks are in. What is kept by row stays so."""
    totals = {name: jnp.max(x) if name.endswith("_max") else jnp.sum(x) for name, x in metrics.items() if not name.endswith(ROWS)}
    return {f"{area}/{name}": x for name, x in (metrics | totals).items()}


def summarise(chunks: list[dict[str, Array]]) -> dict[str, float]:
    """Metrics of an update from those of its chunks: sums become means over what counted, maxima stay maxima."""
    names = {name for chunk in chunks for name in chunk if not name.endswith(ROWS)}
    total = {name: (max if name.endswith("_max") else sum)(float(chunk[name]) for chunk in chunks if name in chunk) for name in names}
    means = {}
    for name, value in total.items():
        area, quantity = name.split("/")
        if quantity == "count":
            continue
        means[name] = value if quantity.endswith("_max") else value / max(total[f"{area}/count"], 1.0)
    return means
