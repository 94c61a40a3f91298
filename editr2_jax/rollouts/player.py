"""The compiled phases of play: what happens to a batch of dialogues between two moments at which words are read or pictures are scored.

Letters: P sessions, G group, B = P * G rows, T turns, L latent tokens, C numbers in a token, W stochastic steps, K intent tokens.
Every phase is compiled once and serves every turn; inside a phase nothing returns to the host.
"""

from __future__ import annotations

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from editr2_jax.flow import denoise
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models import logical_axes
from editr2_jax.models.bagel import pixels
from editr2_jax.models.bagel.bagel import Bagel, PictureTokens
from editr2_jax.models.network import Network
from editr2_jax.policies import context as contexts
from editr2_jax.policies import image_policy, intent_policy
from editr2_jax.policies.context import Context
from editr2_jax.policies.dialogue import PolicyConfig
from editr2_jax.policies.intent_policy import Intent
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.runtime.mesh import Layout

NOISES = (
    "iteration",  # a session's group, and drawn anew in every iteration
    "dialogue",  # its group, and the same for the whole run: the reference, where a dialogue always starts from the same noise
    "member",  # nobody: every rollout has its own
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How sessions are played."""

    turns: int = 3  # at most; a shorter session is played to its end
    policy: PolicyConfig = PolicyConfig()
    window: WindowConfig = WindowConfig()
    noise: str = "iteration"  # who shares a picture's initial noise, one of NOISES
    reconstruct: bool = True  # False: every turn is drawn from its own instruction, as given
    prompt: IntentPrompt = IntentPrompt()

    def __post_init__(self):
        flow, window = self.policy.flow, self.window
        if self.noise not in NOISES:
            raise ValueError(f"RolloutConfig.noise is {self.noise!r}; choose one of {', '.join(NOISES)}.")
        if self.turns < 1:
            raise ValueError(f"RolloutConfig.turns is {self.turns}; play at least 1.")
        if not window.count:
            return
        if window.last > flow.steps:
            raise ValueError(
                f"RolloutConfig: a window in steps {window.first} to {window.last - 1} does not fit into the {flow.steps} steps of "
                f"{flow.grid_points} grid points; lower window.last, or raise flow.grid_points."
            )
        if not flow.kernel.has_density:
            raise ValueError(
                f"RolloutConfig: a window of {window.count} stochastic steps, but kernel {flow.kernel.kind!r} at noise_level "
                f"{flow.kernel.noise_level} draws nothing, so they would have no density to learn from; "
                "set window.size=0, or choose a kernel with noise."
            )
        if window.last == flow.steps and flow.kernel.bare_last_step:
            raise ValueError(
                f"RolloutConfig: the window reaches the last step, {flow.steps - 1}, which {flow.kernel.kind!r} takes without noise; "
                f"set window.last to at most {flow.steps - 1}."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's numbers: what learns and what does not."""

    trainable: nnx.State
    frozen: nnx.State

    def moved(self, layout: Layout) -> Weights:
        """Inside a compiled function: the same numbers, laid out as told."""
        return Weights(trainable=logical_axes.moved(self.trainable, layout), frozen=logical_axes.moved(self.frozen, layout))


class Player:
    """Compiled phases of one network under one config. Weights come in with every call; nothing is remembered."""

    def __init__(self, network: Network, config: RolloutConfig):
        """Plays with noise: a stochastic window, and intents drawn at the temperature."""
        self.network, self.writer, self.config = network.for_play(), network.for_words(), config
        self.perceive = jax.jit(self._perceive)
        self.begin = jax.jit(self._begin, static_argnames=("size", "serves", "turns"))
        self.instruct = jax.jit(self._instruct, donate_argnames=("context",))
        self.read = jax.jit(self._read, static_argnames=("size",), donate_argnames=("context",))
        self.denoise = jax.jit(self._denoise, static_argnames=("size",))
        self.decode = jax.jit(self._decode, static_argnames=("size",))
        self._set(draws=True)

    def quiet(self, *, turns: int = 0) -> Player:
        """The same player without noise: no stochastic window, greedy intents. What does not differ is compiled once for both.

        `turns` replaces how many turns are played at most; 0 keeps it.
        """
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, turns=turns or self.config.turns)
        other._set(draws=False)
        return other

    def _set(self, *, draws: bool) -> None:
        self.draws = draws
        self.think = jax.jit(self._think, donate_argnames=("context",))

    @property
    def window(self) -> WindowConfig:
        """The window of stochastic steps; empty without noise."""
        return self.config.window if self.draws else dataclasses.replace(self.config.window, size=0)

    def _model(self, weights: Weights) -> Bagel:
        return self.network.policy(weights.trainable, weights.frozen)

    def sources(self, source: UInt8[Array, "P H W 3"], group: int) -> tuple[UInt8[Array, "P*G/s H W 3"], int]:
        """The source pictures as they are read, and how many members s each of them serves (`contexts.served`)."""
        serves = contexts.served(self.network.execution, source.shape[0], group)
        return np.repeat(source, group // serves, axis=0), serves

    def open(self, weights: Weights, source: UInt8[Array, "P H W 3"], *, group: int, turns: int) -> Context:
        """The source pictures, perceived and read, before every member of their groups."""
        pictures, serves = self.sources(source, group)
        return self.begin(weights, self.perceive(weights, pictures), size=source.shape[1:3], serves=serves, turns=turns)

    def look(self, weights: Weights, context: Context, picture: UInt8[Array, "B H W 3"]) -> Context:
        """A picture, perceived and read behind the context, which is given away."""
        return self.read(weights, context, self.perceive(weights, picture), size=picture.shape[1:3])

    def _perceive(self, weights: Weights, picture: UInt8[Array, "B H W 3"]) -> PictureTokens:
        run = self.network.execution
        return run.constrain(self._model(weights).perceive(run.constrain(picture, "batch")), "batch")

    def _begin(self, weights: Weights, source: PictureTokens, *, size: tuple[int, int], serves: int, turns: int) -> Context:
        model = self._model(weights)
        capacity = self.config.policy.slots.capacity(model.config, turns=turns, height=size[0], width=size[1])
        return contexts.of_sources(model, source, size, serves=serves, capacity=capacity)

    def _instruct(self, weights: Weights, context: Context, ids: Int[Array, "B Ti"], count: Int[Array, "B"]) -> Context:
        model = self._model(weights)
        return contexts.placed(contexts.add_instruction(model, context, ids, count), model.decoder.execution)

    def _read(self, weights: Weights, context: Context, picture: PictureTokens, *, size: tuple[int, int]) -> Context:
        model = self._model(weights)
        return contexts.placed(contexts.add_tokens(model, context, picture, size), model.decoder.execution)

    def draw(
        self, weights: Weights, context: Context, noise_keys, step_keys, steps, *, size: tuple[int, int]
    ) -> tuple[UInt8[Array, "B H W 3"], denoise.Denoised]:
        """Pictures, and how they came about; see `_denoise`."""
        done = self.denoise(weights, context, noise_keys, step_keys, steps, size=size)
        return self.decode(weights, done.latent, size=size), done

    def _denoise(
        self,
        weights: Weights,
        context: Context,
        noise_keys: PRNGKeyArray,
        step_keys: PRNGKeyArray,
        steps: Int[Array, "B W"],
        *,
        size: tuple[int, int],
    ) -> denoise.Denoised:
        """Latents of pictures from initial noise of the rows' `noise_keys`, and how they came about.

        Equal keys in a group give its members the same start; `steps` are each row's stochastic ones.
        """
        model, run = self._model(weights), self.network.execution
        rows, columns = model.latent_grid(*size)
        shape = (rows * columns, model.config.token_dim)
        normal = lambda keys: run.constrain(standard_normal(keys, shape=shape), "batch")  # noqa: E731
        done = image_policy.sample(
            model,
            context,
            flow=self.config.policy.flow,
            size=size,
            noise=normal(noise_keys),
            steps=steps,
            step_noise=lambda step: normal(jax.vmap(lambda key: jax.random.fold_in(key, step))(step_keys)),
            scratch=self.config.policy.slots.scratch,
        )
        way = done.trajectory
        small = run.constrain({"log_prob": way.log_prob, "step": way.step, "t": way.t, "t_next": way.t_next})  # whole: hosts read them
        large = run.constrain({"x": way.x, "x_next": way.x_next}, "batch")
        return denoise.Denoised(run.constrain(done.latent, "batch"), denoise.Trajectory(**large, **small))

    def _decode(self, weights: Weights, latent: Float[Array, "B L C"], *, size: tuple[int, int]) -> UInt8[Array, "B H W 3"]:
        """What latents look like."""
        return self.network.execution.constrain(pixels.to_uint8(self._model(weights).decode(latent, *size)), "batch")

    def _think(self, weights: Weights, context: Context, segments: tuple, keys: PRNGKeyArray) -> tuple[Context, Intent]:
        """Asks for the intent and writes it down. The dialogue's context is given away and comes back as it was: what was thought fills
        free slots behind it, in place, and the next segment overwrites them.

        Where words have a layout of their own (a token at a time, nothing should be gathered), weights and slots are brought there once,
        and what comes back is the context that was given.
        """
        run = self.writer.execution
        elsewhere = run.layout != self.network.execution.layout
        if elsewhere:
            weights = weights.moved(run.layout)
        model = self.writer.policy(weights.trainable, weights.frozen)
        asked = intent_policy.ask(model, contexts.placed(context, run).full, segments)
        written, thought = intent_policy.sample(
            model,
            asked,
            keys=keys if self.draws else None,
            limit=self.config.policy.slots.intent,
            temperature=self.config.policy.temperature,
        )
        if not elsewhere:
            context = dataclasses.replace(context, full=dataclasses.replace(context.full, k=thought.k, v=thought.v))
        return contexts.placed(context, self.network.execution), run.constrain(written)  # words lie whole on every device: hosts read them


def standard_normal(keys: PRNGKeyArray, *, shape: tuple[int, ...]) -> Float[Array, "B *shape"]:
    """Noise of a row for each of the keys."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
