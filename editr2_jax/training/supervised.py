"""The supervised step: ground-truth sessions teach drawing and intent at once; and the autoencoder's step before it."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from editr2_jax.models.network import Network
from editr2_jax.objectives import autoencoder_objective, supervised_objective
from editr2_jax.objectives.autoencoder_objective import AutoencoderConfig
from editr2_jax.objectives.supervised_objective import Lecture, SupervisedConfig
from editr2_jax.policies.context import Slots, pad_tokens
from editr2_jax.records import Sample, Session
from editr2_jax.rollouts import in_context_cot
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.runtime import keys
from editr2_jax.training import state as states
from editr2_jax.training.state import TrainState


class Supervised:
    """The recipe of flow matching and intent text on ground-truth sessions."""

    def __init__(
        self,
        network: Network,
        frozen,
        *,
        optimizer: optax.GradientTransformation,
        config: SupervisedConfig,
        slots: Slots,
        prompt: IntentPrompt,
        tokenizer,
        seed: int,
        remember: bool = False,
    ):
        self.network, self.frozen, self.optimizer, self.config = network, frozen, optimizer, config
        self.slots, self.prompt, self.tokenizer, self.seed = slots, prompt, tokenizer, seed
        self._latents: dict[str, np.ndarray] | None = {} if remember else None
        self._encode = jax.jit(self._encode_from)
        self._learn = jax.jit(self._learn_from, donate_argnums=(0,))

    def step(self, state: TrainState, sessions: Sequence[Sample], step: int) -> tuple[TrainState, dict[str, float]]:
        """One optimizer update on a batch of sessions of one shape."""
        latents, words = self.latents(state, sessions), {"tokenizer": self.tokenizer, "slots": self.slots, "prompt": self.prompt}
        lecture = teach(sessions, latents, **words, repeat=self.config.repeat)
        state, metrics = self._learn(state, self.frozen, lecture, keys.at(self.seed, "supervised", step))
        return state, metrics

    def latents(self, state: TrainState, sessions: Sequence[Sample]) -> Float[np.ndarray, "B T+1 L C"]:
        """Latents of every session's source and targets. The autoencoder is not trained here, so they can be remembered."""
        known = {} if self._latents is None else self._latents
        new = [sample for sample in sessions if sample.session.id not in known]
        if new:
            pictures = np.stack([np.stack((sample.picture, *sample.targets)) for sample in new])
            made = self._encode(state.trainable, self.frozen, np.resize(pictures, (len(sessions), *pictures.shape[1:])))  # one shape
            known |= {sample.session.id: latents for sample, latents in zip(new, np.asarray(made), strict=False)}
        return np.stack([known[sample.session.id] for sample in sessions])

    def _encode_from(self, trainable, frozen, pictures):
        """One picture of each session at a time: the autoencoder's first level is wide."""
        model = self.network.policy(trainable, frozen)
        return jnp.swapaxes(jax.lax.map(model.encode, jnp.swapaxes(pictures, 0, 1)), 0, 1)

    def _learn_from(self, state: TrainState, frozen, lecture: Lecture, key):
        def loss(trainable):
            model = self.network.policy(trainable, frozen)
            return supervised_objective.loss(model, lecture, key=key, config=self.config, slots=self.slots)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.trainable)
        state, sizes = states.apply(state, gradients, self.optimizer)
        return state, metrics | sizes | {"loss/total": value}


class AutoencoderRecipe:
    """The recipe of the autoencoder: in every step one picture of each session, source or target; those of one session look alike."""

    def __init__(self, network: Network, frozen, *, optimizer: optax.GradientTransformation, config: AutoencoderConfig, seed: int):
        self.network, self.frozen, self.optimizer, self.config, self.seed = network, frozen, optimizer, config, seed
        self._learn = jax.jit(self._learn_from, donate_argnums=(0,))

    def step(self, state: TrainState, sessions: Sequence[Sample], step: int) -> tuple[TrainState, dict[str, float]]:
        """One optimizer update on a picture of each of a batch of sessions."""
        choose = np.random.default_rng((self.seed, step))
        pictures = np.stack([(sample.picture, *sample.targets)[choose.integers(1 + len(sample.targets))] for sample in sessions])
        return self._learn(state, self.frozen, pictures, keys.at(self.seed, "autoencoder", step))

    def _learn_from(self, state: TrainState, frozen, pictures, key):
        def loss(trainable):
            return autoencoder_objective.loss(self.network.policy(trainable, frozen).vae, pictures, key=key, config=self.config)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.trainable)
        state, sizes = states.apply(state, gradients, self.optimizer)
        return state, metrics | sizes | {"loss/total": value}


