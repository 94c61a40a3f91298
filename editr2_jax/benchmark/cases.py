"""What is measured: sizes of models and dialogues, random weights, and inputs that fill every slot.

Times of dense programs do not depend on the numbers in them, so weights are drawn by numpy in a moment instead of by a compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models import network as networks
from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel import config as configs
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.models.execution import Execution
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.models.lora import LoraConfig
from editr2_jax.models.network import Network
from editr2_jax.policies.context import Context, Slots
from editr2_jax.policies.dialogue import Played, PolicyConfig, Script
from editr2_jax.policies.flops import Dialogue
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.records import Sample, Session, Turn
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.rollouts.player import Player, RolloutConfig, Weights
from editr2_jax.training.train_batch import Credit

SIZES = ("tiny", "mid")
_SIDE = {"tiny": 48, "mid": 128}  # pixels


def dialogue(size: str, *, checkpoint: Path | None = None, rank: int = 0) -> Dialogue:
    """Three turns over square pictures: the shipped tiny checkpoint's sizes, or mid's. `checkpoint` is a folder to read tiny's from.

    At mid the contexts of the last turn are 525, 499 and 78 tokens. Raises ValueError for an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"there is no size {size!r} to measure; choose from {', '.join(SIZES)}, or all.")
    if size == "mid":
        config = configs.mid()
    else:
        config = BagelConfig.from_folder(checkpoint) if checkpoint is not None and checkpoint.is_dir() else configs.tabletop()
    return Dialogue(config=config, height=_SIDE[size], width=_SIDE[size], rank=rank)


def random_model(config: BagelConfig, *, seed: int = 0, unroll: int = 1) -> Bagel:
    """A model of this size with weights of a usual scale."""
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(bagel.abstract(config))

    def fill(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if any(getattr(key, "key", None) == "scale" for key in path):
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.02, leaf.dtype)

    model = nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))
    model.decoder.execution = Execution(unroll=unroll)
    return model


class Words:
    """A tokenizer whose words are numbers: as many tokens as there are words, and an intent that parses."""

    def __init__(self, config: BagelConfig):
        self.bos, self.eos = config.tokens.bos, config.tokens.eos

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split() if word.isdigit()]

    def decode(self, ids: list[int]) -> str:
        return "</think>" + " ".join(map(str, ids))


