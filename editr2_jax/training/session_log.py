"""What a training step produced, kept for the inspector: sessions/STEP with pictures and records of a few groups."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from editr2_jax.evaluation import pictures, tables
from editr2_jax.evaluation.runner import number
from editr2_jax.rewards.suite import Scores
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.runtime import workdir
from editr2_jax.training.train_batch import Credit


def write(directory: Path, step: int, rollout: Rollout, scores: Scores, credit: Credit, *, groups: int) -> None:
    """Writes the first `groups` groups of a rollout; rollouts.json comes last, so a reader never sees half."""
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
                "rollouts": [_rollout(directory, f"g{g}/r{r}", row, rollout, scores, credit) for r, row in enumerate(members)],
            }
        )
    workdir.write_json(directory / "rollouts.json", tables.plain({"step": step, "groups": told}))


def _rollout(directory: Path, place: str, row: int, rollout: Rollout, scores: Scores, credit: Credit) -> dict[str, Any]:
    turns = []
    for t, picture in enumerate(rollout.pictures[row]):
        pictures.save(directory / f"{place}/t{t}.png", picture)
        verdicts = {name: table[row][t] for name, table in scores.verdicts.items()}
        turns.append(
            {
                "picture": f"{place}/t{t}.png",
                "intent": rollout.intents[row][t],
                "intent_raw": rollout.answers[row][t],
                "intent_fallback": bool(rollout.fallback[row, t]),
                "scores": {name: number(verdict.value) for name, verdict in verdicts.items()},
                "status": {name: verdict.status.value for name, verdict in verdicts.items()},
                "reward": number(scores.combined[row, t]),
                "advantage": float(credit.image_advantage[row, t]),
                "image_learns": bool(credit.image_mask[row, t]),
                "text_learns": bool(credit.text_mask[row, t] and t > 0),
                "why_filtered": str(credit.why[row, t]) or None,
                "detail": {name: dict(verdict.detail) for name, verdict in verdicts.items()},
            }
        )
    return {"turns": turns}