CAPTION_QUESTION = "Describe."
_UNTAUGHT = "session {} has no ground truth; the supervised recipe needs `target` and `intent` in every record."


def refuse_untaught(sessions: Iterable[Session]) -> None:
    """Raises ValueError for a session whose record lacks targets or intents: before a run, not when its turn comes."""
    for session in sessions:
        if any(turn.target is None or turn.intent is None for turn in session.turns):
            raise ValueError(_UNTAUGHT.format(session.id))


def teach(
    sessions: Sequence[Sample], latents: Float[Array, "B T+1 L C"], *, tokenizer, slots: Slots, prompt: IntentPrompt, repeat: float = 0.0
) -> Lecture:
    """Ground-truth sessions of one shape, with their pictures' latents, as arrays. Raises ValueError for words that have no room."""
    parts = [_words(sample.session, tokenizer, slots, prompt, repeat) for sample in sessions]
    ids, count, thought, thought_count, answer = (jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True))
    return Lecture(
        pictures=jnp.asarray(np.stack([np.stack((sample.picture, *sample.targets[:-1])) for sample in sessions])),
        latents=jnp.asarray(latents),
        instruction=ids,
        instruction_count=count,
        thought=thought,
        thought_count=thought_count,
        answer=answer,
    )


@functools.lru_cache(maxsize=1 << 17)  # a session comes again in every epoch
def _words(session: Session, tokenizer, slots: Slots, prompt: IntentPrompt, repeat: float) -> tuple[np.ndarray, ...]:
    """Token arrays of one session: instructions [T, Ti] and counts [T]; thoughts [T, X], counts [T], and which tokens answer [T, X]."""
    wrap = lambda text: [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]  # noqa: E731
    spoken = [wrap(turn.intent if t else turn.instruction) for t, turn in enumerate(session.turns)]
    for t, tokens in enumerate(spoken):
        pad_tokens([tokens], slots.of_turn(t), what=f"session {session.id}: the instruction of turn {t}")  # refuses what has no room
    texts, thoughts, answers = [turn.instruction for turn in session.turns], [], []
    for t in range(len(texts)):
        asked = (prompt.system, in_context_cot.question(prompt, texts, t)) if t else (CAPTION_QUESTION,)
        answer = _answer(session, t, tokenizer, slots, repeat)
        answers.append(len(answer))
        thoughts.append([*(token for segment in asked for token in wrap(segment)), tokenizer.bos, *answer] if answer else [])
    ids, count = pad_tokens(spoken, slots.instruction, what=f"session {session.id}: an instruction")
    thought, thought_count = pad_tokens(thoughts, slots.scratch, what=f"session {session.id}: a question with its answer")
    place = np.arange(slots.scratch)
    answer = (place >= (thought_count - np.asarray(answers))[:, None]) & (place < thought_count[:, None])
    return ids, count, thought, thought_count, answer


def _answer(session: Session, turn: int, tokenizer, slots: Slots, repeat: float) -> list[int]:
    """Tokens taught before a turn: the source's caption before turn 0, then the intent. Nothing where there is no caption.

    A `repeat` share of later turns, always the same ones, teaches the instruction as it was said instead, where it has room.
    """
    ended = lambda text: [*tokenizer.encode(text), tokenizer.eos] if text else []  # noqa: E731
    if turn == 0:
        return ended(session.caption)
    if zlib.crc32(f"{session.id} {turn}".encode()) < repeat * 2**32:
        said = ended(in_context_cot.answer(session.turns[turn].instruction))
        if len(said) <= slots.intent:
            return said
    return ended(in_context_cot.answer(session.turns[turn].intent))
