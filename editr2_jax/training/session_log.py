"""What a training step produced, kept for the inspector: sessions/STEP with pictures and records of a few groups.

Letters: B rollouts, T turns, W stochastic steps, K intent tokens. The format is told in evaluation/recorded_run.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from editr2_jax.evaluation import pictures, tables
from editr2_jax.evaluation.runner import changed, number
from editr2_jax.rewards.suite import Scores, Suite
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.runtime import workdir
from editr2_jax.training.train_batch import Credit


@dataclasses.dataclass(frozen=True, kw_only=True)
class After:
    """The rollout asked about again, under the weights that the step's updates left; the KL as they found it."""

    intent_log_prob: Float[np.ndarray, "B T K"]
    image_log_prob: Float[np.ndarray, "B T W"]
    kl: Float[np.ndarray, "B T"] | None = None  # to the reference, mean over a turn's stochastic steps


def write(
    directory: Path,
    step: int,
    rollout: Rollout,
    scores: Scores,
    credit: Credit,
    *,
    groups: int,
    tokenizer=None,
    grid: Sequence[float] = (),
    suite: Suite | None = None,
    after: After | None = None,
) -> None:
    """Writes the first `groups` groups of a rollout; rollouts.json comes last, so a reader never sees half.

    tokenizer: spells out the intents' tokens. grid: the times of the denoising steps, from 1 to 0. suite: tells what each score adds to
    the reward. after: gives the ratios that the update led to. What is not given is not recorded.
    """
    log = _Log(directory, rollout, scores, credit, tokenizer, grid, suite, _Policies.of(rollout, after))
    told: list[dict[str, Any]] = []
    rows = range(len(rollout.samples))
    for g, (_, members) in enumerate(itertools.islice(itertools.groupby(rows, key=lambda i: rollout.samples[i].group), groups)):
        members = list(members)
        sample = rollout.samples[members[0]]
        pictures.save(directory / f"g{g}/source.png", sample.picture)
        turns = [
            {"instruction": t.instruction, "formatted_instruction": t.formatted_instruction, "task_type": t.task_type}
            for t in sample.session.turns[: rollout.pictures.shape[1]]
        ]
        told.append(
            {
                "session": {"id": sample.session.id, "subset": sample.session.subset, "turns": turns},
                "source": f"g{g}/source.png",
                "rollouts": [{"turns": log.turns(f"g{g}/r{r}", row)} for r, row in enumerate(members)],
            }
        )
    text = json.dumps(tables.plain({"step": step, "groups": told}), ensure_ascii=False, separators=(",", ":"))
    workdir.replace_text(directory / "rollouts.json", text + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Policies:
    """Probabilities of what was played, on the host; ratios are new policy / behaviour, None where nothing was asked again."""

    tokens: np.ndarray  # int [B, T, K]
    count: np.ndarray  # int [B, T]
    log_prob: np.ndarray  # [B, T, K]
    step: np.ndarray  # int [B, T, W]
    intent_ratio: np.ndarray | None  # [B, T, K]
    image_ratio: np.ndarray | None  # [B, T, W]
    kl: np.ndarray | None  # [B, T]

    @classmethod
    def of(cls, rollout: Rollout, after: After | None) -> _Policies:
        """Reads the arrays of a rollout once."""
        played = rollout.played
        log_prob, image = np.asarray(played.intent_log_prob), np.asarray(played.image_log_prob)
        return cls(
            tokens=np.asarray(played.intent),
            count=np.asarray(played.intent_count),
            log_prob=log_prob,
            step=np.asarray(played.step),
            intent_ratio=None if after is None else np.exp(np.asarray(after.intent_log_prob) - log_prob),
            image_ratio=None if after is None else np.exp(np.asarray(after.image_log_prob) - image),
            kl=None if after is None or after.kl is None else np.asarray(after.kl),
        )


@dataclasses.dataclass(frozen=True)
class _Log:
    """Everything known about a step's rollouts."""

    directory: Path
    rollout: Rollout
    scores: Scores
    credit: Credit
    tokenizer: Any
    grid: Sequence[float]
    suite: Suite | None
    policies: _Policies

    def turns(self, place: str, row: int) -> list[dict[str, Any]]:
        """The records of one rollout, its pictures written below `place`."""
        told = []
        for t, picture in enumerate(self.rollout.pictures[row]):
            pictures.save(self.directory / f"{place}/t{t}.png", picture)
            told.append({"picture": f"{place}/t{t}.png"} | self._said(row, t) | self._judged(row, t) | self._learned(row, t))
        return told

    def _said(self, row: int, t: int) -> dict[str, Any]:
        rollout = self.rollout
        return {
            "intent": rollout.intents[row][t],
            "intent_raw": rollout.answers[row][t],
            "intent_fallback": bool(rollout.fallback[row, t]),
            "tokens": self._tokens(row, t),
            "changed": changed(rollout, row, t),
        }

    def _judged(self, row: int, t: int) -> dict[str, Any]:
        verdicts = {name: table[row][t] for name, table in self.scores.verdicts.items()}
        reward, subset = number(self.scores.combined[row, t]), self.rollout.samples[row].session.subset
        return {
            "scores": {name: number(verdict.value) for name, verdict in verdicts.items()},
            "status": {name: verdict.status.value for name, verdict in verdicts.items()},
            "reward": reward,
            "reward_parts": None if self.suite is None or reward is None else self.suite.parts(verdicts, subset),
            "detail": {name: dict(verdict.detail) for name, verdict in verdicts.items()},
        }

    def _learned(self, row: int, t: int) -> dict[str, Any]:
        credit, policies = self.credit, self.policies
        asked = bool(policies.count[row, t])
        return {
            "advantage": float(credit.image_advantage[row, t]),
            "advantage_text": float(credit.text_advantage[row, t]) if asked else None,
            "image_learns": bool(credit.image_mask[row, t]),
            "text_learns": bool(credit.text_mask[row, t] and t > 0),
            "why_filtered": str(credit.why[row, t]) or None,
            "window": self._window(policies.step[row, t].tolist()),
            "image_ratio": None if policies.image_ratio is None else policies.image_ratio[row, t].tolist(),
            "kl": None if policies.kl is None else float(policies.kl[row, t]),
        }

    def _window(self, steps: list[int]) -> dict[str, Any] | None:
        """The stochastic steps and their times; None where every step follows the ODE."""
        times = [float(self.grid[step]) for step in steps] if len(self.grid) else []
        return {"steps": steps, "t": times} if steps else None

    def _tokens(self, row: int, t: int) -> list[dict[str, Any]] | None:
        """The written tokens of a turn with their probabilities; None where none were asked for."""
        policies, count = self.policies, int(self.policies.count[row, t])
        if self.tokenizer is None or not count:
            return None
        ratios = [None] * count if policies.intent_ratio is None else policies.intent_ratio[row, t, :count].tolist()
        ids, log_probs = policies.tokens[row, t, :count].tolist(), policies.log_prob[row, t, :count].tolist()
        return [
            {"text": self.tokenizer.decode([token]), "log_prob": log_prob, "ratio": ratio}
            for token, log_prob, ratio in zip(ids, log_probs, ratios, strict=True)
        ]
