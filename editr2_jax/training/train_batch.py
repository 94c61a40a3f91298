"""From scores to what each rollout teaches: filter, then advantages inside each group.

Letters: B rollouts of a step, T turns. A missing reward (NaN) masks its turn; a filtered turn keeps its words or not, as the mode says.
Source: Edit-R2; the order of filter and statistics is an option, the reference takes statistics first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from editr2_jax.rl import advantages, trajectory_filter


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards become advantages."""

    grouping: str = "dialogue_turn"  # or "dialogue": one baseline for all turns of a session, as in the reference
    std: str = "global"  # or "group"
    filter: str = "image"  # "all": also the words of a filtered turn are silent; "off"
    floor: float = 0.0  # an instruction-following score at or below this is an outright failure
    filter_reward: str = "if"
    filter_first: bool = True  # filtered turns enter no statistics; False: they do, as in the reference
    learn_from_fallback: bool = False  # whether an answer that had no intent in it is credited with the picture

    def __post_init__(self):
        for name, value, known in (
            ("grouping", self.grouping, advantages.GROUPINGS),
            ("std", self.std, advantages.SPREADS),
            ("filter", self.filter, trajectory_filter.MODES),
        ):
            if value not in known:
                raise ValueError(f"AdvantageConfig.{name} is {value!r}; choose one of {', '.join(known)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credit:
    """What each (rollout, turn) is worth to the two policies."""

    image_advantage: Float[np.ndarray, "B T"]
    text_advantage: Float[np.ndarray, "B T"]
    image_mask: Bool[np.ndarray, "B T"]
    text_mask: Bool[np.ndarray, "B T"]
    reward: Float[np.ndarray, "B T"]
    why: np.ndarray  # str [B, T]: why a turn does not teach; "" where it does
    image_scale: float = 1.0
    text_scale: float = 1.0


def credit(
    combined: Float[np.ndarray, "B T"],
    failures: Float[np.ndarray, "B T"] | None,
    group: Int[np.ndarray, "B"],
    fallback: Bool[np.ndarray, "B T"],
    config: AdvantageConfig,
) -> tuple[Credit, dict[str, float]]:
    """Advantages and masks of a step.

    combined: rewards, NaN where missing. failures: scores of the filter's reward (NaN: no verdict, which is no failure); None is allowed
    only when the filter is off.
    """
    if failures is None and config.filter != "off":
        raise ValueError(
            f"the trajectory filter ({config.filter!r}) needs the reward {config.filter_reward!r}, which this run does not compute; "
            "add it to rewards.use or set advantage.filter=off."
        )
    known = ~np.isnan(combined)
    failures = np.ones_like(combined) if failures is None else failures
    image_sound, text_sound = (np.asarray(m) for m in trajectory_filter.masks(failures, mode=config.filter, floor=config.floor))
    results = {}
    for name, sound in (("image", image_sound), ("text", text_sound)):
        results[name] = advantages.group_relative(
            combined, group, grouping=config.grouping, std=config.std, mask=sound if config.filter_first else None
        )
    credited = np.ones_like(fallback) if config.learn_from_fallback else ~fallback
    image_mask, text_mask = known & image_sound, known & text_sound & credited
    why = np.where(~known, "no verdict", np.where(~image_sound, "after a failed turn", np.where(~credited, "no intent in the answer", "")))
    made = Credit(
        image_advantage=np.asarray(results["image"].value),
        text_advantage=np.asarray(results["text"].value),
        image_mask=image_mask,
        text_mask=text_mask,
        reward=combined,
        why=why,
    )
    return made, _metrics(made, known, image_sound, fallback, results["image"].statistics)


def _metrics(made: Credit, known: np.ndarray, sound: np.ndarray, fallback: np.ndarray, statistics) -> dict[str, float]:
    metrics = {
        "advantage/zero_variance_share": float(statistics["zero_variance_share"]),
        "advantage/max": float(statistics["advantage_max"]),
        "reward/missing_share": float(1 - known.mean()),
        "filter/dropped": float(1 - sound.mean()),
        "intent/fallback_share": float(fallback[:, 1:].mean()) if fallback.shape[1] > 1 else 0.0,
    }
    for t in range(known.shape[1]):
        learns = made.image_mask[:, t]
        metrics[f"filter/kept_turn_{t}"] = float(sound[:, t].mean())
        metrics[f"advantage/mean_turn_{t}"] = float(made.image_advantage[learns, t].mean()) if learns.any() else 0.0
    return metrics


def pad_turns(rows: Sequence[np.ndarray], turns: int, fill: float | bool) -> np.ndarray:
    """Stacks [b, t] arrays of several batches to [B, turns], filling the turns that a shorter session does not have."""
    return np.concatenate([np.pad(row, ((0, 0), (0, turns - row.shape[1])), constant_values=fill) for row in rows])
