"""The intent term: an objective of `objectives/intent` over the tokens of a written intent, reduced to a row. Letters: B rows, K tokens.

    value = sum_k weight_k (loss_k + kl_weight KL_k)

weight_k is the reduction's (see rl/reductions), times the correction for a sampler that is another program, where that is on. The advantage
is that of the turn whose picture the intent led to. A sequence without tokens contributes 0, never NaN. Source: Edit-R2, Tunix.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from editr2_jax.objectives import catalogue
from editr2_jax.objectives.intent import grpo
from editr2_jax.objectives.points import Tokens
from editr2_jax.rl import divergence, reductions

KL_FORMS = {"k2": divergence.k2, "k3": divergence.k3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentObjectiveConfig:
    """Settings of the intent term that do not belong to one objective."""

    kind: str = "grpo"  # a file in objectives/intent
    weight: float = 1.0  # 0 leaves the term out of the computation
    reduction: str = "sequence_mean"  # see rl/reductions
    kl_weight: float = 0.0  # 0 leaves the reference out of the computation
    kl: str = "k3"  # k2: gradient of KL(policy, reference); k3: of KL(reference, policy). k1 is told, and has no gradient
    mismatch_cap: float = 0.0  # limit on the weights of rl/sampler_mismatch; 0 uses none
    settings: Any = grpo.Config()  # of the kind

    def __post_init__(self):
        if self.kl == "k1":
            raise ValueError(
                "objective.intent.kl is 'k1', whose expected gradient on the policy's own tokens is zero: it would not regularise. "
                "It is logged as intent/k1; for the loss choose k2, which has the gradient that k1 lacks, or k3."
            )
        for name, known in (("kl", KL_FORMS), ("reduction", reductions.REDUCTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"IntentObjectiveConfig.{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if min(self.weight, self.kl_weight) < 0 or not (self.mismatch_cap == 0 or self.mismatch_cap >= 1):
            raise ValueError(
                f"IntentObjectiveConfig: weight {self.weight}, kl_weight {self.kl_weight}, mismatch_cap {self.mismatch_cap}; "
                "no weight may be below 0, and a cap is 0 (none) or at least 1."
            )

    @property
    def objective(self) -> ModuleType:
        return catalogue.named("intent", self.kind)

    @property
    def needs_reference(self) -> bool:
        return bool(self.weight) and self.kl_weight > 0


def terms(
    tokens: Tokens,
    weight: Float[Array, "B K"],
    reference_log_prob: Float[Array, "B K"] | None,
    config: IntentObjectiveConfig,
) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B K"]]]:
    """The intent term of every row, and statistics per token. Without `reference_log_prob` there is no KL."""
    out = config.objective.loss(tokens, config.settings)
    value, statistics = out.value, out.statistics
    if reference_log_prob is not None:
        pair = (jnp.where(tokens.mask, x, 0.0) for x in (tokens.log_prob, reference_log_prob))
        ours, reference = pair
        value = value + config.kl_weight * KL_FORMS[config.kl](ours, reference)
        fixed = jax.lax.stop_gradient(ours)
        statistics = statistics | {name: getattr(divergence, name)(fixed, reference) for name in ("k1", "k2", "k3")}
    return reductions.sum_per_row(jax.lax.stop_gradient(weight) * value, tokens.mask), statistics
