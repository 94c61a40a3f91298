"""A look inside played dialogues: where written words and drawn latents attend, and the way from noise to a picture.

For people and their figures: play and training never come here. A dialogue is read again, as the update reads it, and asked about a turn.
Letters: N layers, B rows, H heads, T turns, K intent tokens, L latent tokens, C numbers in a token, S slots of the full cache; what stands
in which slot says `Slots.layout`.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from editr2_jax.models.bagel import pixels
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.network import Network
from editr2_jax.policies import dialogue, image_policy, intent_policy
from editr2_jax.policies.context import Sight
from editr2_jax.policies.dialogue import Played, PolicyConfig, Replay
from editr2_jax.policies.image_policy import Walk
from editr2_jax.rollouts.player import Weights, standard_normal


class Probe:
    """Compiled questions about what was played with one network under one policy. Nothing is remembered between calls.

    `read` first; what it returns goes into the other questions about the same dialogues.
    """

    def __init__(self, network: Network, policy: PolicyConfig):
        self.network, self.policy = network, policy
        self.read = jax.jit(self._read)
        self.writing = jax.jit(self._writing)
        self.drawing = jax.jit(self._drawing)
        self.walk = jax.jit(self._walk)
        self.decode = jax.jit(self._decode, static_argnames=("size",))

    def _read(self, weights: Weights, played: Played) -> Replay:
        """The dialogues, read again to their end."""
        return dialogue.replay(self._model(weights), played.script, self.policy.slots)

    def _writing(self, weights: Weights, played: Played, replay: Replay, turn: Int[Array, ""]) -> Float[Array, "N B H K S+K"]:
        """Where the model looks as it chooses each token of the intent of `turn` >= 1: slots, then the begin token and those written."""
        model = self._model(weights)
        return intent_policy.attention(model, *dialogue.asked(model, played, replay, turn, slots=self.policy.slots))

    def _drawing(
        self, weights: Weights, played: Played, replay: Replay, turn: Int[Array, ""], x: Float[Array, "B L C"], t: Float[Array, "B"]
    ) -> Float[Array, "N B H L S'+L+2"]:
        """Where the latents x of the picture of `turn` look at time t: slots without the scratch, start marker, latents, end marker."""
        where = {"size": _size(played), "scratch": self.policy.slots.scratch}
        return image_policy.attention(self._model(weights), replay.context, _sight(replay, turn), x, t, **where)

    def _walk(self, weights: Weights, played: Played, replay: Replay, turn: Int[Array, ""], noise_keys: PRNGKeyArray) -> Walk:
        """The way without noise to the picture of `turn`, from initial noise of the rows' keys (`collect.noise_keys` has those of play)."""
        noise = standard_normal(noise_keys, shape=played.clean.shape[2:])
        how = {"flow": self.policy.flow, "size": _size(played), "scratch": self.policy.slots.scratch}
        return image_policy.walk(self._model(weights), replay.context, _sight(replay, turn), noise, **how)

    def _decode(self, weights: Weights, latents: Float[Array, "B L C"], *, size: tuple[int, int]) -> UInt8[Array, "B H W 3"]:
        """Latents as pictures of (height, width) pixels."""
        return pixels.to_uint8(self._model(weights).decode(latents, *size))

    def _model(self, weights: Weights) -> Bagel:
        return self.network.policy(weights.trainable, weights.frozen)


def _sight(replay: Replay, turn: Int[Array, ""]) -> Sight:
    return jax.tree.map(lambda x: x[turn], replay.drawing)


def _size(played: Played) -> tuple[int, int]:
    return played.script.source.shape[1:3]
