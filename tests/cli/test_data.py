import json

import numpy as np
import pytest
from PIL import Image

from editr2_jax.cli import main as cli


def line(**changes):
    return {
        "image": "images/a.png", "instruction": "Remove ball", "task_type": "subject_remove", "formatted_instruction": "Remove [ball]",
        "bg_consistency": True, "unchanged_objects": ["box"], "available_objects": ["box"], "all_objects": ["ball", "box"],
    } | changes  # fmt: skip


@pytest.fixture
def sessions(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images/a.png")
    (tmp_path / "train_metadata.jsonl").write_text(json.dumps(line()) + "\n")
    return tmp_path


def test_check_of_a_sound_folder(sessions, capsys):
    assert cli.main(["data", "check", str(sessions)]) == 0
    assert capsys.readouterr().out == "train: 1 sessions: sound\n"


def test_check_names_every_bad_line_and_exits_1(sessions, capsys):
    with (sessions / "train_metadata.jsonl").open("a") as file:
        file.write(json.dumps(line(image="images/b.png")) + "\n{\n")
    assert cli.main(["data", "check", str(sessions)]) == 1
    out = capsys.readouterr().out
    assert "train_metadata.jsonl:2: image" in out and "b.png is missing" in out and "train_metadata.jsonl:3: not JSON" in out
    assert cli.main(["data", "check", str(sessions), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == 2


def test_stats(sessions, capsys):
    assert cli.main(["data", "stats", str(sessions), "--subset=memory"]) == 0
    out = capsys.readouterr().out
    assert "train: 1 sessions (1 x memory)" in out and "subject_remove" in out and "1 x 8x8" in out


def test_a_mistake_is_one_line(sessions, tmp_path, capsys):
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: does not exist; give a folder" in capsys.readouterr().err
    assert cli.main(["data", "make", "--out", str(tmp_path / "w"), "--size", "big"]) == 2
    assert "--size" in capsys.readouterr().err


def test_photos_go_through_check(tmp_path, capsys):
    pytest.importorskip("skimage")
    assert cli.main(["data", "photos", "--out", str(tmp_path)]) == 0
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert "9 sessions" in capsys.readouterr().out


def test_photos_without_scikit_image(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "skimage", None)
    assert cli.main(["data", "photos", "--out", str(tmp_path)]) == 2
    assert "pip install 'editr2_jax[photos]'" in capsys.readouterr().err


def test_the_world_goes_through_check(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "world"), "--train", "6", "--test", "3", "--targets"]
    assert cli.main(["data", "make", *arguments]) == 0
    assert cli.main(["data", "check", str(tmp_path / "world")]) == 0, capsys.readouterr().out
    assert "train: 6 sessions: sound" in capsys.readouterr().out


def test_convert_to_shards(sessions, tmp_path, capsys):
    out = tmp_path / "shards"
    arguments = ["data", "convert", str(sessions), "--from=sessions", "--to=tfds", f"--out={out}"]
    assert cli.main([*arguments, "--shards=2"]) == 2
    assert "--shards is 2, but the split train has 1 sessions" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert "train: 1 sessions, 1 pictures in 1 shard" in capsys.readouterr().out
    assert cli.main(["data", "check", str(out)]) == 0
    assert capsys.readouterr().out == "train: 1 sessions: sound\n"
    assert cli.main(["data", "stats", str(out)]) == 0 and "1 x 8x8" in capsys.readouterr().out
