"""Means with bootstrap intervals over dialogues, and what a dialogue as a whole achieved.

Turns of one dialogue depend on each other, so dialogues are resampled and never turns: with s_i the sum and c_i the number of the verdicts
of dialogue i,
    mean = sum_i s_i / sum_i c_i,     interval = quantiles of the same ratio over dialogues drawn with replacement.
NaN is a missing verdict: it leaves the sum and the count, and every interval says how many verdicts and dialogues it stands on.
Letters: N dialogues, T turns (or any other verdicts of one dialogue). Scores are in [0, 1].
Source: percentile bootstrap, Efron and Tibshirani 1993, chapter 13; whole clusters are resampled, Davison and Hinkley 1997, section 3.8.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95
DRAWS = 2000  # the ends of a 95 % interval then move by about 2 % of its width from seed to seed
_CHUNK = 1 << 22  # numbers drawn at a time: bounds the memory, whatever N is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, the interval around it, and its denominators. NaN where there is nothing to tell."""

    mean: float
    low: float  # NaN with fewer than two dialogues: one dialogue says nothing about the next
    high: float
    n: int  # verdicts in the mean
    sessions: int  # dialogues that gave them: what was resampled

    @property
    def positive(self) -> bool:
        """Whether all of the interval lies above zero."""
        return self.low > 0

    def json(self) -> dict[str, Any]:
        """Plain values; null for NaN."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """after - before on the same dialogues, with both means over the pairs that have two verdicts."""

    before: float
    after: float


def mean_interval(values: Float[np.ndarray, "N ..."], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean over all verdicts [N] or [N, T], with an interval over the N dialogues. The same seed gives the same interval."""
    values = _rows(values, "mean_interval")
    mean, low, high = _bootstrap(values, level=level, draws=draws, seed=seed)
    valid = ~np.isnan(values)
    return Interval(mean=mean, low=low, high=high, n=int(valid.sum()), sessions=int(valid.any(axis=1).sum()))


