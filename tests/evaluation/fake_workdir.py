"""A workdir as a run leaves it, with made-up numbers and pictures: what the report is tested on, and looked at with.

To look: python tests/evaluation/fake_workdir.py DIR && python -m editr2_jax report --workdir=DIR
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from editr2_jax.evaluation import tables
from editr2_jax.records import SUBSETS

COLOURS = ("crimson", "darkorange", "gold", "seagreen", "teal", "royalblue", "purple", "hotpink")
INTENT = "Change the count of teal ball to 3"
TYPES = ("subject_add", "color_alter", "count_change", "background_change", "text_change")
ASKED = (
    "Whatever you add or change from here on must be teal, and nothing else may. With this rule active, Add ball on the left of red box",
    "Change the count of it to 3",
    "Change the background to snow",
)


def build(root: Path, *, steps: int = 60, sessions: int = 24, size: int = 64, seed: int = 0) -> Path:
    """Everything a finished run of three turns has. size: of the pictures, in pixels."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    config = {"steps": steps, "data": {"path": "data/<understanding>", "turns": 3}, "rollout": {"window": {"size": 2, "first": 0}}}
    (root / "config.json").write_text(json.dumps(config))
    (root / "versions.json").write_text(json.dumps({"python": "3.11.4", "jax": "0.10.2"}))
    metrics(root, steps, random)
    for step, gain in ((0, 0.0), (steps, 0.2)):
        evaluation(root / "eval" / str(step), sessions, gain, size, random)
    for step in (0, steps // 2, steps - 1):
        rollouts(root / "sessions" / str(step), step, size, random)
    return root


def metrics(root: Path, steps: int, random: np.random.Generator) -> None:
    """metrics.jsonl."""
    lines = []
    for step in range(steps):
        done = step / max(steps, 1)
        line = {"step": step, "reward/mean": 0.45 + 0.2 * done + random.normal(0, 0.04)}
        for name, level in (("if", 0.6), ("cc", 0.8), ("ga", 0.4)):
            for turn in range(3):
                line[f"reward/{name}/turn_{turn}"] = level - 0.12 * turn + 0.2 * done + random.normal(0, 0.05)
        line |= {"image/loss": random.normal(0, 1e-3), "image/kl": 1e-4 * done * random.uniform(), "image/clip_fraction": 0.3 * done}
        line |= {"image/ratio_min": 1 - 1e-5 * step, "image/ratio_mean": 1.0, "image/ratio_max": 1 + 1e-5 * step}
        line |= {"intent/loss": random.normal(0, 1e-2), "intent/kl": None if step == 5 else 1e-3 * done, "filter/dropped": 0.3 - 0.1 * done}
        line |= {"time/rollout_s": 5 + random.normal(0, 0.2), "time/update_s": 3 + random.normal(0, 0.1), "time/score_s": 0.5}
        lines.append(json.dumps(line))
    (root / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def records(sessions: int, gain: float, random: np.random.Generator) -> list[dict]:
    """Score records of three turns per session."""
    found = []
    for number in range(sessions):
        subset = SUBSETS[number % 3]
        for turn in range(3):
            followed = float(random.random() < 0.65 + gain - 0.15 * turn)
            scores = {"if": followed, "cc": float(random.uniform(0.7, 1.0)), "ga": followed * float(random.random() < 0.7)}
            scores["ga"] = None if subset == "plain" else scores["ga"]
            status = {name: "ok" if value is not None else "not_applicable" for name, value in scores.items()}
            if number == 1 and turn == 1:
                scores["if"], status["if"] = math.nan, "service_error"
            present = [value for value in scores.values() if value is not None]
            said = {"task_type": TYPES[(number + turn) % len(TYPES)], "instruction": ASKED[turn], "intent": INTENT if turn else None}
            verdicts = {"scores": scores, "status": status, "reward": sum(present) / len(present), "detail": {}}
            found.append({"session": f"test/{number:04d}", "subset": subset, "turn": turn} | said | verdicts)
    return found


def evaluation(folder: Path, sessions: int, gain: float, size: int, random: np.random.Generator) -> None:
    """eval/STEP with scores, summary and strips."""
    found = records(sessions, gain, random)
    tables.write(folder, found, draws=200)
    strips = []
    for number in range(min(sessions, 8)):
        source = picture(folder, f"s{number}/source.png", size, number)
        turns = [
            {name: record[name] for name in ("instruction", "intent", "scores")}
            | {"picture": picture(folder, f"s{number}/t{turn}.png", size, number + 10 * turn + round(100 * gain))}
            for turn, record in enumerate(found[3 * number : 3 * number + 3])
        ]
        strips.append({"id": f"test/{number:04d}", "turns": turns, "source": source})
    (folder / "strips.json").write_text(json.dumps({"sessions": tables.plain(strips)}))


def rollouts(folder: Path, step: int, size: int, random: np.random.Generator) -> None:
    """sessions/STEP with two groups of four rollouts, some turns of which are filtered."""
    groups = []
    for group in range(2):
        said = [
            {"instruction": asked, "formatted_instruction": f"[{asked[-12:]}]", "task_type": TYPES[turn]}
            for turn, asked in enumerate(ASKED)
        ]
        played = [{"turns": _played(folder, f"g{group}/r{rollout}", size, step + 7 * rollout, rollout, random)} for rollout in range(4)]
        session = {"id": f"train/{group:04d}", "subset": SUBSETS[group + 1], "turns": said}
        groups.append({"session": session, "source": picture(folder, f"g{group}/source.png", size, group), "rollouts": played})
    (folder / "rollouts.json").write_text(json.dumps({"step": step, "groups": groups}))


def _played(folder: Path, name: str, size: int, seed: int, rollout: int, random: np.random.Generator) -> list[dict]:
    """The turns of one rollout: number 1 falls back to the instruction at its last turn, number 3 has no GA verdict."""
    failed, judged, turns = False, rollout != 3, []
    for turn in range(3):
        followed = float(random.random() < 0.7)
        scores = {"if": followed, "cc": float(random.uniform(0.7, 1)), "ga": followed if judged else None}
        why = "turn 0 failed (IF 0): the picture it edits is not sound" if failed else None if judged else "no verdict on GA"
        turns.append(
            {"picture": picture(folder, f"{name}/t{turn}.png", size, seed + turn), "intent": INTENT if turn else None}
            | {"intent_raw": f"<think>{INTENT}" if turn else None, "intent_fallback": turn == 2 and rollout == 1, "scores": scores}
            | {"status": {key: "ok" if value is not None else "service_error" for key, value in scores.items()}}
            | {"reward": 0.6 * followed + 0.3 if judged else None, "advantage": float(random.normal()) if judged else None}
            | {"image_learns": judged and not failed, "text_learns": judged and turn > 0, "why_filtered": why}
            | {"detail": {"if": {"reason": "the ball is where it was asked for", "boxes": [[0.1, 0.2, 0.3, 0.4]]}}}
            | measured(turn, 0.6 * followed + 0.3 if judged else None, random)
        )
        failed = failed or followed == 0
    return turns


def measured(turn: int, reward: float | None, random: np.random.Generator) -> dict:
    """What newer records tell beside: tokens and their ratios, the window, KL, and how much the picture changed."""
    words = [f" {word}" for word in INTENT.split()] + ["<|im_end|>"]
    tokens = [{"text": word, "log_prob": -float(random.exponential(0.4)), "ratio": float(np.exp(random.normal(0, 0.1)))} for word in words]
    begin = int(random.integers(5))
    return {
        "tokens": tokens if turn else None,
        "advantage_text": float(random.normal()) if turn else None,
        "reward_parts": {"if": reward - 0.25, "cc": 0.25} if reward else None,
        "changed": float(random.uniform(0.02, 0.2)),
        "window": {"steps": [begin, begin + 1], "t": [1 - 0.1 * begin, 0.95 - 0.1 * begin]},
        "image_ratio": [1 + float(random.normal(0, 1e-4)) for _ in range(2)],
        "kl": float(random.uniform(0, 1e-4)),
    }


def picture(folder: Path, name: str, size: int, seed: int) -> str:
    """Writes a picture of coloured shapes and returns its name."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), ("wheat", "lightgray", "lightblue", "lavender")[seed % 4])
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y = random.integers(0, size * 3 // 4, 2)
        shape = (draw.ellipse, draw.rectangle)[int(random.integers(2))]
        shape((int(x), int(y), int(x) + size // 4, int(y) + size // 4), fill=COLOURS[int(random.integers(len(COLOURS)))])
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return name


if __name__ == "__main__":
    build(Path(sys.argv[1]), sessions=256)
