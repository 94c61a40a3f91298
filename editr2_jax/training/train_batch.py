"""From scores to what each rollout teaches.

    rewards -> transform -> aggregate over turns (grouping "trajectory") -> advantages and their fusion -> every turn -> filter masks

Letters: B rollouts of a step, T turns. A missing reward is NaN: what needs it is missing too, and what is missing masks its turn. A
filtered turn keeps its words or not, as the mode says; it enters the statistics or not (filter_first), and in the reference it does.
Source: Edit-R2; MT-EditFlow for trajectories and fusion.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from editr2_jax.rl import advantages, fusion, trajectory_filter, turn_aggregation, turn_rewards
from editr2_jax.rl.advantages import Advantages

# Compiled one by one: in one program with what made them, equal rewards might be rounded apart, and a pool without spread would speak.
_group_relative = jax.jit(advantages.group_relative, static_argnames=("grouping", "std", "eps", "eps_mode", "ddof", "trim", "baseline"))
_of_advantages = jax.jit(fusion.of_advantages, static_argnames=("form", "eps", "eps_mode"))
_masks = jax.jit(trajectory_filter.masks, static_argnames=("mode", "floor"))
_zero_variance_share = jax.jit(advantages.zero_variance_share, static_argnames=("grouping",))

Tables = Mapping[str, Float[np.ndarray, "B T"]]  # name of the reward -> its numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards become advantages; `rl/advantages.py` lists which settings are whose."""

    transform: str = "none"  # of a turn's reward: its "improvement" over the turn before, or "to_go": with all later ones
    gamma: float = 1.0  # discount of to_go
    grouping: str = "dialogue_turn"  # or "dialogue": one baseline for all turns of a session, as in the reference; or "trajectory"
    aggregate: str = "mean"  # of a trajectory's turns; or sum, last, product, min, geomean
    fusion: str = "reward"  # rewards are summed, then measured; or "advantage": each is measured, then they are summed
    fusion_form: str = "convex"  # over the sum of rewards.weights; or "additive": as they are; "gdpo": and standardised once more
    std: str = "global"  # or "group"; or "none": not divided
    eps: float = advantages.EPSILON
    eps_mode: str = "additive"  # to the std; or "floor": the least std
    ddof: int = 0  # or 1: sample std
    trim: float = 0.0  # share of a pool, its lowest rewards, that stays out of its mean and std
    baseline: str = "mean"  # or "leave_one_out"
    text_std: str = ""  # of the words' advantages; "": as of the pictures'
    text_baseline: str = ""
    filter: str = "image"  # "all": also the words of a filtered turn are silent; "off"
    floor: float = 0.0  # an instruction-following score at or below this is an outright failure
    filter_reward: str = "if"
    filter_first: bool = True  # filtered turns enter no statistics; False: they do, as in the reference. A trajectory keeps all its turns
    normalise_by_kept: bool = False  # the loss is a mean over the turns that teach; False: over all, as in the reference
    learn_from_fallback: bool = False  # whether an answer that had no intent in it is credited with the picture

    def __post_init__(self):
        for name, known in (
            ("transform", turn_rewards.TRANSFORMS),
            ("aggregate", turn_aggregation.AGGREGATES),
            ("fusion", fusion.LEVELS),
            ("fusion_form", fusion.FORMS),
            ("text_std", ("", *advantages.SPREADS)),
            ("text_baseline", ("", *advantages.BASELINES)),
            ("filter", trajectory_filter.MODES),
        ):
            if getattr(self, name) not in known:
                choices = ", ".join(choice or "'' (as for pictures)" for choice in known)
                raise ValueError(f"AdvantageConfig.{name} is {getattr(self, name)!r}; choose one of {choices}.")
        for area in ("image", "text"):
            advantages.refuse_unknown("AdvantageConfig.", grouping=self.grouping, **self.measure(area))
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """A setting that another one makes meaningless is a mistake, not a wish."""
        if not 0 < self.gamma <= 1:
            raise ValueError(f"AdvantageConfig.gamma is {self.gamma}; give a discount above 0 and at most 1.")
        if self.gamma != 1 and self.transform != "to_go":
            raise ValueError(f"AdvantageConfig.gamma is {self.gamma} but transform is {self.transform!r}; set transform=to_go or gamma=1.")
        if self.aggregate != "mean" and self.grouping != "trajectory":
            raise ValueError(
                f"AdvantageConfig.aggregate is {self.aggregate!r} but grouping is {self.grouping!r}, which keeps the turns apart; "
                "set grouping=trajectory or aggregate=mean."
            )
        if self.aggregate in ("geomean", "product") and self.transform == "improvement":
            raise ValueError(
                f"AdvantageConfig.aggregate is {self.aggregate!r}, but an improvement may be negative; choose another aggregate."
            )
        if self.fusion_form == "gdpo" and self.fusion != "advantage":
            raise ValueError("AdvantageConfig.fusion_form is 'gdpo', which standardises fused advantages; set fusion=advantage.")

    def measure(self, area: str) -> dict[str, str | float | int]:
        """How advantages of "image" or "text" are measured: keywords of `advantages.group_relative`."""
        words = {"std": self.text_std, "baseline": self.text_baseline} if area == "text" else {}
        pictures = {name: getattr(self, name) for name in ("std", "baseline", "eps", "eps_mode", "ddof", "trim")}
        return pictures | {name: value for name, value in words.items() if value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credit:
    """What each (rollout, turn) is worth to the two policies."""

    reward: Float[np.ndarray, "B T"]  # weighted mean of the turn's rewards; NaN where one is missing, also in turns that teach
    image_advantage: Float[np.ndarray, "B T"]
    text_advantage: Float[np.ndarray, "B T"]
    image_mask: Bool[np.ndarray, "B T"]
    text_mask: Bool[np.ndarray, "B T"]
    why: np.ndarray  # str [B, T]: why a turn does not teach; "" where it does
    image_scale: float = 1.0  # makes a mean over all turns of the step one over those whose picture teaches
    text_scale: float = 1.0  # the same for the words of later turns

    def rows(self, start: int, stop: int) -> Credit:
        """What some of the rollouts are worth; the scales stay those of the step."""
        tables = {name: value[start:stop] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return dataclasses.replace(self, **tables)


def credit(
    rewards: Tables,
    weights: Mapping[str, Float[np.ndarray, "B T"] | float],
    group: Int[np.ndarray, "B"],
    fallback: Bool[np.ndarray, "B T"],
    config: AdvantageConfig,
    *,
    played: Bool[np.ndarray, "B T"] | None = None,
) -> tuple[Credit, dict[str, float]]:
    """Advantages and masks of a step, and metrics.

    Args:
        rewards: scores by name, NaN where there is no verdict. The filter's reward is among them unless the filter is off; NaN there is
            no failure.
        weights: what each reward counts at each turn, or at all; 0 where it does not apply, which is not a missing verdict.
        group: equal for the rollouts of one group.
        fallback: the turn's answer had no intent in it.
        played: False at the turns that a shorter session does not have (default: every turn was played).

    A turn teaches where its advantage is known: by "trajectory", in all turns of a trajectory or in none; by fusion of advantages, where
    any of its rewards is known.
    """
    played = np.ones_like(fallback) if played is None else played
    weights = _weights(rewards, weights, played)
    group = np.unique(group, return_inverse=True)[1].astype(np.int32)  # 0, 1, ...: ids of 64 bits would be cut on the way to the device
    sound = dict(zip(("image", "text"), _sound(rewards, config, played.shape), strict=True))
    enters = {area: _enters(mask, config) for area, mask in sound.items()}
    made = _advantages(*_prepared(rewards, weights, config), group, config, enters)
    known = played & np.asarray(made["image"].known)  # [B, T]: what is known of a trajectory is known at each of its turns
    spoke = np.ones_like(fallback) if config.learn_from_fallback else ~fallback
    image_mask, text_mask = known & sound["image"], known & sound["text"] & spoke
    reasons = [~played, ~known, ~sound["image"], ~spoke]
    whole = Credit(
        reward=np.asarray(fusion.of_rewards(rewards, weights, form="convex")),
        image_advantage=np.where(played, made["image"].value, 0),
        text_advantage=np.where(played, made["text"].value, 0),
        image_mask=image_mask,
        text_mask=text_mask,
        why=np.select(reasons, ["not played", "no verdict", "after a failed turn", "no intent in the answer"], ""),
        image_scale=_scale(played, image_mask, config),
        text_scale=_scale(played[:, 1:], text_mask[:, 1:], config),
    )
    flat = _zero_variance_share(made["image"], group, grouping=config.grouping, mask=enters["image"])
    return whole, {"advantage/zero_variance_share": float(flat)} | _metrics(whole, played, sound["image"], fallback)


def _weights(rewards: Tables, weights: Mapping, played: Bool[np.ndarray, "B T"]) -> Tables:
    """A weight for every reward and turn: 0 at turns that nobody played."""
    if unknown := sorted(set(weights) - set(rewards)):
        raise ValueError(f"credit: there are weights for {', '.join(unknown)} but rewards {', '.join(rewards)}; leave them out.")
    if wrong := {name: table.shape for name, table in rewards.items() if table.shape != played.shape}:
        raise ValueError(f"credit: rewards of shape {wrong} do not fit {played.shape} rollouts and turns; pad them with NaN.")
    return {name: np.where(played, weights.get(name, 0.0), 0.0) for name in rewards}


def _sound(rewards: Tables, config: AdvantageConfig, shape: tuple[int, int]) -> tuple[Bool[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Which turns the filter lets teach: pictures, words."""
    if config.filter == "off":
        return np.ones(shape, bool), np.ones(shape, bool)
    if config.filter_reward not in rewards:
        raise ValueError(
            f"the trajectory filter ({config.filter!r}) needs the reward {config.filter_reward!r}, which this run does not compute; "
            "add it to rewards.use or set advantage.filter=off."
        )
    image, text = _masks(rewards[config.filter_reward], mode=config.filter, floor=config.floor)
    return np.asarray(image), np.asarray(text)


def _enters(sound: Bool[np.ndarray, "B T"], config: AdvantageConfig) -> np.ndarray | None:
    """Which turns, or trajectories, enter the statistics; None: all. A trajectory's first turn is never filtered, so it always enters."""
    if not config.filter_first:
        return None
    return sound.any(axis=1, keepdims=True) if config.grouping == "trajectory" else sound


def _advantages(worth: Tables, counted: Tables, group: np.ndarray, config: AdvantageConfig, enters: Mapping) -> dict[str, Advantages]:
    """By area ("image", "text"): advantages [B, T], or [B, 1] of trajectories."""
    made = {}
    for area, mask in enters.items():
        measure = functools.partial(_group_relative, group=group, grouping=config.grouping, mask=mask, **config.measure(area))
        made[area] = _LEVELS[config.fusion](worth, counted, config, measure=measure, mask=mask)
    return made


def _fuse_then_measure(worth: Tables, counted: Tables, config: AdvantageConfig, *, measure: Callable[..., Advantages], mask) -> Advantages:
    return measure(fusion.of_rewards(worth, counted, form=config.fusion_form))


def _measure_then_fuse(worth: Tables, counted: Tables, config: AdvantageConfig, *, measure: Callable[..., Advantages], mask) -> Advantages:
    parts = {name: measure(np.where(counted[name] > 0, table, np.nan)) for name, table in worth.items()}
    return _of_advantages(parts, counted, form=config.fusion_form, eps=config.eps, eps_mode=config.eps_mode, mask=mask)


_LEVELS = {"reward": _fuse_then_measure, "advantage": _measure_then_fuse}


def _prepared(rewards: Tables, weights: Tables, config: AdvantageConfig) -> tuple[Tables, Tables]:
    """Rewards as they meet their baseline, and what each counts then."""
    pairs = {name: _aggregated(*_transformed(rewards[name], weights[name], config), config) for name in rewards}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _transformed(reward: np.ndarray, weight: np.ndarray, config: AdvantageConfig) -> tuple[np.ndarray, np.ndarray]:
    """A reward's table after the transform, and its weights: what is to go counts where a later turn does."""
    if config.transform == "improvement":
        return np.asarray(turn_rewards.improvement(reward, counts=weight > 0)), weight
    if config.transform == "to_go":
        ahead = np.maximum.accumulate(weight[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(turn_rewards.to_go(reward, gamma=config.gamma, counts=weight > 0)), ahead
    return reward, weight


def _aggregated(reward: np.ndarray, weight: np.ndarray, config: AdvantageConfig) -> tuple[np.ndarray, np.ndarray]:
    """One column for a trajectory, with the weight of the turns at which the reward counts; else the turns as they are."""
    if config.grouping != "trajectory":
        return reward, weight
    return np.asarray(turn_aggregation.aggregate(reward, config.aggregate, counts=weight > 0))[:, None], weight.max(axis=1, keepdims=True)


def _scale(played: np.ndarray, teaches: np.ndarray, config: AdvantageConfig) -> float:
    """All turns over those that teach: times a mean over all, the mean over those; 1 where none does, and where the mean stays over all."""
    return float(played.sum() / teaches.sum()) if config.normalise_by_kept and teaches.any() else 1.0


def _metrics(made: Credit, played: np.ndarray, sound: np.ndarray, fallback: np.ndarray) -> dict[str, float]:
    """Of the pictures' credit; shares are of the turns that were played."""
    mean = lambda table, among: float(table[among].mean()) if among.any() else 0.0  # noqa: E731
    metrics = {
        "advantage/max": float(np.abs(made.image_advantage).max()),
        "advantage/missing_share": mean(made.why == "no verdict", played),
        "reward/missing_share": mean(np.isnan(made.reward), played),
        "filter/dropped": mean(~sound, played),
        "intent/fallback_share": mean(fallback[:, 1:], played[:, 1:]),
    }
    for t in range(played.shape[1]):
        metrics[f"filter/kept_turn_{t}"] = mean(sound[:, t], played[:, t])
        metrics[f"advantage/mean_turn_{t}"] = mean(made.image_advantage[:, t], made.image_mask[:, t])
    return metrics


def pad_turns(rows: Sequence[np.ndarray], turns: int, fill: float | bool) -> np.ndarray:
    """Stacks [b, t] arrays of several batches to [B, turns], filling the turns that a shorter session does not have."""
    return np.concatenate([np.pad(row, ((0, 0), (0, turns - row.shape[1])), constant_values=fill) for row in rows])