def paired_interval(
    before: Float[np.ndarray, "N ..."], after: Float[np.ndarray, "N ..."], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Mean of after - before over the verdicts present in both; row i of either is the same dialogue."""
    before, after = _rows(before, "paired_interval"), _rows(after, "paired_interval")
    if before.shape != after.shape:
        raise ValueError(f"paired_interval wants the same dialogues in the same order, got {before.shape} before and {after.shape} after.")
    paired = mean_interval(after - before, level=level, draws=draws, seed=seed)  # NaN on either side is NaN here
    both = ~np.isnan(after - before)
    return Difference(**dataclasses.asdict(paired), before=_mean(before[both]), after=_mean(after[both]))


def composite_interval(
    parts: Sequence[Float[np.ndarray, "N T"]],
    combine: Callable[[Float[np.ndarray, "P D"]], Float[np.ndarray, " D"]],
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """A number made of several means, such as the square root of the product of two, with an interval over the dialogues.

    Args:
        parts: P tables of verdicts of the same N dialogues; each has a mean of its own.
        combine: P means, NaN for a part without a verdict, to one number; for D draws at once. It may give NaN: such draws are left out.

    In every draw all parts see the same dialogues. With one part and its mean as it is, this is `mean_interval`.
    """
    _refuse_unfit(level, draws)
    tables = [_rows(part, "composite_interval") for part in parts]
    if len({len(table) for table in tables}) != 1:
        raise ValueError(f"composite_interval wants parts of the same dialogues, got {[table.shape for table in tables]}.")
    counts = np.stack([(~np.isnan(table)).sum(axis=1) for table in tables])  # [P, N]
    some = counts.any(axis=0)
    sums, counts = np.stack([np.nansum(table, axis=1) for table in tables])[:, some], counts[:, some]
    rows, verdicts = int(some.sum()), int(np.logical_or.reduce([~np.isnan(_wide(table, tables)) for table in tables]).sum())
    if rows == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=0, sessions=0)
    mean = float(combine(_ratio(sums.sum(axis=1), counts.sum(axis=1))[:, None])[0])
    if rows == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, n=verdicts, sessions=1)
    drawn = [combine(_ratio(sums[:, picks].sum(axis=-1), counts[:, picks].sum(axis=-1))) for picks in _picks(rows, draws, seed)]
    told = np.concatenate(drawn)
    told = told[~np.isnan(told)]
    low, high = np.quantile(told, [(1 - level) / 2, (1 + level) / 2]) if told.size else (math.nan, math.nan)
    return Interval(mean=mean, low=float(low), high=float(high), n=verdicts, sessions=rows)


def cumulative_min(scores: Float[np.ndarray, "N T"], *, counts: Bool[np.ndarray, "N T"] | None = None) -> Float[np.ndarray, "N T"]:
    """Smallest score of the turns so far: a prefix verdict that can not recover.

    counts: False where a turn has no say (not played, or the reward does not apply); it is skipped, and NaN in the result. A verdict that
    is due and missing makes the minimum unknown, NaN, from its turn on, unless another one is 0 and nothing can lower it.
    """
    scores, counts = _table(scores, counts, "cumulative_min")
    known = np.minimum.accumulate(np.where(np.isnan(scores), 1.0, scores), axis=1)
    unknown = np.logical_or.accumulate(np.isnan(scores) & counts, axis=1)
    return np.where(counts & (~unknown | (known == 0)), known, np.nan)


def success_so_far(scores: Float[np.ndarray, "N T"], *, counts: Bool[np.ndarray, "N T"] | None = None) -> Float[np.ndarray, "N T"]:
    """1 where every turn up to this one has score 1, else 0 (EdiVal's image success); NaN as in `cumulative_min`."""
    scores, counts = _table(scores, counts, "success_so_far")
    return cumulative_min(np.where(np.isnan(scores), np.nan, scores == 1.0), counts=counts)


def full_success(scores: Float[np.ndarray, "N T"], *, counts: Bool[np.ndarray, "N T"] | None = None) -> Float[np.ndarray, " N"]:
    """1 where every turn of the dialogue has score 1, 0 where one has not; NaN where a missing verdict decides, or no turn counts."""
    scores, counts = _table(scores, counts, "full_success")
    failed = (counts & (scores < 1.0)).any(axis=1)
    decided = failed | ~(counts & np.isnan(scores)).any(axis=1)
    return np.where(decided & counts.any(axis=1), (~failed).astype(float), np.nan)


def row_means(values: Float[np.ndarray, "N T"]) -> Float[np.ndarray, " N"]:
    """Mean over the verdicts of each dialogue; NaN for a dialogue without any."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def _bootstrap(values: Float[np.ndarray, "N T"], *, level: float, draws: int, seed: int) -> tuple[float, float, float]:
    """(mean, low, high)."""
    _refuse_unfit(level, draws)
    counts = (~np.isnan(values)).sum(axis=1)
    sums, counts = np.nansum(values, axis=1)[counts > 0], counts[counts > 0]
    rows = len(sums)
    if rows == 0:
        return math.nan, math.nan, math.nan
    mean = float(sums.sum() / counts.sum())
    if rows == 1:
        return mean, math.nan, math.nan
    drawn = [sums[picks].sum(axis=1) / counts[picks].sum(axis=1) for picks in _picks(rows, draws, seed)]
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


def _refuse_unfit(level: float, draws: int) -> None:
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"bootstrap wants 0 < level < 1 and draws >= 1, got level={level}, draws={draws}.")


def _picks(rows: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, "D N"]]:
    """Dialogues drawn with replacement, some draws at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, max(1, _CHUNK // rows)):
        yield random.integers(0, rows, size=(min(max(1, _CHUNK // rows), draws - start), rows))


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sums / counts; NaN where there is nothing to count."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _wide(table: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """The table with as many columns as the widest one."""
    return np.pad(table, ((0, 0), (0, max(one.shape[1] for one in tables) - table.shape[1])), constant_values=np.nan)


def _rows(values: np.ndarray, where: str) -> Float[np.ndarray, "N T"]:
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(f"{where} wants values[dialogue] or values[dialogue, turn], got shape {values.shape}.")
    return values.reshape(len(values), -1) if values.size else np.empty((0, 1))


def _table(scores: np.ndarray, counts: np.ndarray | None, where: str) -> tuple[Float[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    scores = np.asarray(scores, np.float64)
    counts = np.ones(scores.shape, bool) if counts is None else np.asarray(counts, bool)
    if scores.ndim != 2 or counts.shape != scores.shape:
        raise ValueError(f"{where} wants score[dialogue, turn] and counts of its shape, got {scores.shape} and {counts.shape}.")
    return np.where(counts, scores, np.nan), counts


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _plain(value: float | int) -> float | int | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
