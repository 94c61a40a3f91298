"""Data sets of others, in a few made-up rows of their formats."""

import csv
import json
from pathlib import Path

import pytest

from editr2_jax.cli import main as cli
from editr2_jax.data import check
from editr2_jax.data.foreign import writing
from editr2_jax.data.session_source import SessionFolder
from editr2_jax.records import Episode, Status
from editr2_jax.rewards.instruction_following import InstructionFollowing

COLUMNS = (
    "image_index turns task_type instructions format_instructions bg_consistency unchanged_objects available_objects all_objects".split()
)
EDITS = (  # type, formatted, background kept, unchanged, available, all
    ("subject_add", "Add [cup] on the [left] of [box].", True, ["box"], ["box", "cup"], ["box", "cup"]),
    ("count_change", '"Change the count of [cup] to [3]"', True, ["box"], ["box", "cup"], ["box", "cup"]),
    ("background_change", "Change the background to [park]", False, ["box"], ["box"], ["box", "cup"]),
)


def edival_rows(index):
    types, formatted, *_ = zip(*EDITS, strict=True)
    plain = [text.replace("[", "").replace("]", "") for text in formatted]
    plain[2] += ", remain the box unchanged"
    return [
        dict(zip(COLUMNS, [index, t + 1, list(types[: t + 1]), plain[: t + 1], list(formatted[: t + 1]), *edit[2:]], strict=True))
        for t, edit in enumerate(EDITS)
    ]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def convert(source, flag, table, folder, out, *more):
    return cli.main(["data", "convert", f"--from={source}", f"--{flag}={table}", f"--images={folder.path / 'in'}", f"--out={out}", *more])


def test_edival(folder, tmp_path, capsys):
    for index in (4, 7):
        folder.picture(f"in/{index}_input_raw.png", seed=index)
    table = write_csv(tmp_path / "edival.csv", [*edival_rows(4), *edival_rows(7)])
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 0, capsys.readouterr().err
    assert "2 sessions, split test" in capsys.readouterr().out
    source = SessionFolder(tmp_path / "out", "test")
    session = source.sessions[1]
    assert session.id == "test/7" and session.subset == "plain" and not source.invalid
    assert Path(session.image).read_bytes() == (tmp_path / "in/7_input_raw.png").read_bytes()
    assert [turn.formatted_instruction for turn in session.turns] == [
        "Add [cup] on the [left] of [box]", "Change the count of [cup] to [3]", "Change the background to [park]",
    ]  # fmt: skip
    assert session.turns[1].instruction == "Change the count of cup to 3" and session.turns[2].available_objects == ("box",)
    assert check.check(tmp_path / "out")["problems"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": "2"}, r"edival\.csv:2: image 4: turns is 2 where the prefix of length 1 is due"),
        ({"task_type": "subject_add"}, r"edival\.csv:2: task_type is 'subject_add'; it is a Python list of texts"),
        ({"task_type": "['subject_ad']"}, r"edival\.csv:3: image 4: task_type does not go on from the row before, line 2"),
        ({"bg_consistency": "yes"}, r"edival\.csv:2: bg_consistency is 'yes'; it is True or False"),
        ({"bg_consistency": "False"}, r"edival\.csv:2: turn 0: bg_consistency is false although no background_change"),
        ({"unchanged_objects": "['tree']"}, r"edival\.csv:2: turn 0: unchanged_objects has 'tree', which all_objects has not"),
        ({"image_index": "four"}, r"edival\.csv:2: image_index 'four'"),
    ],
)
def test_a_bad_row_of_edival(folder, tmp_path, capsys, change, message):
    rows = [*edival_rows(4), *edival_rows(7)]
    rows[0] |= change
    table = write_csv(tmp_path / "edival.csv", rows)
    folder.picture("in/4_input_raw.jpg")
    folder.picture("in/7_input_raw.jpg")
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert not (tmp_path / "out").exists()
    assert convert("edival", "csv", table, folder, tmp_path / "out", "--skip-bad") == 0
    out = capsys.readouterr().out
    assert "edival.csv:" in out and "1 sessions, split test; what is named above was left out" in out
    assert [session.id for session in SessionFolder(tmp_path / "out", "test").sessions] == ["test/7"]