@dataclasses.dataclass(frozen=True)
class Stage:
    """One size at one batch, with everything that the phases run on. Parts are made when a phase first asks for them."""

    dialogue: Dialogue
    batch: int  # sessions B, each with a picture of its own
    model: Bagel

    @property
    def size(self) -> tuple[int, int]:
        return self.dialogue.height, self.dialogue.width

    @functools.cached_property
    def policy(self) -> PolicyConfig:
        d = self.dialogue
        slots = Slots(instruction=d.instruction, later=d.instruction, system=d.system, question=d.question, intent=d.intent)
        return PolicyConfig(flow=FlowConfig(grid_points=d.steps + 1), slots=slots)

    @functools.cached_property
    def bare(self) -> tuple[Network, Weights]:
        """The model as it stands, for play."""
        network, trainable, frozen = networks.whole(self.model, ())
        return network, Weights(trainable=trainable, frozen=frozen)

    @functools.cached_property
    def adapted(self) -> tuple[Network, Weights]:
        """The model with a fresh adapter, for learning; the base weights are those of `bare`."""
        config = LoraConfig(rank=self.dialogue.rank, alpha=2.0 * self.dialogue.rank)
        network, trainable, frozen = networks.with_adapter(nnx.merge(*nnx.split(self.model)), config, key=jax.random.key(0))
        return network, Weights(trainable=trainable, frozen=frozen)

    @functools.cached_property
    def player(self) -> Player:
        d = self.dialogue
        prompt = IntentPrompt(system=_sentence(d.system), question="{history} {instruction}", entry="{instruction}")
        window = WindowConfig(size=d.window, last=min(7, d.steps))
        config = RolloutConfig(turns=d.turns, policy=self.policy, window=window, prompt=prompt)
        return Player(self.bare[0], config)

    @functools.cached_property
    def capacity(self) -> tuple[int, int]:
        d = self.dialogue
        return self.policy.slots.capacity(d.config, turns=d.turns, height=d.height, width=d.width)

    # Inputs -----------------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def pictures(self) -> np.ndarray:
        """uint8 [B, T, H, W, 3]"""
        d = self.dialogue
        return np.random.default_rng(1).integers(0, 256, (self.batch, d.turns, d.height, d.width, 3), np.uint8)

    @functools.cached_property
    def latents(self) -> np.ndarray:
        """Noise, [B, L, C]."""
        d = self.dialogue
        return np.random.default_rng(2).standard_normal((self.batch, d.latents, d.config.token_dim), np.float32)

    def segment(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [B, T] that fill all slots of a segment, and their counts."""
        return np.full((self.batch, length), 5, np.int32), np.full((self.batch,), length, np.int32)

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """Sessions for a whole play; every instruction has as many tokens as its slots take."""
        d = self.dialogue
        text = _sentence(d.instruction)
        turn = Turn(
            instruction=text, formatted_instruction=text, task_type="", bg_consistency=True,
            unchanged_objects=(), available_objects=(), all_objects=(),
        )  # fmt: skip
        sessions = [Session(id=str(i), image="", turns=(turn,) * d.turns) for i in range(self.batch)]
        return [Sample(session=session, picture=self.pictures[i, 0], group=i) for i, session in enumerate(sessions)]

    @functools.cached_property
    def context(self) -> Context:
        """The last turn's context, just before its picture is drawn; what it holds is noise."""
        d, (full, text) = self.dialogue, self.capacity
        filled, slots = full - self.policy.slots.scratch, np.arange(full)
        return Context(
            full=self._noise(full, filled),
            text=self._noise(text, text),
            instruction=jnp.broadcast_to((slots >= filled - d.instruction) & (slots < filled), (self.batch, full)),
            rope_before=jnp.full((self.batch,), filled - d.instruction, jnp.int32),
        )

    @functools.cached_property
    def asked(self) -> KVCache:
        """The full cache with the question before the last turn in it."""
        d = self.dialogue
        return self._noise(self.capacity[0], d.before(d.turns - 1) + d.system + d.question)

    def _noise(self, capacity: int, filled: int) -> KVCache:
        cache = bagel.empty_cache(self.dialogue.config, rows=self.batch, capacity=capacity)
        draw = lambda seed: jnp.asarray(np.random.default_rng(seed).standard_normal(cache.k.shape, np.float32))  # noqa: E731
        return KVCache(
            k=draw(3),
            v=draw(4),
            valid=jnp.broadcast_to(jnp.arange(capacity) < filled, (self.batch, capacity)),
            rope=jnp.full((self.batch,), filled, jnp.int32),
            length=jnp.asarray(filled, jnp.int32),
        )

    @functools.cached_property
    def played(self) -> Played:
        """A rollout in shape only: nobody drew it."""
        d, b, w = self.dialogue, self.batch, self.dialogue.window
        by_turn = lambda pair: tuple(jnp.stack([jnp.asarray(x)] * d.turns, axis=1) for x in pair)  # noqa: E731
        ids, counts = by_turn(self.segment(d.instruction))
        script = Script(
            source=jnp.asarray(self.pictures[:, 0]),
            pictures=jnp.asarray(self.pictures),
            instruction=ids,
            instruction_count=counts,
            question=(by_turn(self.segment(d.system)), by_turn(self.segment(d.question))),
        )
        tokens, written = by_turn(self.segment(d.intent))
        rng = np.random.default_rng(5)
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
        return Played(
            script=script,
            x=draw(b, d.turns, w, d.latents, d.config.token_dim),
            x_next=draw(b, d.turns, w, d.latents, d.config.token_dim),
            clean=draw(b, d.turns, d.latents, d.config.token_dim),
            step=jnp.broadcast_to(jnp.arange(w), (b, d.turns, w)),
            image_log_prob=jnp.zeros((b, d.turns, w)),
            intent=tokens,
            intent_count=written.at[:, 0].set(0),
            intent_log_prob=jnp.zeros(tokens.shape),
        )

    @property
    def credit(self) -> Credit:
        """Every turn teaches."""
        shape = (self.batch, self.dialogue.turns)
        worth, learns = np.where(np.indices(shape).sum(0) % 2, 1.0, -1.0).astype(np.float32), np.ones(shape, bool)
        masks = {"image_mask": learns, "text_mask": learns}
        return Credit(reward=worth, image_advantage=worth, text_advantage=worth, **masks, why=np.full(shape, ""))


def _sentence(tokens: int) -> str:
    """Words that, with a begin and an end token, fill `tokens` slots."""
    return " ".join(str(word) for word in range(1, tokens - 1))
