"""The choice of a stochastic step by name: one interface for sampler and loss. A new kernel is a file beside flow_sde and a line here."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Float

from editr2_jax.flow import cps, flow_sde, transition

KINDS = {"sde": flow_sde, "cps": cps}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A stochastic step and how noisy it is."""

    kind: str = "sde"  # a key of KINDS
    noise_level: float = 1.3  # eta; Edit-R2's for sde, Flow-GRPO uses 0.8 for cps

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kernel kind {self.kind!r} is unknown; choose one of {', '.join(sorted(KINDS))}.")
        if self.noise_level < 0 or (self.kind == "cps" and self.noise_level >= 2):
            limit = "in [0, 2), sensibly at most 1" if self.kind == "cps" else "at least 0"
            raise ValueError(f"noise_level of kernel {self.kind!r} is {self.noise_level}; it must be {limit}.")

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
        """One step from t to t_next, drawn with eps and scored."""
        return KINDS[self.kind].step(x, v, t, t_next, noise_level=self.noise_level, t_guard=t_guard, eps=eps, stochastic=stochastic)

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
        """The score of a recorded step under velocity v."""
        return KINDS[self.kind].log_prob(x, v, x_next, t, t_next, noise_level=self.noise_level, t_guard=t_guard)
