"""The continuous policy: a picture is drawn by denoising steps, of which a short window is stochastic.

Letters: B rows, L latent tokens, C numbers in a token, S steps, W stochastic steps.
Both verbs of the policy stand here: `sample` draws, `log_prob` asks again how likely a drawn step was, through the same velocity and the
same transition kernel. The policy's velocity is the guided one, in sampling and in the loss. Source: Flow-GRPO (arXiv 2505.05470), its
window from MixGRPO, settings of Edit-R2; golden cases e, f, g0, g1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from editr2_jax.flow import denoise, guidance, kernels, rectified_flow, timesteps, transition
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.policies import context as contexts
from editr2_jax.policies.context import Context, Sight

SCHEDULES = ("bagel", "static", "dynamic")  # of timesteps: shifted, static, dynamic


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """How a picture is drawn."""

    schedule: str = "bagel"  # one of SCHEDULES
    grid_points: int = 15  # points of the time grid: one step less
    shift: float = 3.0  # of bagel and static; that of dynamic follows from the picture's size
    kernel: kernels.Kernel = kernels.Kernel()  # of the stochastic steps
    text_scale: float = 4.0
    image_scale: float = 2.0
    renorm: str = "text_channel"
    renorm_min: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)  # guidance is on where low < t <= high

    def __post_init__(self):
        if self.renorm not in guidance.RENORMS:
            raise ValueError(f"FlowConfig.renorm is {self.renorm!r}; choose one of {', '.join(guidance.RENORMS)}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"FlowConfig.schedule is {self.schedule!r}; choose one of {', '.join(SCHEDULES)}.")
        if self.grid_points < 2 or not self.shift > 0:
            raise ValueError(
                f"FlowConfig: {self.grid_points} grid points and a shift of {self.shift}; "
                "give at least 2 points (steps + 1) and a shift above 0."
            )

    @property
    def steps(self) -> int:
        """Model evaluations per picture."""
        return self.grid_points - 1

    @property
    def branches(self) -> int:
        """Guidance branches that have to run: 1 without text guidance, 2 without image guidance."""
        return 1 + sum(guidance.branches(self.text_scale, self.image_scale))

    def pull(self, tokens: int) -> float:
        """s of the shift s u / (1 + (s - 1) u) that the schedule of L `tokens` bends time by."""
        return float(np.exp(timesteps.exponent(tokens))) if self.schedule == "dynamic" else self.shift

    def grid(self, tokens: int | None = None) -> Float[Array, "S+1"]:
        """Times from 1 (noise) to 0 (picture). The dynamic schedule depends on L, `tokens`, and raises ValueError where it is missing."""
        if self.schedule == "bagel":
            return timesteps.shifted(self.grid_points, self.shift)
        if self.schedule == "static":
            return timesteps.static(self.grid_points, self.shift)
        if tokens is None:
            raise ValueError("the dynamic schedule depends on the picture's latent tokens; say how many there are: grid(tokens).")
        return timesteps.dynamic(self.grid_points, timesteps.exponent(tokens))


def guided_velocity(
    model: Bagel,
    context: Context,
    seen: Sight,
    x: Float[Array, "B L C"],
    t: Float[Array, "B"],
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int = 0,
) -> Float[Array, "B L C"]:
    """Velocity under text and image guidance, all branches in one pass. `size` is the picture's (height, width) in pixels."""
    return guide(flow, branch_velocities(model, context, seen, x, t, flow=flow, size=size, scratch=scratch), t)


def branch_velocities(
    model: Bagel,
    context: Context,
    seen: Sight,
    x: Float[Array, "B L C"],
    t: Float[Array, "B"],
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int = 0,
) -> Float[Array, "B R L C"]:
    """The velocities that guidance puts together: full context, without the instruction, without pictures; as many as it needs."""
    r = flow.branches
    spread = jnp.broadcast_to(x[:, None], (x.shape[0], r, *x.shape[1:]))
    times = jnp.broadcast_to(t[:, None], (x.shape[0], r))
    views = contexts.views(context, seen, r, scratch)
    return model.velocity(spread, times, grid=model.latent_grid(*size), start=seen.start[:, :r], views=views)


