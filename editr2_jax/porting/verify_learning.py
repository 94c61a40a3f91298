"""The recorded learning steps: loss, its terms, and gradients by the checkpoint's own names.

One stored stochastic step of a drawn picture, and the text that was written before it, through the objectives that training runs. The
contexts are read under the current weights without gradient, or, in the attached case, with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from editr2_jax.flow import transition
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.objectives import image_objective, intent_objective, joint_objective
from editr2_jax.objectives.image import grpo as image_grpo
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent import grpo as intent_grpo
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.points import Tokens, Velocities, Window
from editr2_jax.policies import context as contexts
from editr2_jax.policies import dialogue as dialogues
from editr2_jax.policies import image_policy, intent_policy
from editr2_jax.policies.context import Context
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.porting import bagel_weights
from editr2_jax.porting.verify_subject import Compiled, Subject, dialogue, flow_of, size_of
from editr2_jax.rl import reductions

Ours = Mapping[str, Any]
_CONTEXT = "i_ctx"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The text that was written before the picture: its question, its tokens and how likely they were."""

    question: tuple[Array, Array]  # system prompt and question [1, T]
    tokens: Array  # [1, K]
    old_log_prob: Float[Array, "1 K"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one learning step learns from."""

    x: Float[Array, "1 L C"]
    x_next: Float[Array, "1 L C"]
    step: Array  # int [1], on the grid
    old_log_prob: Float[Array, "1"]
    advantage: Float[Array, "1"]
    words: Words | None
    used: Array  # bool [1]: whether the sample teaches at all
    speaks: Array  # bool [1]: whether the text is part of the loss


def words_before(subject: Subject, case: str) -> Ours:
    """The text's log-probabilities under the policy."""
    words = _words(subject)
    temperature = subject.recorded.args(case)["temperature"]
    cache = _asked(subject.compiled, subject.context, words, subject.scratch)
    scored, _ = intent_policy.log_prob(subject.compiled, cache, words.tokens, _count(words), temperature=temperature)
    return {f"{case}.new_log_probs": scored[0]}


def learning_step(subject: Subject, case: str) -> Ours:
    """Loss, terms and gradients of one learning step."""
    recorded, args = subject.recorded, subject.recorded.args(case)
    drawn = recorded.args(args["stored_case"])
    kernel = dataclasses.replace(flow_of(drawn).kernel, noise_level=args["noise_level"])
    flow, size = flow_of(drawn, kernel=kernel), size_of(drawn)
    lesson = _lesson(subject, case)
    how = {"flow": flow, "size": size, "scratch": subject.scratch}
    x, t = lesson.x, flow.grid()[lesson.step]
    seen = contexts.sight(subject.context)
    v, v_ref = (image_policy.guided_velocity(model, subject.context, seen, x, t, **how) for model in (subject.compiled, subject.reference))
    ours = {"v_t": v[0], "v_t_ref": v_ref[0]}
    ours["prev_sample_mean_ref"] = image_policy.transition_density(flow, v_ref, x, lesson.x_next, lesson.step).mean[0]

    attached = args["gradient_mode"] == "attached"
    how |= {
        **_objectives(args),
        "temperature": recorded.args(_CONTEXT)["temperature"] if lesson.words is not None else 1.0,
        "capacity": subject.capacity if attached else None,
    }
    given = (subject.terms if attached else subject.context, lesson, v_ref)
    if not any(".grad" in name for name in recorded.outputs(case)):
        ours |= _loss(subject.compiled, *given, **how)[1]
        return {f"{case}.{name}": value for name, value in ours.items()}
    value, gradient = subject.run(_graded, *given, **how)
    return {f"{case}.{name}": value for name, value in (ours | value).items()} | _gradients(subject, case, gradient)


def _objectives(args: Mapping[str, Any]) -> dict[str, ImageObjectiveConfig | IntentObjectiveConfig]:
    """The two terms' settings as a case states them; words have the pictures' clip widths and no limit of the advantage."""
    clip = {"clip_low": args["clip_range_lt"], "clip_high": args["clip_range_gt"]}
    picture = image_grpo.Config(**clip, advantage_clip=args["adv_clip_max"])
    kl = "velocity" if args.get("use_velocity_kl") else "latent"
    return {
        "image": ImageObjectiveConfig(kl=kl, kl_weight=args["beta"], settings=picture),
        "intent": IntentObjectiveConfig(settings=intent_grpo.Config(**clip)),
    }


def _graded(model: Bagel, *given: Any, **how: Any) -> tuple[dict[str, Array], nnx.State]:
    """The loss with its terms, and its gradient by every parameter that training may train: all but the autoencoder's."""
    trained = lambda path, value: isinstance(value, nnx.Param) and path[0] != "vae"  # noqa: E731
    graph, parameters, rest = nnx.split(model, trained, ...)
    gradient, told = jax.grad(lambda p: _loss(nnx.merge(graph, p, rest), *given, **how), has_aux=True)(parameters)
    return told, gradient


def _loss(
    model: Bagel | Compiled,
    before: Context | tuple[Array, ...],
    lesson: Lesson,
    reference_velocity: Float[Array, "1 L C"],
    *,
    image: ImageObjectiveConfig,
    intent: IntentObjectiveConfig,
    temperature: float,
    capacity: tuple[int, int] | None,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of one row and one stochastic step, the first of its window, with which the text is counted.

    before: the context as it was read under these weights, a constant; or, with a capacity, what is to be read with gradient.
    """
    attached = capacity is not None
    keep = (lambda x: x) if attached else jax.lax.stop_gradient
    stage = keep(dialogue(model, before, capacity=capacity)[-1] if attached else before)
    at = _point(lesson, flow)
    v = image_policy.guided_velocity(model, stage, contexts.sight(stage), at.x, at.t, flow=flow, size=size, scratch=scratch)
    picture, statistics = image_objective.terms(at, Velocities(v, reference=reference_velocity), image)
    distance = image_objective.kl(image.kl, at, v, reference_velocity)[0]  # recorded where its weight is 0 as well
    told = _image_numbers(statistics, at.density(v)) | {"kl_loss": distance}
    total = joint_objective.learned(picture, lesson.used)
    if lesson.words is not None:
        words, statistics = _words_term(model, keep(_asked(model, stage, lesson.words, scratch)), lesson, temperature, intent)
        told |= {"text_loss": words[0]} | _text_numbers(statistics)
        total += joint_objective.learned(words, lesson.used & lesson.speaks)
    return total[0], told | {"loss": total[0]}


def _point(lesson: Lesson, flow: FlowConfig) -> Window:
    grid = flow.grid()
    return Window(
        x=lesson.x, x_next=lesson.x_next, t=grid[lesson.step], t_next=grid[lesson.step + 1], t_guard=grid[1],
        old_log_prob=lesson.old_log_prob, advantage=lesson.advantage, reward=lesson.advantage, mask=lesson.used, kernel=flow.kernel,
    )  # fmt: skip


def _words_term(model: Bagel | Compiled, cache: KVCache, lesson: Lesson, temperature: float, config: IntentObjectiveConfig):
    """The text's loss [1], and statistics per token."""
    words = lesson.words
    log_prob, _ = intent_policy.log_prob(model, cache, words.tokens, _count(words), temperature=temperature)
    tokens = Tokens(
        log_prob=log_prob, old_log_prob=words.old_log_prob, advantage=lesson.advantage, reward=lesson.advantage,
        mask=jnp.ones(log_prob.shape, bool),
    )  # fmt: skip
    weights = reductions.row_weights(np.full(1, log_prob.shape[1]), reduction=config.reduction, slots=log_prob.shape[1])
    return intent_objective.terms(tokens, jnp.broadcast_to(jnp.asarray(weights, jnp.float32)[:, None], log_prob.shape), None, config)


def _image_numbers(told: Mapping[str, Array], density: transition.Density) -> dict[str, Array]:
    return {
        "prev_sample_mean": density.mean[0],
        "std_dev_t": density.sigma[0],
        "log_prob": density.log_prob[0],
        "ratio": told["ratio"][0],
        "policy_loss": told["surrogate"][0],
        "clipfrac": (told["clip_fraction_high"] | told["clip_fraction_low"])[0].astype(jnp.float32),
        "clipfrac_gt_one": told["clip_fraction_high"][0].astype(jnp.float32),
        "clipfrac_lt_one": told["clip_fraction_low"][0].astype(jnp.float32),
    }


def _text_numbers(told: Mapping[str, Array]) -> dict[str, Array]:
    mean = lambda value: jnp.mean(value.astype(jnp.float32))  # noqa: E731
    return {"text_clipfrac": mean(told["clip_fraction_high"] | told["clip_fraction_low"]), "text_ratio_mean": mean(told["ratio"])}


def _asked(model: Bagel | Compiled, stage: Context, words: Words, scratch: int) -> KVCache:
    """The dialogue before its latest instruction, followed by the question: as the update finds it in a replay."""
    seen = contexts.sight(stage)
    drawing = jax.tree.map(lambda leaf: leaf[None], seen)
    replay = dialogues.Replay(
        context=stage, drawing=drawing, thinking_visible=seen.without_instruction[None], thinking_rope=stage.rope_before[None]
    )
    segments = tuple((ids, jnp.full((1,), ids.shape[1], jnp.int32)) for ids in words.question)
    return intent_policy.ask(model, replay.thinking(jnp.int32(0), scratch), segments)


def _count(words: Words) -> Array:
    return jnp.full((1,), words.tokens.shape[1], jnp.int32)


def _words(subject: Subject) -> Words:
    recorded = subject.recorded
    return Words(
        question=tuple(jnp.asarray(recorded[f"{_CONTEXT}.segment{i}_ids"])[None] for i in (1, 2)),
        tokens=jnp.asarray(recorded[f"{_CONTEXT}.pe_ids"])[None, 1:],  # recorded with the begin token, which ours adds itself
        old_log_prob=jnp.asarray(recorded[f"{_CONTEXT}.old_log_probs"])[None],
    )


def _lesson(subject: Subject, case: str) -> Lesson:
    """The stored step of a case and the numbers it learns with."""
    recorded, args = subject.recorded, subject.recorded.args(case)
    stored, k = args["stored_case"], args["step_in_window"]
    latents = jnp.asarray(recorded[f"{stored}.all_latents"])
    return Lesson(
        x=latents[k][None],
        x_next=latents[k + 1][None],
        step=jnp.asarray([recorded.args(stored)["sde_window_begin"] + k], jnp.int32),
        old_log_prob=jnp.asarray(recorded[f"{case}.old_log_prob"]).reshape(1),
        advantage=jnp.asarray([args["advantage"]], jnp.float32),
        words=_words(subject) if _CONTEXT in recorded.cases else None,
        used=jnp.asarray([args.get("used", True)]),
        speaks=jnp.asarray([args["text_loss"]]),
    )


def _gradients(subject: Subject, case: str, gradient: nnx.State) -> dict[str, np.ndarray]:
    """Gradients by the checkpoint's names, and the norms of all of them; -1 is recorded where there is none, ours is then all zeros."""
    found = bagel_weights.export(gradient)
    ours = {f"{case}.grad.{name}": value for name, value in found.items()}
    if (norms := f"{case}.grad_norms") in subject.recorded:
        sizes = np.asarray([np.linalg.norm(found[name].astype(np.float64)) for name in subject.recorded.parameter_names])
        none = (subject.recorded[norms] == -1) & (sizes == 0)
        ours[norms] = np.where(none, -1.0, sizes)
    return ours


_STEPS = ("i1", "i1_attached", "i2", "i3", "i4", "i5", "i6")
CASES: dict[str, Callable[[Subject, str], Ours]] = {_CONTEXT: words_before} | dict.fromkeys(_STEPS, learning_step)
