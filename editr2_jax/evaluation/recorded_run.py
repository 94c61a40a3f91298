"""What a workdir holds, read for people: every part that is there, and a notice for every part that does not parse.

sessions/STEP/rollouts.json, picture paths relative to it:
    {"step": int, "groups": [{"session": {"id", "subset", "turns": [{"instruction", "formatted_instruction", "task_type"}]}, "source": path,
      "rollouts": [{"turns": [{"picture": path, "intent": str | null, "intent_raw": str | null, "intent_fallback": bool,
        "scores": {name: float | null}, "status": {name: str}, "reward": float | null, "advantage": float | null,
        "image_learns": bool, "text_learns": bool, "why_filtered": str | null, "detail": {}}]}]}]}
Further fields of a turn, absent or null in older workdirs and where a step does not know them (ratio: policy after the step / behaviour):
    "tokens": [{"text", "log_prob": float, "ratio": float | null}] of the intent as written · "advantage_text": of the intent, float ·
    "reward_parts": {name: what the score adds to the reward} · "changed": mean |difference| to the turn's input picture, in [0, 1] ·
    "window": {"steps": [index on the time grid], "t": [float]} of the stochastic steps · "image_ratio": [float], one per such step ·
    "kl": float, to the reference
eval/STEP/strips.json, likewise:
    {"sessions": [{"id", "source": path, "turns": [{"instruction", "intent", "picture": path, "scores": {name: float | null}}]}]}
"""

from __future__ import annotations

import base64
import dataclasses
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from editr2_jax.evaluation import tables
from editr2_jax.runtime import metrics, workdir

EMBED_BYTES = 12 << 20  # pictures up to this size in all are part of the page; further ones are linked where they lie in the workdir
RECORD_BYTES = 24 << 20  # of rollouts.json files that the inspector shows: some ten thousand turns; of more, steps spread evenly
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What eval/STEP holds."""

    step: int
    records: list[dict[str, Any]]  # [] where scores.jsonl is missing
    summary: dict[str, Any] | None
    strips: list[dict[str, Any]]  # sessions; pictures already as addresses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a workdir holds."""

    name: str
    config: dict[str, Any]
    versions: dict[str, Any]
    metrics: list[dict[str, Any]]  # one line per step, oldest first
    evaluations: list[Evaluation]  # by step
    sessions: list[dict[str, Any]]  # rollouts.json by step; pictures already as addresses
    recorded_steps: int  # how many steps have sessions, of which `sessions` are some
    notices: list[str]  # what could not be read


def read(root: Path) -> Run:
    """Everything the page shows, as far as it is there."""
    notices: list[str] = []
    pictures = Pictures(root)
    found = step_folders(root / "eval")
    evaluations = [_evaluation(folder, pictures, notices, with_strips=folder in (found[0], found[-1])) for folder in found]
    recorded = [folder for folder in step_folders(root / "sessions") if (folder / "rollouts.json").exists()]
    inspected = _within(recorded, RECORD_BYTES)
    sessions = [_attempt(notices, folder, lambda folder=folder: _rollouts(folder, pictures)) for folder in inspected]
    return Run(
        name=root.name,
        config=_json(root / "config.json", notices) or {},
        versions=_json(root / "versions.json", notices) or {},
        metrics=_attempt(notices, root, lambda: metrics.read(root)) or [],
        evaluations=evaluations,
        sessions=[record for record in sessions if record],
        recorded_steps=len(recorded),
        notices=notices,
    )


class Pictures:
    """Addresses of pictures: their bytes, as long as the page stays handy, then links into the workdir."""

    def __init__(self, root: Path, budget: int = EMBED_BYTES):
        self._root, self._left = root.resolve(), budget

    def address(self, folder: Path, name: str | None) -> str | None:
        """The src of an <img> in report/index.html for the picture `name` of a folder; None if the workdir has no such picture."""
        if not isinstance(name, str):
            return None
        path = (folder / name).resolve()
        media = MEDIA.get(path.suffix.lower())
        if media is None or not path.is_relative_to(self._root) or not path.is_file():
            return None
        if path.stat().st_size > self._left:
            return urllib.parse.quote(os.path.relpath(path, self._root / "report").replace(os.sep, "/"))
        content = path.read_bytes()
        self._left -= len(content)
        return f"data:{media};base64,{base64.b64encode(content).decode()}"


def _evaluation(folder: Path, pictures: Pictures, notices: list[str], *, with_strips: bool) -> Evaluation:
    """with_strips: whether the page will show the pictures, so that no others weigh on it."""
    scores = folder / tables.SCORES
    records = (_attempt(notices, folder, lambda: tables.read(scores)) or []) if scores.exists() else []
    summary = _json(folder / tables.SUMMARY, notices)
    if summary is not None and not {"level", "reward", "tables"} <= summary.keys():
        notices.append(f"{folder / tables.SUMMARY}: holds no summary of an evaluation.")
        summary = None
    if summary is None and records:
        summary = _attempt(notices, folder, lambda: tables.summarise(records))
    strips = _attempt(notices, folder, lambda: _strips(folder, pictures)) if with_strips else None
    return Evaluation(step=int(folder.name), records=records, summary=summary, strips=strips or [])


def _strips(folder: Path, pictures: Pictures) -> list[dict[str, Any]]:
    if not (folder / "strips.json").exists():
        return []
    sessions = workdir.read_json(folder / "strips.json")["sessions"]
    for session in sessions:
        session["source"] = pictures.address(folder, session.get("source"))
        for turn in session["turns"]:
            turn["picture"] = pictures.address(folder, turn.get("picture"))
    return sessions


def _rollouts(folder: Path, pictures: Pictures) -> dict[str, Any]:
    record = workdir.read_json(folder / "rollouts.json")
    for group in record["groups"]:
        group["source"] = pictures.address(folder, group.get("source"))
        for turn in (turn for rollout in group["rollouts"] for turn in rollout["turns"]):
            turn["picture"] = pictures.address(folder, turn.get("picture"))
    return {"step": int(folder.name)} | record


def _json(path: Path, notices: list[str]) -> dict[str, Any] | None:
    """A JSON object; None where there is no file, or nothing of that kind in it."""
    value = _attempt(notices, path, lambda: workdir.read_json(path)) if path.exists() else None
    if value is not None and not isinstance(value, dict):
        notices.append(f"{path}: holds no JSON object.")
        return None
    return value


def _attempt(notices: list[str], where: Path, action: Callable[[], Any]) -> Any:
    """What the action returns, or None and a notice: one unreadable file must not cost the rest of the page."""
    try:
        return action()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error) if isinstance(error, ValueError | OSError) else f"not in the expected format ({type(error).__name__}: {error})"
        notices.append(said if str(where) in said else f"{where}: {said}")
        return None


def step_folders(folder: Path) -> list[Path]:
    """The folders named by a number, by that number."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()), key=lambda path: int(path.name))


def _within(folders: list[Path], most: int) -> list[Path]:
    """The folders, or as many of them, evenly spread, as have rollouts.json of `most` bytes in all; the ends at least."""
    size = sum((folder / "rollouts.json").stat().st_size for folder in folders)
    return folders if size <= most else _spread(folders, max(2, len(folders) * most // size))


def _spread(items: list[Path], most: int) -> list[Path]:
    """At most `most` of the items: the ends and what lies evenly between."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
