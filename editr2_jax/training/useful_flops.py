"""Useful FLOPs of a step, by phase: what its share of the devices' peak is measured by.

Counted are the tokens that were read, drawn and written in this step, each necessary pass once (see policies/flops.py); a source picture
once for its group. The update reads pictures as play perceived them. Where the whole model learns, its update is not counted: the
formulas are those of an adapter on a frozen base.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.policies import flops
from editr2_jax.policies.flops import Dialogue
from editr2_jax.rollouts import watched
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.rollouts.player import RolloutConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What decides how much there is to compute, besides the rollouts."""

    model: BagelConfig
    play: RolloutConfig
    rank: int  # of the adapter; 0 where the whole model learns
    reference: bool  # whether the image term asks the reference


def of_step(work: Work, rollouts: Sequence[Rollout], *, asks_again: bool) -> dict[str, float]:
    """FLOPs by phase, of all rollouts of the step on all devices. Reads counts of tokens: call it when the update is done.

    asks_again: whether log-probabilities of what was played were asked for before the update.
    """
    total: collections.Counter[str] = collections.Counter()
    for rollout in rollouts:
        d, rows = dialogue(work, rollout), len(rollout.samples)
        shared = rows - rollout.played.script.source.shape[0]  # rows whose source picture another member has read
        perceived = d.turns * (flops.encode(d) + flops.see(d))
        total[watched.CONTEXT] += rows * flops.context(d) - shared * flops.picture(d, 0)
        total[watched.DENOISE] += rows * sum(d.steps * flops.denoise(d, turn) for turn in range(d.turns))
        total[watched.DECODE] += rows * d.turns * flops.decode(d)
        if d.intent:
            total[watched.INTENT] += rows * sum(flops.ask(d, turn) + d.intent * flops.token(d, turn) for turn in range(1, d.turns))
        if asks_again:
            total["recall"] += rows * (flops.recall(d) - perceived)
        if work.rank:
            total["update"] += rows * (flops.update(d) - perceived)
    total["rollout"] = sum(value for name, value in total.items() if name.startswith("rollout/"))
    return dict(total)


def dialogue(work: Work, rollout: Rollout) -> Dialogue:
    """The mean session of a batch."""
    played, policy = rollout.played, work.play.policy
    script, (_, turns, height, width, _) = played.script, rollout.pictures.shape
    system, question = (_mean(count) for _, count in script.question)
    return Dialogue(
        config=work.model,
        height=height,
        width=width,
        turns=turns,
        instruction=float(np.mean(np.asarray(script.instruction_count))),
        system=system,
        question=question,
        intent=_mean(played.intent_count),
        steps=policy.flow.steps,
        window=played.step.shape[2],
        branches=policy.flow.branches,
        rank=work.rank,
        reference=work.reference,
    )


def _mean(count) -> float:
    """Of [B, T] tokens over the turns that come after the first; 0 where there are none."""
    later = np.asarray(count)[:, 1:]
    return float(later.mean()) if later.size else 0.0