def test_a_picture_of_edival_that_is_not_there_and_other_columns(folder, tmp_path, capsys):
    table = write_csv(tmp_path / "edival.csv", edival_rows(4))
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 2
    assert "edival.csv:2: there is no picture for images/4_input_raw.jpg below --images" in capsys.readouterr().err
    table.write_text("image,turns\n1,2\n")
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 2
    assert "edival.csv:1: there is no column image_index; EdiVal's CSV has image_index, turns" in capsys.readouterr().err


def brushed(folder):
    for name in ("11-input", "11-output1", "11-output2", "12-input", "12-output1"):
        folder.picture(f"in/{name[:2]}/{name}.png", seed=len(name))
    turns = [("11", "11-input", "11-output1"), ("11", "11-output1", "11-output2"), ("12", "12-input", "12-output1")]
    return [(img_id, f"{source}.png", f"{target}.png", f"let it be {target}") for img_id, source, target in turns]


@pytest.mark.parametrize("kind", ["json", "tsv"])
def test_magicbrush(folder, tmp_path, capsys, kind):
    rows, table = brushed(folder), tmp_path / f"edit_sessions.{kind}"
    if kind == "json":
        sessions = {}
        for img_id, source, target, text in rows:
            sessions.setdefault(img_id, []).append({"input": source, "mask": "m.png", "output": target, "instruction": text})
        table.write_text(json.dumps(sessions, indent=1))
    else:
        numbers = (1, 2, 1)
        lines = ["\t".join((img_id, str(n), *rest)) for (img_id, *rest), n in zip(rows, numbers, strict=True)]
        table.write_text("\n".join(["img_id\tturn_index\tsource_img\ttarget_img\tinstruction", *lines]))
    assert convert("magicbrush", "turns", table, folder, tmp_path / "out") == 0, capsys.readouterr().err
    source = SessionFolder(tmp_path / "out", "train")
    assert [(session.id, len(session.turns)) for session in source.sessions] == [("train/11", 2), ("train/12", 1)]
    turn = source.sessions[0].turns[1]
    assert (turn.instruction, turn.task_type, turn.bg_consistency) == ("let it be 11-output2", "free_form", False)
    assert Path(turn.target).read_bytes() == (tmp_path / "in/11/11-output2.png").read_bytes()
    assert check.check(tmp_path / "out")["problems"] == 0 and "free_form" in check.stats_text(check.stats(tmp_path / "out"))
    picture = source.read(source.sessions[0].image)
    verdict = InstructionFollowing(None, None).score(Episode(session=source.sessions[0], pictures=(picture, picture)))
    assert verdict.status is Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"11": [{"input": "11-input.png", "output": "11-output1.png"}]}', "sessions.json:1: turn 0: instruction is None; give a text"),
        ('{\n"11": [],\n"12": 3}', "sessions.json:2: session 11: [] is no list of turns"),
        ('{"../a": [{}]}', "session '../a': the id names a folder"),
        ("[]", "sessions.json: a list, not sessions by img_id"),
        ("{", "sessions.json:1: not JSON"),
        ("[" * 100_000, "sessions.json: not sessions by img_id: JSON nested too deep"),
        ('{"11": [{"input": "a.png"}], "11": []}', "sessions.json: '11' is there twice; give every session and every field once"),
    ],
)
def test_a_bad_session_of_magicbrush(folder, tmp_path, capsys, text, message):
    (tmp_path / "sessions.json").write_text(text)
    assert convert("magicbrush", "turns", tmp_path / "sessions.json", folder, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_pictures_of_magicbrush_that_share_a_last_name(folder, tmp_path, capsys):
    for name in ("in/s.png", "in/11/turn_1/p.png", "in/turn_2/p.png"):
        folder.picture(name, seed=len(name))
    turns = [("s.png", "turn_1/p.png"), ("turn_1/p.png", "turn_2/p.png")]
    session = [{"input": source, "output": target, "instruction": "x"} for source, target in turns]
    (tmp_path / "s.json").write_text(json.dumps({"11": session}))
    assert convert("magicbrush", "turns", tmp_path / "s.json", folder, tmp_path / "out") == 0, capsys.readouterr().err
    targets = [Path(turn.target) for turn in SessionFolder(tmp_path / "out", "train").sessions[0].turns]
    assert [target.read_bytes() for target in targets] == [
        (tmp_path / "in/11/turn_1/p.png").read_bytes(), (tmp_path / "in/turn_2/p.png").read_bytes(),
    ]  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps({"11": [session[0] | {"output": "../s.png"}]}))
    assert convert("magicbrush", "turns", tmp_path / "s.json", folder, tmp_path / "other") == 2
    assert "target of turn 0 'images/11/../s.png' leads out of the folder" in capsys.readouterr().err