def guide(flow: FlowConfig, v: Float[Array, "B R L C"], t: Float[Array, "B"]) -> Float[Array, "B L C"]:
    """The guided velocity from its branches."""
    r = v.shape[1]
    full, without_instruction, without_pictures = (v[:, i] if i < r else None for i in range(contexts.BRANCHES))
    return guidance.guide(
        full,
        without_instruction,
        without_pictures,
        text_scale=flow.text_scale,
        image_scale=flow.image_scale,
        renorm=flow.renorm,
        renorm_min=flow.renorm_min,
        where=guidance.active(t, flow.interval),
    )


def sample(
    model: Bagel,
    context: Context,
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    noise: Float[Array, "B L C"],
    steps: Int[Array, "B W"] | None = None,
    step_noise: Callable[[Int[Array, ""]], Float[Array, "B L C"]] = lambda step: jnp.zeros(()),
    scratch: int = 0,
) -> denoise.Denoised:
    """Draws pictures from initial noise; of every row its `steps` are stochastic (None: none is), the others follow the ODE.

    `step_noise(i)` is the standard normal draw of step i; it is not called where no step is stochastic.
    """
    seen, rows = contexts.sight(context), noise.shape[0]

    def velocity(x, t, step):
        return guided_velocity(model, context, seen, x, jnp.full((rows,), t), flow=flow, size=size, scratch=scratch)

    return denoise.run(velocity, step_noise, noise, grid=flow.grid(noise.shape[1]), kernel=flow.kernel, steps=steps)


class Walk(NamedTuple):
    """A picture coming about without noise. Letters: S steps, R guidance branches."""

    t: Float[Array, "S"]  # at which each step begins
    x: Float[Array, "S B L C"]  # from where
    v: Float[Array, "S B L C"]  # the guided velocity there
    branches: Float[Array, "S B R L C"]  # what it was put together from
    latent: Float[Array, "B L C"]  # at t = 0


def walk(
    model: Bagel, context: Context, seen: Sight, noise: Float[Array, "B L C"], *, flow: FlowConfig, size: tuple[int, int], scratch: int = 0
) -> Walk:
    """The way that `sample` takes where no step is stochastic, every step of it kept: for people, who want to see it."""
    grid, rows = flow.grid(noise.shape[1]), noise.shape[0]

    def step(x, times):
        t, t_next = times
        v = branch_velocities(model, context, seen, x, jnp.full((rows,), t), flow=flow, size=size, scratch=scratch)
        guided = guide(flow, v, jnp.full((rows,), t))
        return rectified_flow.euler(x, guided, t, t_next), (x, guided, v)

    latent, (x, v, branches) = jax.lax.scan(step, noise.astype(jnp.float32), (grid[:-1], grid[1:]))
    return Walk(t=grid[:-1], x=x, v=v, branches=branches, latent=latent)


def attention(
    model: Bagel, context: Context, seen: Sight, x: Float[Array, "B L C"], t: Float[Array, "B"], *, size: tuple[int, int], scratch: int = 0
) -> Float[Array, "N B H L S+L+2"]:
    """Where latents at time t look in every layer and head: slots of the full context, then start marker, latents, end marker."""
    (view,) = contexts.views(context, seen, 1, scratch)
    looks = model.latent_attention(x[:, None], t[:, None], grid=model.latent_grid(*size), start=seen.start[:, :1], view=view)
    return looks[:, :, 0]


def transition_density(
    flow: FlowConfig, v: Float[Array, "B L C"], x: Float[Array, "B L C"], x_next: Float[Array, "B L C"], step: Int[Array, "B"]
) -> transition.Density:
    """The score of the recorded stochastic step from x to x_next under velocity v, with its mean and spread."""
    grid = flow.grid(x.shape[1])
    return flow.kernel.log_prob(x, v, x_next, grid[step], grid[step + 1], t_guard=grid[1])


def log_prob(
    model: Bagel,
    context: Context,
    seen: Sight,
    x: Float[Array, "B L C"],
    x_next: Float[Array, "B L C"],
    step: Int[Array, "B"],
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int = 0,
) -> tuple[transition.Density, Float[Array, "B L C"]]:
    """The score of a recorded step under the model, and the guided velocity behind it."""
    v = guided_velocity(model, context, seen, x, flow.grid(x.shape[1])[step], flow=flow, size=size, scratch=scratch)
    return transition_density(flow, v, x, x_next, step), v
