import json

import pytest

from editr2_jax.data import check


def test_a_sound_folder(folder):
    report = check.check(folder.sessions(3))
    assert report["problems"] == 0 and report["splits"]["train"]["sessions"] == 3
    assert check.check_text(report) == "train: 3 sessions: sound"


def test_every_problem_of_every_split_is_listed(folder, new_record):
    folder.sessions(4)
    formatted = ["Add text '[]' on the image", "Change the color of [a] to [red]", "Change the background to [b]"]
    empty = new_record(formatted_instruction=formatted, task_type=["text_change", "color_alter", "background_change"])
    folder.lines(empty, new_record(1), new_record(2))
    folder.lines(new_record(3, turns=2), new_record(2), split="test")
    (folder.path / "images/001.png").write_bytes(b"no picture")
    report = check.check(folder.path)
    assert json.loads(json.dumps(report)) == report
    found = [(split, p["line"], p["kind"], p["turn"]) for split, part in report["splits"].items() for p in part["problems"]]
    assert found == [
        ("test", 1, "record", None),
        ("train", 1, "invalid_annotation", 0),
        ("train", 2, "picture", None),
        ("train", 0, "record", None),  # images/002.png is in both splits
    ]
    text = check.check_text(report)
    assert f"{folder.path}/train_metadata.jsonl:1: turn 0: the new text of \"Add text '[]' on the image\" is empty" in text
    assert "also in the split test; keep it in one of them" in text
    assert "test: 1 sessions, 1 problem that must be corrected before it loads" in text
    assert "train: 3 sessions, 2 problems that must be corrected before it loads, 1 with an invalid annotation" in text


def test_stats(folder, new_record):
    folder.sessions(3, subset="memory")
    folder.picture("images/002.png", height=8, width=12)
    report = check.stats(folder.path)
    assert json.loads(json.dumps(report)) == report
    counts = report["splits"]["train"]
    assert counts["sessions"] == 3 and counts["turns"] == {"3": 3} and counts["subsets"] == {"memory": 3}
    assert counts["types"]["subject_add"] == [3, 0, 0] and counts["types"]["background_change"] == [0, 0, 3]
    assert counts["background_kept"] == [3, 3, 0] and counts["no_unchanged_object"] == [0, 0, 0]
    assert counts["sizes"] == {"8x8": 2, "8x12": 1}
    text = check.stats_text(report)
    assert "train: 3 sessions (3 x memory)" in text and "2 x 8x8, 1 x 8x12" in text


MICE = {  # per turn; source: the tables of the public data
    ("cm", "train"): {"subject_add": [284, 291, 286], "text_change": [248, 234, 219], "background_change": [143, 241, 266],
                      "material_alter": [92, 90, 100], "kept": [1707, 1466, 1200], "none": [140, 243, 348]},
    ("cm", "test"): {"subject_remove": [33, 54, 44], "subject_replace": [31, 40, 44], "background_change": [128, 32, 32],
                     "kept": [232, 200, 168], "none": [20, 48, 76]},
    ("cu", "train"): {"color_alter": [274, 416, 212], "count_change": [0, 138, 58], "position_change": [58, 0, 0],
                      "kept": [832, 832, 759], "none": [74, 74, 79]},
    ("cu", "test"): {"color_alter": [118, 179, 99], "text_change": [0, 28, 0], "kept": [360, 360, 324], "none": [42, 42, 49]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["cm", "cu"])
def test_the_counts_of_the_public_data(mice_bench, name):
    report = check.stats(mice_bench / name, pictures=False)
    for split, counts in report["splits"].items():
        found = counts["types"] | {"kept": counts["background_kept"], "none": counts["no_unchanged_object"]}
        assert {key: found[key] for key in MICE[name, split]} == MICE[name, split]
