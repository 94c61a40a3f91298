"""Small session folders, right until a test breaks them."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))  # bagel_cases

RECORD = {
    "image": "images/000.png",
    "instruction": ["Add red ball on the left of blue box", "Change its color to green", "Change the background to grass"],
    "task_type": ["subject_add", "color_alter", "background_change"],
    "formatted_instruction": [
        "Add [red ball] on the [left] of [blue box]", "Change the color of [red ball] to [green]", "Change the background to [grass]",
    ],
    "bg_consistency": [True, True, False],
    "unchanged_objects": [["blue box", "star"]] * 3,
    "available_objects": [["blue box", "star", "red ball"], ["blue box", "star", "green ball"], ["blue box", "star"]],
    "all_objects": [["blue box", "star", "red ball"], *[["blue box", "star", "red ball", "green ball"]] * 2],
    "turns": 3,
}  # fmt: skip


def record(number: int = 0, **changes) -> dict:
    return copy.deepcopy(RECORD) | {"image": f"images/{number:03}.png"} | changes


class Folder:
    """Writes metadata and pictures."""

    def __init__(self, path: Path):
        self.path = path

    def picture(self, name: str, height: int = 8, width: int = 8, seed: int = 0) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return path

    def lines(self, *lines: bytes | str | dict, split: str = "train") -> Path:
        rows = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        file = self.path / f"{split}_metadata.jsonl"
        file.write_bytes(b"\n".join(row if isinstance(row, bytes) else row.encode() for row in rows))
        return file

    def sessions(self, count: int, split: str = "train", **changes) -> Path:
        for number in range(count):
            self.picture(f"images/{number:03}.png", seed=number)
        self.lines(*(record(number, **changes) for number in range(count)), split=split)
        return self.path


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def new_record():
    return record


@pytest.fixture
def mice_bench() -> Path:
    """The public MICE-Bench metadata, where a developer has it beside the repository."""
    for above in Path(__file__).parents:
        if (above / "shared" / "mice_bench").is_dir():
            return above / "shared" / "mice_bench"
    pytest.skip("no MICE-Bench metadata here")
