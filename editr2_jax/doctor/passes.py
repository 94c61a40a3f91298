"""Compiled passes that only the doctor wants, made of the policies' own functions.

Letters: P sessions, B rows, T turns, W stochastic steps, S steps, L latent tokens, C numbers in a token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from editr2_jax.flow import rectified_flow
from editr2_jax.models.bagel import pixels
from editr2_jax.models.network import Network
from editr2_jax.policies import dialogue, image_policy
from editr2_jax.policies.context import Slots
from editr2_jax.policies.dialogue import Played, Replay, Script
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.rollouts.player import Weights


class Walk(NamedTuple):
    """The recorded steps of a rollout taken again along the time grid."""

    mean: Float[Array, "B T W"]  # of the standardised noise (x' - mean) / std of a stochastic step
    square: Float[Array, "B T W"]  # mean of its square
    arrived: Float[Array, "B T W L C"]  # where the ODE leads from the stochastic step before: what the next one starts from
    clean: Float[Array, "B T L C"]  # and, behind the last one, the final latent


class Passes:
    """Of one network; what is compiled is compiled when it is first called."""

    def __init__(self, network: Network, slots: Slots):
        self._network, self._slots = network, slots
        self.replay = jax.jit(self._replay)
        self.walk = jax.jit(self._walk, static_argnames=("flow",))
        self.redraw = jax.jit(self._redraw)

    def _replay(self, weights: Weights, script: Script) -> Replay:
        """The dialogue's contexts as the update reads them."""
        return dialogue.replay(self._network.policy(weights.trainable, weights.frozen), script, self._slots)

    def _walk(self, weights: Weights, played: Played, replay: Replay, *, flow: FlowConfig) -> Walk:
        """Every turn's grid from its first stochastic step on, under `flow`: its velocity, its kernel, its own times."""
        model = self._network.policy(weights.trainable, weights.frozen)
        ask = {"flow": flow, "size": played.script.source.shape[1:3], "scratch": self._slots.scratch}
        rows, grid = played.step.shape[0], flow.grid(played.clean.shape[2])

        def turn(_, t):
            seen = jax.tree.map(lambda leaf: leaf[t], replay.drawing)
            steps, before, after = played.step[:, t], played.x[:, t], played.x_next[:, t]

            def step(carry, i):
                x, found = carry
                hit = steps == i  # [B, W]
                here = lambda stored: jnp.where(hit[:, :, None, None], stored, 0.0).sum(axis=1)  # noqa: E731
                arrived = jnp.where(hit[:, :, None, None], x[:, None], found[2])
                inside = hit.any(axis=1)
                x = jnp.where(inside[:, None, None], here(before), x)
                times = {"t": grid[i], "t_next": grid[i + 1], "t_guard": grid[1]}
                v = image_policy.guided_velocity(model, replay.context, seen, x, jnp.full((rows,), grid[i]), **ask)
                drawn = flow.kernel.log_prob(x, v, here(after), **times)
                noise = (here(after) - drawn.mean) / rectified_flow.per_row(jnp.where(drawn.std > 0, drawn.std, 1.0), x)
                keep = lambda store, number: jnp.where(hit, number[:, None], store)  # noqa: E731
                found = (keep(found[0], noise.mean(axis=(1, 2))), keep(found[1], jnp.square(noise).mean(axis=(1, 2))), arrived)
                plain = flow.kernel.step(x, v, **times, eps=jnp.zeros_like(x), stochastic=False).next
                return (jnp.where(inside[:, None, None], here(after), plain), found), None

            blank = jnp.zeros(steps.shape, jnp.float32)
            (clean, found), _ = jax.lax.scan(step, (jnp.zeros_like(before[:, 0]), (blank, blank, before)), jnp.arange(flow.steps))
            return None, (*found, clean)

        _, by_turn = jax.lax.scan(turn, None, jnp.arange(played.step.shape[1]))
        return Walk(*(jnp.swapaxes(leaf, 0, 1) for leaf in by_turn))

    def _redraw(self, weights: Weights, pictures: UInt8[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
        """What comes back from the autoencoder, as the next turn would see it."""
        model = self._network.policy(weights.trainable, weights.frozen)
        return pixels.to_uint8(model.decode(model.encode(pictures), *pictures.shape[1:3]))
