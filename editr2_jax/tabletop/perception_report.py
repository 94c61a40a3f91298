"""How often the rewards are wrong on the embedded world, where the truth is known.

For every condition (clean pictures, noise, blur, all of it) and every reward: the share of right outcomes that pass, and the share of
wrong ones that pass all the same. Right is the ground truth after a turn; wrong are the mistakes of mistakes.py. The rewards see pixels and
annotations, as in training. CC has no truth to agree with: its values for right outcomes and for damaged bystanders are shown.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from typing import Any

import numpy as np
import scipy.ndimage

from editr2_jax.records import Episode, Session, Status
from editr2_jax.rewards.base import Reward
from editr2_jax.rewards.content_consistency import ContentConsistency, ContentConsistencyConfig
from editr2_jax.rewards.global_awareness import GlobalAwareness
from editr2_jax.rewards.instruction_following import InstructionFollowing
from editr2_jax.tabletop import dialogues, mistakes, render
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.dialogues import Dialogue
from editr2_jax.tabletop.perception import Eyes, TabletopDetector, TabletopFeatures
from editr2_jax.tabletop.perception_answers import TabletopAnswerer
from editr2_jax.tabletop.scene import COLOURS, Scene

INSET = 0.2  # of a box, once the background may change: a ring or a star shows background in its corners


@dataclasses.dataclass(frozen=True)
class Condition:
    """What happens to the pictures before they are judged."""

    name: str
    noise: float = 0.0  # standard deviation, of 255
    blur: float = 0.0  # standard deviation, pixels
    shift: float = 0.0  # largest offset of a channel, of 255


CONDITIONS = (
    Condition("clean"),
    Condition("noise 8", noise=8),
    Condition("blur 0.8 px", blur=0.8),
    Condition("noise 8, blur 0.8 px, shift 8", noise=8, blur=0.8, shift=8),
)


def tabletop_rewards(eyes: Eyes | None = None) -> tuple[InstructionFollowing, ContentConsistency, GlobalAwareness]:
    """IF, CC and GA on the tabletop perception, sharing one pair of eyes."""
    eyes = eyes or Eyes()
    detector, answerer = TabletopDetector(eyes), TabletopAnswerer(eyes)
    consistency = ContentConsistency(TabletopFeatures(), detector, config=ContentConsistencyConfig(inset=INSET))
    return InstructionFollowing(detector, answerer), consistency, GlobalAwareness(answerer)


def measure(n: int, seed: int, side: int = 64) -> dict[str, Any]:
    """Error rates over n turns a row (n right and n wrong ones), pictures of side x side pixels. JSON-ready; `markdown` shows it."""
    if n < 1:
        raise ValueError(f"measure wants at least one sample a row, got n={n}.")
    rows, by_kind = [], {}
    for number, condition in enumerate(CONDITIONS):
        trial = _Trial(condition, np.random.default_rng([seed, number]), n, side)
        rows += [trial.follow(), trial.aware("memory"), trial.aware("understanding"), trial.consistent()]
        by_kind[condition.name] = trial.table()
    return {"samples_per_row": n, "seed": seed, "side": side, "rows": rows, "by_kind": by_kind}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [
        f"{report['samples_per_row']} turns a row, right and wrong each; {report['side']}x{report['side']} pixels, seed {report['seed']}.",
        "",
        "| pictures | reward | right outcomes scored right | wrong outcomes that pass |",
        "|---|---|---|---|",
    ]
    judged = [row for row in report["rows"] if row["reward"] != "cc"]
    lines += [f"| {r['condition']} | {r['reward']} | {r['right_passed']:.2%} | {r['wrong_passed']:.2%} |" for r in judged]
    lines += ["", "| pictures | CC of right outcomes: mean | 5 % | with one bystander changed: mean |", "|---|---|---|---|"]
    for r in report["rows"]:
        if r["reward"] == "cc":
            lines.append(f"| {r['condition']} | {r['right_mean']:.3f} | {r['right_low']:.3f} | {r['damaged_mean']:.3f} |")
    for condition, table in report["by_kind"].items():
        errors = [f"| {kind} | {wrong} | {total} |" for kind, (wrong, total) in sorted(table.items()) if wrong]
        if errors:
            lines += ["", f"Errors, pictures: {condition}", "", "| reward, edit, outcome | errors | of |", "|---|---|---|", *errors]
    return "\n".join(lines)


class _Trial:
    """One condition: draws dialogues, spoils pictures, asks the rewards."""

    def __init__(self, condition: Condition, rng: np.random.Generator, n: int, side: int):
        self.condition, self.rng, self.n, self.size = condition, rng, n, (side, side)
        self.following, self.consistency, self.awareness = tabletop_rewards(Eyes(capacity=64))
        self.errors: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def follow(self) -> dict[str, Any]:
        """IF on dialogues of every subset."""
        right = wrong = 0
        for number in range(self.n):
            dialogue, turn = self._turn(("plain", "memory", "understanding")[number % 3])
            task_type = dialogue.edits[turn].task_type
            passed = self._passes(self.following, dialogue, dialogue.scenes[: turn + 2])
            self._note(f"if, {task_type}, right", not passed)
            mistake = scenes.pick(self.rng, mistakes.of_edit(dialogue, turn, self.rng))
            fooled = self._passes(self.following, dialogue, (*dialogue.scenes[: turn + 1], mistake.scene))
            self._note(f"if, {task_type}, {mistake.name}", fooled)
            right, wrong = right + passed, wrong + fooled
        return {"condition": self.condition.name, "reward": "if", "right_passed": right / self.n, "wrong_passed": wrong / self.n}

    def aware(self, subset: str) -> dict[str, Any]:
        """GA or CU: the last turn is right, or goes wrong in the edit or in the rule."""
        right = wrong = 0
        name = "ga" if subset == "memory" else "cu"
        for _ in range(self.n):
            dialogue, turn = self._turn(subset)
            task_type = dialogue.edits[turn].task_type
            passed = self._passes(self.awareness, dialogue, dialogue.scenes[: turn + 2])
            self._note(f"{name}, {task_type}, right", not passed)
            against_rule = mistakes.of_rule(dialogue, turn, self.rng)
            found = against_rule if against_rule and self.rng.random() < 0.5 else mistakes.of_edit(dialogue, turn, self.rng)
            mistake = scenes.pick(self.rng, found)
            fooled = self._passes(self.awareness, dialogue, (*dialogue.scenes[: turn + 1], mistake.scene))
            self._note(f"{name}, {task_type}, {mistake.name}", fooled)
            right, wrong = right + passed, wrong + fooled
        return {"condition": self.condition.name, "reward": name, "right_passed": right / self.n, "wrong_passed": wrong / self.n}

    def consistent(self) -> dict[str, Any]:
        """CC of right outcomes, and with one untouched object in another colour."""
        right, damaged = [], []
        for _ in range(self.n):
            dialogue, turn = self._turn("plain")
            played = dialogue.scenes[: turn + 2]
            right.append(self._score(self.consistency, dialogue, played))
            spoiled = self._damaged(played[-1], dialogue.pools[turn].unchanged)
            if spoiled:
                damaged.append(self._score(self.consistency, dialogue, (*played[:-1], spoiled)))
        right, damaged = ([v for v in values if v is not None] for values in (right, damaged))
        return {
            "condition": self.condition.name,
            "reward": "cc",
            "right_mean": statistics.fmean(right),
            "right_low": float(np.quantile(right, 0.05)),
            "damaged_mean": statistics.fmean(damaged),
        }

    def table(self) -> dict[str, list[int]]:
        """Kind of outcome -> [errors, tries]."""
        return {kind: list(counts) for kind, counts in self.errors.items()}

    def _turn(self, subset: str) -> tuple[Dialogue, int]:
        dialogue = dialogues.sample(self.rng, subset, turns=3)
        return dialogue, int(self.rng.integers(3))

    def _damaged(self, scene: Scene, unchanged: tuple[str, ...]) -> Scene | None:
        found = [item for item in scene.items if item.name in unchanged and not item.is_plate]
        if not found:
            return None
        item = scenes.pick(self.rng, found)
        spoiled = dataclasses.replace(item, colour=scenes.pick(self.rng, [colour for colour in COLOURS if colour != item.colour]))
        return dataclasses.replace(scene, items=tuple(spoiled if other is item else other for other in scene.items))

    def _passes(self, reward: Reward, dialogue: Dialogue, played: tuple[Scene, ...]) -> bool:
        return self._score(reward, dialogue, played) == 1.0

    def _score(self, reward: Reward, dialogue: Dialogue, played: tuple[Scene, ...]) -> float | None:
        session = Session(id="report", image="", turns=dialogues.turns_of(dialogue), subset=dialogue.subset)
        verdict = reward.score(Episode(session=session, pictures=tuple(self._picture(scene) for scene in played)))
        return verdict.value if verdict.status is Status.OK else None

    def _picture(self, scene: Scene) -> np.ndarray:
        picture, condition = render.render(scene, self.size), self.condition
        if not (condition.noise or condition.blur or condition.shift):
            return picture
        pixels = scipy.ndimage.gaussian_filter(picture.astype(np.float32), (condition.blur, condition.blur, 0))
        pixels += self.rng.uniform(-condition.shift, condition.shift, 3).astype(np.float32)
        pixels += condition.noise * self.rng.standard_normal(picture.shape, np.float32)
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)

    def _note(self, kind: str, error: bool) -> None:
        self.errors[kind][0] += int(error)
        self.errors[kind][1] += 1
