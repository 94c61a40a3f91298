import json

import pytest

from editr2_jax.data import check
from editr2_jax.data.session_source import SessionFolder


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
        ("train", 3, "record", None),  # images/002.png is in both splits
    ]
    text = check.check_text(report)
    assert f"{folder.path}/train_metadata.jsonl:1: turn 0: the new text of \"Add text '[]' on the image\" is empty" in text
    assert f"also in the split test ({folder.path}/test_metadata.jsonl:2); keep it in one of them" in text
    assert "test: 1 sessions, 1 problem that must be corrected before it loads" in text
    assert "train: 3 sessions, 2 problems that must be corrected before it loads, 1 with an invalid annotation" in text


def test_a_flag_file_of_several_splits_is_told_of_once(folder, new_record):
    folder.sessions(2)
    folder.lines(new_record(0))
    folder.lines(new_record(1), split="test")
    (folder.path / "quality_flags.jsonl").write_text('{"split": "train", "row": 0')
    report = check.check(folder.path)
    assert report["problems"] == 1 and check.check_text(report).count("quality_flags.jsonl:1: not JSON") == 1


def test_two_published_folders_share_a_flag_file(folder, new_record):
    for name in ("cm", "cu"):
        part = type(folder)(folder.path / name)
        part.picture(f"images/{name}.png")
        part.lines(new_record(image=f"images/{name}.png"))
    (folder.path / "quality_flags.jsonl").write_text('{"split": "cm/train", "row": 0')
    assert check.check(folder.path)["problems"] == 1


def test_a_flag_file_above_published_folders_names_the_folder_too(folder, new_record):
    for name in ("cm", "cu"):
        part = type(folder)(folder.path / name)
        part.picture(f"images/{name}.png")
        part.lines(new_record(image=f"images/{name}.png"))
    lines = [f'{{"split": "{split}", "row": 0, "flags": [["added_after_first_release", 0]]}}' for split in ("train", "cu/train")]
    (folder.path / "quality_flags.jsonl").write_text("\n".join(lines))
    flags = SessionFolder(folder.path, "train").flags
    assert {session for session, told in flags.items() if told[0].turn == -1} == {"train/cu"}  # "train" may be either's
    assert check.check(folder.path)["unread_flags"] == {f"{folder.path}/quality_flags.jsonl": {"train": 1}}


def test_flags_of_a_split_that_is_not_here_are_told(folder):
    folder.sessions(1)
    lines = [f'{{"split": "{split}", "row": 0, "flags": []}}' for split in ("train", "trian", "trian", "cu/test")]
    (folder.path / "quality_flags.jsonl").write_text("\n".join(lines))
    report = check.check(folder.path)
    assert report["problems"] == 0
    assert report["unread_flags"] == {f"{folder.path}/quality_flags.jsonl": {"trian": 2, "cu/test": 1}}
    assert check.check_text(report).endswith("also tells of what is not here and was not read: trian (2 lines), cu/test (1 line)")


def test_sessions_of_two_folders_with_invalid_annotations_count_as_two(folder, new_record):
    for name in ("cm", "cu"):
        part = type(folder)(folder.path / name)
        part.picture(f"images/{name}.png")
        part.lines(new_record(image=f"images/{name}.png", formatted_instruction=["x", "Change the color of [a] to [b]", "y"]))
    assert "2 with an invalid annotation" in check.check_text(check.check(folder.path))


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


MICE = {  # type -> turns 1, 2, 3 of cm train, cm test, cu train, cu test; source: the tables of the public data
    "subject_add": "284/291/286 35/61/56 151/67/0 65/29/0",
    "subject_remove": "278/260/230 33/54/44 67/0/424 29/0/172",
    "subject_replace": "209/211/224 31/40/44 149/0/0 65/0/0",
    "color_alter": "137/110/93 24/28/17 274/416/212 118/179/99",
    "material_alter": "92/90/100 12/23/21 133/140/65 58/60/28",
    "text_change": "248/234/219 35/46/38 0/71/0 0/28/0",
    "position_change": "212/188/201 28/36/49 58/0/0 25/0/0",
    "count_change": "247/225/231 34/40/59 0/138/58 0/64/25",
    "background_change": "143/241/266 128/32/32 0/0/73 0/0/36",
    "free_form": "0/0/0 0/0/0 0/0/0 0/0/0",
    "background_kept": "1707/1466/1200 232/200/168 832/832/759 360/360/324",
    "no_unchanged_object": "140/243/348 20/48/76 74/74/79 42/42/49",
}
SPLITS = (("cm", "train", 1850), ("cm", "test", 360), ("cu", "train", 832), ("cu", "test", 360))


@pytest.mark.slow
def test_the_counts_of_the_public_data(mice_bench):
    found = {name: check.stats(mice_bench / name, pictures=False)["splits"] for name in ("cm", "cu")}
    for column, (name, split, sessions) in enumerate(SPLITS):
        counts = found[name][split]
        assert (counts["sessions"], counts["turns"]) == (sessions, {"3": sessions})
        assert counts["subsets"] == {{"cm": "memory", "cu": "understanding"}[name]: sessions}
        told = counts["types"] | {key: counts[key] for key in ("background_kept", "no_unchanged_object")}
        expected = {key: [int(n) for n in row.split()[column].split("/")] for key, row in MICE.items()}
        assert told == expected, (name, split)


@pytest.mark.slow
def test_both_halves_of_the_public_data_together(mice_bench):
    counts = check.stats(mice_bench, pictures=False)["splits"]
    assert {split: counts[split]["subsets"] for split in counts} == {
        "test": {"memory": 360, "understanding": 360}, "train": {"memory": 1850, "understanding": 832},
    }  # fmt: skip
    assert counts["train"]["invalid_annotation"] == 97 and counts["test"]["invalid_annotation"] == 10