def test_turns_of_magicbrush_that_do_not_meet(folder, tmp_path, capsys):
    rows, table = brushed(folder), tmp_path / "turns.tsv"
    head = "img_id\tturn_index\tsource_img\ttarget_img\tinstruction"
    table.write_text("\n".join([head, f"11\t1\t{rows[0][1]}\t{rows[0][2]}\tx", f"11\t2\t{rows[0][1]}\t{rows[1][2]}\ty"]))
    assert convert("magicbrush", "turns", table, folder, tmp_path / "out") == 2
    assert "turns.tsv:3: turn 1 starts from 11-input.png, not from 11-output1.png, which turn 0 made" in capsys.readouterr().err
    table.write_text("\n".join([head, f"11\t1\t{rows[0][1]}\t{rows[0][2]}\tx", f"11\t3\t{rows[1][1]}\t{rows[1][2]}\ty"]))
    assert convert("magicbrush", "turns", table, folder, tmp_path / "out") == 2
    assert "turns.tsv:3: session 11: turn_index is 3 where 2 is due" in capsys.readouterr().err
    assert convert("magicbrush", "turns", table, folder, tmp_path / "out", "--skip-bad") == 2  # nothing sound is left
    assert not (tmp_path / "out").exists()


def banana(number, **changes):
    url = f"images/multi-turn/{number}_a_turn"
    files = [{"id": "edit_turn1", "url": f"{url}1.png"}, {"id": "final_image", "url": f"{url}2.png"}]
    files.append({"id": "original_input_image", "url": f"https://example.org/1/{number}_o.jpg"})
    return {"files": files, "metadata_edit_turn_prompts": ["warmer light", "as a comic"]} | changes


