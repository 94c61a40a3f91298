"""Where an objective asks for velocities, and what it may look at there.

An image objective is a file in `objectives/image` with four names:
    POINTS    Window (a stochastic step, as it was drawn) or Path (a point between a drawn picture and fresh noise)
    NEEDS     which velocities it wants beside the policy's: any of "old" (the policy that played), "reference" (the adapter off)
    Config    a frozen dataclass of its settings, with defaults; they appear as objective.image.NAME in every config
    loss      (point, velocities, config) -> Loss: one number per row; rows are averaged, masked and weighted by the caller

Letters: B rows, L latent tokens, C numbers in a token. What a filter or a missing reward takes out comes in as zeros.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from editr2_jax.flow import kernels, rectified_flow, transition

NEEDS = ("old", "reference")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """One stochastic step of every row, from x at time t to x_next at t_next."""

    x: Float[Array, "B L C"]
    x_next: Float[Array, "B L C"]
    t: Float[Array, "B"]
    t_next: Float[Array, "B"]
    t_guard: Float[Array, ""]  # the grid's second time
    old_log_prob: Float[Array, "B"]  # under the policy that played
    advantage: Float[Array, "B"]
    reward: Float[Array, "B"]
    mask: Bool[Array, "B"]  # rows that teach
    kernel: kernels.Kernel = dataclasses.field(metadata={"static": True})
    group: int = dataclasses.field(default=1, metadata={"static": True})  # rows of one session lie side by side

    def density(self, v: Float[Array, "B L C"]) -> transition.Density:
        """The score of the recorded step under velocity v, with mean and spread of the transition."""
        return self.kernel.log_prob(self.x, v, self.x_next, self.t, self.t_next, t_guard=self.t_guard)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """One point of the straight path from every row's drawn picture to fresh noise."""

    clean: Float[Array, "B L C"]  # the latent that was drawn; no gradient flows into it
    noise: Float[Array, "B L C"]
    t: Float[Array, "B"]
    advantage: Float[Array, "B"]
    reward: Float[Array, "B"]
    mask: Bool[Array, "B"]
    group: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def x(self) -> Float[Array, "B L C"]:
        return rectified_flow.interpolate(self.clean, self.noise, self.t)

    @property
    def target(self) -> Float[Array, "B L C"]:
        """The velocity that flow matching would teach here."""
        return rectified_flow.velocity(self.clean, self.noise)


class Velocities(NamedTuple):
    """Velocities at a point; None where the objective's NEEDS do not name them. `old` and `reference` are constants."""

    policy: Float[Array, "B L C"]
    old: Float[Array, "B L C"] | None = None
    reference: Float[Array, "B L C"] | None = None


class Loss(NamedTuple):
    value: Float[Array, "B"]
    statistics: dict[str, Float[Array, "B"]]  # averaged over the rows that teach; a name that ends in _max: their maximum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """What an intent objective may look at. Letters: B rows, K intent tokens."""

    log_prob: Float[Array, "B K"]  # the only field that receives gradient
    old_log_prob: Float[Array, "B K"]
    advantage: Float[Array, "B"]
    reward: Float[Array, "B"]
    mask: Bool[Array, "B K"]  # tokens that exist
    group: int = dataclasses.field(default=1, metadata={"static": True})


class TokenLoss(NamedTuple):
    value: Float[Array, "B K"]
    statistics: dict[str, Float[Array, "B K"]]
