"""The choice of a transition by name: one interface for sampler and loss, so that both score a step by the same arithmetic.

A kernel is a file with one function, `moments`; what is drawn from them and how it is scored is the same for all (`transition`). A new
kernel is a file beside flow_sde and a line here.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Float

from editr2_jax.flow import cps, dance, ddim, flow_sde, ode, rectified_flow, transition

KINDS = {"ode": ode, "sde": flow_sde, "dance": dance, "cps": cps, "ddim": ddim}
_BARE_LAST_STEP = ("cps", "ddim")  # their noise level after a step is t', so the step to t' = 0 draws nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A transition and how noisy it is."""

    kind: str = "sde"  # a key of KINDS
    noise_level: float = 1.3  # eta; Edit-R2's for sde. Flow-GRPO: 0.8 for cps; MixGRPO: 0.3 for dance; ode has none and ignores it
    scaled: bool = False  # of cps: the true Gaussian density in place of the published score; the others always have it

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kernel kind {self.kind!r} is unknown; choose one of {', '.join(sorted(KINDS))}.")
        limit = {"cps": "in [0, 2), sensibly at most 1", "ddim": "in [0, 1]"}.get(self.kind, "at least 0")
        if self.noise_level < 0 or (self.kind == "cps" and self.noise_level >= 2) or (self.kind == "ddim" and self.noise_level > 1):
            raise ValueError(f"noise_level of kernel {self.kind!r} is {self.noise_level}; it must be {limit}.")
        if self.scaled and self.kind != "cps":
            raise ValueError(f"kernel {self.kind!r} has one density, its Gaussian; scaled=True chooses that of cps. Leave it out.")

    @property
    def has_density(self) -> bool:
        """Whether steps are drawn at all: without a density there is no ratio, and an objective made of ratios would learn nothing."""
        return self.kind != "ode" and self.noise_level > 0

    @property
    def bare_last_step(self) -> bool:
        """Whether the step that ends at t' = 0 has no density."""
        return self.kind in _BARE_LAST_STEP

    def step(
        self,
        x: Float[Array, "B ..."],
        v: Float[Array, "B ..."],
        t: Float[Array, "*B"] | float,
        t_next: Float[Array, "*B"] | float,
        *,
        t_guard: Float[Array, "*B"] | float,
        eps: Float[Array, "B ..."],
        stochastic: Bool[Array, "*B"] | bool = True,
    ) -> transition.Step:
        """One step from t to t_next with noise eps ~ N(0, I), scored; where not stochastic, or without spread, Euler's with log_prob 0.

        t_guard is the grid's second time, which stands in for t = 1 in a kernel that is infinite there.
        """
        moments = self._moments(x, v, t, t_next, t_guard)
        return transition.draw(moments, rectified_flow.euler(x, v, t, t_next), eps, stochastic, scaled=self._scaled)

    def log_prob(
        self,
        x: Float[Array, "B ..."],
        v: Float[Array, "B ..."],
        x_next: Float[Array, "B ..."],
        t: Float[Array, "*B"] | float,
        t_next: Float[Array, "*B"] | float,
        *,
        t_guard: Float[Array, "*B"] | float,
    ) -> transition.Density:
        """The score of a recorded step under velocity v. Unscaled, that of a step without spread is still a distance."""
        return transition.score(self._moments(x, v, t, t_next, t_guard), x_next, scaled=self._scaled)

    def _moments(self, x, v, t, t_next, t_guard) -> transition.Moments:
        return KINDS[self.kind].moments(x, v, t, t_next, noise_level=self.noise_level, t_guard=t_guard)

    @property
    def _scaled(self) -> bool:
        return self.scaled or self.kind != "cps"