def test_pico_banana(folder, tmp_path, capsys):
    for number in (1, 2):
        for turn in (1, 2):
            folder.picture(f"in/images/multi-turn/{number}_a_turn{turn}.png", seed=10 * number + turn)
    folder.picture("in/1_o.jpg", seed=1)
    folder.picture("in/source/abc.jpg", seed=2)
    table = tmp_path / "multi-turn.jsonl"
    lines = [banana(1), banana(2, local_input_image="source/abc.jpg")]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert convert("pico_banana", "jsonl", table, folder, tmp_path / "out", "--split=warm_up") == 0, capsys.readouterr().err
    source = SessionFolder(tmp_path / "out", "warm_up")
    assert [session.id for session in source.sessions] == ["warm_up/1_a_turn2", "warm_up/2_a_turn2"]
    session = source.sessions[1]
    assert Path(session.image).read_bytes() == (tmp_path / "in/source/abc.jpg").read_bytes()
    assert Path(session.turns[1].target).read_bytes() == (tmp_path / "in/images/multi-turn/2_a_turn2.png").read_bytes()
    assert check.check(tmp_path / "out")["problems"] == 0
    bad = [banana(1, metadata_edit_turn_prompts=["a", "b", "c"]), banana(3), {"text": "single"}, banana(1), banana(1)]
    table.write_text("".join(json.dumps(line) + "\n" for line in bad))
    assert convert("pico_banana", "jsonl", table, folder, tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert "multi-turn.jsonl:1: files has no edit_turn2, and 3 prompts want" in error
    assert "multi-turn.jsonl:2: there is no picture for images/3_a_turn2/original_input_image.jpg below --images" in error
    assert "multi-turn.jsonl:3: metadata_edit_turn_prompts is null" in error
    assert "multi-turn.jsonl:5: the session train/1_a_turn2 is already that of line 4" in error


TSV = "img_id\tturn_index\tsource_img\ttarget_img\tinstruction\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((TSV + "11\t1\ta.png\tb.png\tcaf\xe9").encode("latin-1"), "turns.tsv:2: not UTF-8 at byte 72 of the file; save it as UTF-8"),
        ((TSV + "11\t1\ta.png\tb.png\t" + "x" * 200_000).encode(), "turns.tsv:2: not a table: field larger than field limit"),
        ((TSV + "\n11\t1\ta.png\tb.png\tone\ttwo").encode(), "turns.tsv:3: the row has 6 cells, the head of the table 5"),
        ((TSV + "11\t1\ta.png\tb.png").encode(), "turns.tsv:2: the row has 4 cells, the head of the table 5"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_by_line(folder, tmp_path, capsys, content, message):
    (tmp_path / "turns.tsv").write_bytes(content)
    assert convert("magicbrush", "turns", tmp_path / "turns.tsv", folder, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_a_table_as_a_spreadsheet_saves_it(folder, tmp_path, capsys):
    folder.picture("in/4_input_raw.png")
    table = write_csv(tmp_path / "edival.csv", edival_rows(4))
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # a byte order mark
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 0, capsys.readouterr().err


def test_a_damaged_picture_is_no_session(folder, tmp_path, capsys):
    for index in (4, 7):
        folder.picture(f"in/{index}_input_raw.png")
    (tmp_path / "in/4_input_raw.png").write_text("<html>404</html>")
    table = write_csv(tmp_path / "edival.csv", [*edival_rows(4), *edival_rows(7)])
    assert convert("edival", "csv", table, folder, tmp_path / "out") == 2
    assert "edival.csv:2: " in (error := capsys.readouterr().err) and "4_input_raw.png is no picture" in error
    assert convert("edival", "csv", table, folder, tmp_path / "out", "--skip-bad") == 0
    assert [session.id for session in SessionFolder(tmp_path / "out", "test").sessions] == ["test/7"]


@pytest.mark.parametrize("split", ["../evil", "a/b", "a b", ".hidden"])
def test_a_split_is_no_path(folder, tmp_path, capsys, split):
    folder.picture("in/4_input_raw.png")
    table = write_csv(tmp_path / "edival.csv", edival_rows(4))
    before = {path.name for path in tmp_path.iterdir()}
    assert convert("edival", "csv", table, folder, tmp_path / "out", f"--split={split}") == 2
    assert f"--split is '{split}'" in capsys.readouterr().err and {path.name for path in tmp_path.iterdir()} == before


def test_flags_that_do_not_go_together(tmp_path, capsys):
    assert cli.main(["data", "convert", "--from=edival", "--csv=a.csv", f"--out={tmp_path / 'out'}"]) == 2
    assert "--from=edival wants --images too" in capsys.readouterr().err
    assert cli.main(["data", "convert", "x", "--from=sessions", "--to=tfds", "--csv=a", f"--out={tmp_path / 'out'}"]) == 2
    assert "--csv is not for --from=sessions" in capsys.readouterr().err


def test_a_picture_outside_its_folder_is_not_taken(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    assert writing.inside(images, "a/b.png") == [images / "a/b.png"]
    for path in ("../b.png", "a/../../b.png", "/etc/b.png"):
        assert writing.inside(images, path) == []
