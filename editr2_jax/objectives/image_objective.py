"""The image term: an objective of `objectives/image` over the passes of a turn, with a KL to the frozen reference.

    value = loss + kl_weight KL        for every row of one pass

A pass is one stochastic step of the turn's window, or one point of the path to the turn's picture: the objective says which.
The policy's velocity is the guided one, in sampling and in the loss, unless `guided` is off. Source: Edit-R2, Flow-GRPO, DiffusionNFT.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from jaxtyping import Array, Float

from editr2_jax.flow import training_times
from editr2_jax.objectives import catalogue
from editr2_jax.objectives.image import grpo
from editr2_jax.objectives.points import Path, Velocities, Window
from editr2_jax.policies.dialogue import PolicyConfig
from editr2_jax.rl import divergence

KL_FORMS = ("latent", "exact", "velocity")
CONTEXTS = ("policy", "rebuilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageObjectiveConfig:
    """Settings of the image term that do not belong to one objective."""

    kind: str = "grpo"  # a file in objectives/image
    weight: float = 1.0  # 0 leaves the term out of the computation
    guided: bool = True  # False: the loss asks for the velocity without guidance, one branch instead of up to three
    kl_weight: float = 0.01  # 0 leaves the reference out of the computation
    kl: str = "latent"  # latent: as published, without 1/dt; exact: between the Gaussians; velocity
    reference_context: str = "policy"  # what the reference looks at: the policy's contexts (as published), or its own, "rebuilt"
    draws: int = 2  # points of the path per picture, where the objective has no window
    times: str = "grid"  # where on the path: see flow/training_times
    settings: Any = grpo.Config()  # of the kind

    def __post_init__(self):
        for name, known in (("kl", KL_FORMS), ("reference_context", CONTEXTS), ("times", training_times.TIMES)):
            if getattr(self, name) not in known:
                raise ValueError(f"ImageObjectiveConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if min(self.weight, self.kl_weight) < 0 or self.draws < 1:
            raise ValueError(
                f"ImageObjectiveConfig: weight {self.weight}, kl_weight {self.kl_weight}, draws {self.draws}; "
                "no weight may be below 0, and at least one point is drawn."
            )
        if self.weighs_kl and self.kl != "velocity" and not self.replays:
            raise ValueError(
                f"objective.image.kl is {self.kl!r}, which compares transitions, but {self.kind!r} looks at the path and has none; "
                "set objective.image.kl=velocity."
            )

    @property
    def objective(self) -> ModuleType:
        return catalogue.named("image", self.kind)

    @property
    def replays(self) -> bool:
        """Whether the objective scores the sampler's own steps, and so needs their log-probabilities."""
        return self.objective.POINTS is Window

    @property
    def weighs_kl(self) -> bool:
        """Whether the KL is part of the term."""
        return self.kl_weight > 0

    @property
    def needs_reference(self) -> bool:
        return bool(self.weight) and (self.weighs_kl or "reference" in self.objective.NEEDS)

    @property
    def needs_old(self) -> bool:
        return bool(self.weight) and "old" in self.objective.NEEDS

    def passes(self, window: int) -> int:
        """Passes of a turn, given the number of its stochastic steps."""
        return window if self.replays else self.draws

    def policy(self, policy: PolicyConfig) -> PolicyConfig:
        """The policy as the loss asks it."""
        if self.guided:
            return policy
        return dataclasses.replace(policy, flow=dataclasses.replace(policy.flow, text_scale=1.0, image_scale=1.0))


def terms(at: Window | Path, v: Velocities, config: ImageObjectiveConfig) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
    """The image term of every row at one point, and statistics per row. Without a KL weight `v.reference` is looked at only by the kind."""
    out = config.objective.loss(at, v, config.settings)
    if not config.weighs_kl:
        return out.value, out.statistics
    forms = {form: kl(form, at, v.policy, v.reference) for form in (KL_FORMS if config.replays else ("velocity",))}
    told = {f"kl_{form}": distance for form, distance in forms.items()} | {"kl": forms[config.kl]}
    return out.value + config.kl_weight * forms[config.kl], out.statistics | told


def kl(form: str, at: Window | Path, v: Float[Array, "B L C"], v_reference: Float[Array, "B L C"]) -> Float[Array, "B"]:
    """The distance to the reference at a point, in one of KL_FORMS; the reference is a constant."""
    if form == "velocity":
        return divergence.velocity(v, v_reference)
    ours, reference = at.density(v), at.density(v_reference)
    if form == "exact":
        return divergence.exact(ours.mean, reference.mean, ours.std)
    return divergence.latent(ours.mean, reference.mean, ours.sigma)
