import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editr2_jax.data import session_record, session_source
from editr2_jax.data.session_source import BadSessions, Kind, Limits, SessionFolder


def test_a_record_becomes_a_session(folder):
    sessions = SessionFolder(folder.sessions(2), "train", subset_default="memory")
    session, read = sessions[1]
    assert len(sessions) == 2 and session.id == "train/001" and session.subset == "memory"
    assert Path(session.image).is_absolute() and read(session.image).shape == (8, 8, 3)
    assert [turn.task_type for turn in session.turns] == ["subject_add", "color_alter", "background_change"]
    assert session.turns[2].unchanged_objects == ("blue box", "star") and session.turns[2].intent is None


def test_the_optional_fields(folder, new_record):
    folder.sessions(1)
    folder.picture("images/t.png")
    intent = ["", "Change the color of red ball to green", "Change it"]
    extra = {"id": "a", "subset": "memory", "caption": "a red box on sand", "intent": intent, "target": ["images/t.png"] * 3}
    folder.lines(new_record(**extra))
    session = SessionFolder(folder.path, "train").sessions[0]
    assert (session.id, session.subset, session.caption) == ("a", "memory", "a red box on sand")
    assert session.turns[1].intent == "Change the color of red ball to green" and session.turns[0].intent == ""
    assert session.turns[2].target == str(folder.path / "images/t.png")
    assert session_source.to_record(session, folder.path) == new_record(**extra)


def test_the_single_turn_form(folder, new_record):
    folder.sessions(1)
    full = new_record()
    bare = {name: value[0] if isinstance(value, list) else value for name, value in full.items() if name != "turns"}
    folder.lines(bare)
    (bare_session,) = SessionFolder(folder.path, "train").sessions
    folder.lines({name: value[:1] if isinstance(value, list) else value for name, value in full.items()} | {"turns": 1})
    (list_session,) = SessionFolder(folder.path, "train").sessions
    assert bare_session == list_session and len(bare_session.turns) == 1
    folder.lines(bare | {"unchanged_objects": []})
    assert SessionFolder(folder.path, "train").sessions[0].turns[0].unchanged_objects == ()


@pytest.mark.parametrize("turns", [1, 5])
def test_any_number_of_turns(folder, new_record, turns):
    folder.sessions(1)
    first = {name: [value[0]] * turns for name, value in new_record().items() if isinstance(value, list)}
    folder.lines(new_record(**first, turns=turns))
    assert len(SessionFolder(folder.path, "train").sessions[0].turns) == turns


BAD_RECORDS = {
    "three instructions, two types": (
        {"task_type": ["subject_add", "color_alter"]}, r"3 instructions but 2 task_types; give one task_type per turn\.",
    ),
    "three instructions, turns 2": ({"turns": 2}, "3 instructions but turns is 2"),
    "turns is text": ({"turns": "3"}, "turns is \"3\"; give the number of turns"),
    "turns is true": ({"turns": True}, "turns is true"),
    "too many turns": ({"turns": 65}, "turns is 65; give the number of turns, 1 to 64"),
    "unknown task type": (
        {"task_type": ["subject_ad", "color_alter", "background_change"]},
        r"turn 0: task_type is \"subject_ad\" \(the nearest is subject_add\)",
    ),
    "task type is a list": ({"task_type": [[], "color_alter", "background_change"]}, r"turn 0: task_type is \[\]"),
    "empty instruction": ({"instruction": ["Add it", " ", "Go"]}, "turn 1: instruction is \" \"; give the text"),
    "instruction is a number": ({"instruction": ["Add it", 4, "Go"]}, "turn 1: instruction is 4"),
    "instruction is an object": ({"instruction": {"0": "Add it"}}, "instruction is .*; give a list with one entry per turn"),
    "background flag too long": ({"bg_consistency": [True] * 3}, "turn 2: bg_consistency is true although a background_change has come"),
    "background flag too short": ({"bg_consistency": [False, True, False]}, "turn 0: bg_consistency is false although no background"),
    "background flag is a number": ({"bg_consistency": [1, 1, 0]}, "turn 0: bg_consistency is 1"),
    "stranger unchanged": ({"unchanged_objects": [["cup"], [], []]}, "turn 0: unchanged_objects has 'cup', which all_objects has not"),
    "stranger available": ({"available_objects": [["cup"], [], []]}, "turn 0: available_objects has 'cup', which all_objects has not"),
    "named twice": ({"available_objects": [["star", "star"], [], []]}, "turn 0: available_objects has 'star' twice"),
    "name with spaces": ({"available_objects": [["star "], [], []]}, "turn 0: available_objects has \"star \""),
    "name is a number": ({"unchanged_objects": [[], [3], []]}, "turn 1: unchanged_objects has 3"),
    "names are text": ({"unchanged_objects": ["star", "star", "star"]}, "turn 0: unchanged_objects is \"star\"; give a list of object"),
    "no object": ({f"{pool}_objects": [[]] * 3 for pool in ("unchanged", "available", "all")}, "turn 0: all_objects is empty"),
    "unchanged again": ({"unchanged_objects": [["star"], [], ["star"]]}, "turn 2: unchanged_objects has 'star', which turn 1 has not"),
    "forgotten name": (
        {"all_objects": [["blue box", "star", "red ball", "cup"], *[["blue box", "star", "red ball", "green ball"]] * 2]},
        "turn 1: all_objects has lost 'cup' of turn 0",
    ),
    "path leads out": ({"image": "../secret.png"}, "image '../secret.png' leads out of the folder"),
    "absolute path": ({"image": "/etc/passwd"}, "image '/etc/passwd' leads out of the folder"),
    "address": ({"image": "https://x.org/a.png"}, "leads out of the folder"),
    "image is a list": ({"image": ["a.png"]}, r"image is \[\"a.png\"\]; give the path"),
    "target leads out": ({"target": ["a.png", "images/../../b.png", "c.png"]}, "target of turn 1 .* leads out"),
    "intent before turn 0": ({"intent": ["Add", "Change", "Go"]}, "turn 0: intent is \"Add\"; give the empty text"),
    "no intent for turn 1": ({"intent": ["", "", "Go"]}, "turn 1: intent is \"\"; give the resolved instruction"),
    "empty caption": ({"caption": " "}, r'caption is " "; give what the source picture shows as a text, or leave it out'),
    "unknown subset": ({"subset": "memroy"}, r"subset is 'memroy' \(the nearest is memory\)"),
    "id is a number": ({"id": 7}, "id is 7"),
    "misspelt field": ({"targets": []}, r"unknown field 'targets' \(the nearest is target\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_named_by_file_and_line(folder, new_record, case):
    changes, message = BAD_RECORDS[case]
    folder.sessions(2)
    folder.lines(new_record(0), new_record(1, **changes))
    with pytest.raises(BadSessions, match=message) as refused:
        SessionFolder(folder.path, "train")
    assert all(problem.line == 2 for problem in refused.value.problems)
    assert f"{folder.path / 'train_metadata.jsonl'}:2: " in str(refused.value)
    assert {problem.line for problem in session_source.check(folder.path, "train")[1]} == {2}


BAD_LINES = {
    "broken JSON": (b'{"image": "a.png",', "not JSON: .* at column"),
    "not an object": (b"[1, 2]", "a list, not a session"),
    "a number that is none": (b'{"turns": NaN}', "NaN is no JSON value"),
    "a field twice": (b'{"turns": 3, "turns": 3}', "the field 'turns' is there twice"),
    "not UTF-8": (b'{"image": "\xff"}', "not UTF-8 at byte 11"),
    "half a character": (b'{"image": "\\ud800"}', "half of a surrogate pair"),
    "nested without end": (b"[" * 100_000, "nested too deep"),
    "too long": (b" " * 5000, "longer than the limit"),
    "a field missing": (b'{"image": "a.png"}', "the field 'instruction' is missing"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_line(folder, new_record, case):
    line, message = BAD_LINES[case]
    folder.sessions(1)
    folder.lines(new_record(), line, new_record(), split="train")
    limits = Limits(line_bytes=4000 if case == "too long" else 1 << 20)
    with pytest.raises(BadSessions, match=message) as refused:
        SessionFolder(folder.path, "train", limits=limits)
    assert [problem.line for problem in refused.value.problems if problem.line != 3][0] == 2
    assert any("image" in str(p) and "line 1" in str(p) for p in refused.value.problems if p.line == 3)  # line 3 repeats line 1


def test_a_line_full_of_names_is_read_at_once(folder, new_record):
    names = [f"{number:x}" for number in range(38_000)]
    empty = {"unchanged_objects": [[]] * 3, "available_objects": [[]] * 3}
    start = time.process_time()
    folder.lines(new_record(all_objects=[names, names, names], **empty), new_record(1, all_objects=[[*names, "0"]] * 3, **empty))
    with pytest.raises(BadSessions, match="turn 0: all_objects has '0' twice"):
        SessionFolder(folder.path, "train", pictures=False)
    folder.lines("{" + ", ".join(f'"{name}": {{}}' for name in ("0", *names[:-1], "0")) + "}")
    _, (problem,) = session_source.check(folder.path, "train", pictures=False)
    assert "the field '0' is there twice" in problem.message
    assert time.process_time() - start < 10  # a look through all earlier names for each takes minutes


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["", "star", "images/000.png", "subject_add", "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "image"]), inner, max_size=2),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from([*session_record.FIELDS, "extra"]), anything, min_size=1, max_size=3))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_field_holds_the_answer_is_a_session_or_a_complaint(folder, new_record, changes):
    folder.lines(new_record(**changes))
    try:
        assert len(SessionFolder(folder.path, "train", drop_invalid=False, pictures=False)) == 1
    except BadSessions as refused:
        assert all(problem.line == 1 for problem in refused.problems)
        str(refused).encode()


def test_all_bad_lines_are_told_and_the_first_twenty_shown(folder, new_record):
    folder.sessions(1)
    folder.lines(*(new_record(number, turns=9) for number in range(30)))
    with pytest.raises(BadSessions) as refused:
        SessionFolder(folder.path, "train")
    assert len(refused.value.problems) == 30
    assert "30 problems in 30 lines" in str(refused.value) and "and 10 more" in str(refused.value)
    assert "jsonl:20:" in str(refused.value) and "jsonl:21:" not in str(refused.value)


def test_bad_folders(folder, new_record, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: does not exist; give a folder with a SPLIT_metadata\.jsonl"):
        SessionFolder(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="no \\*_metadata.jsonl file in this folder"):
        SessionFolder(tmp_path, "train")
    file = folder.lines(new_record())
    with pytest.raises(ValueError, match="is a file"):
        SessionFolder(file, "train")
    with pytest.raises(ValueError, match="there is no split 'test'; it has train"):
        SessionFolder(tmp_path, "test")
    with pytest.raises(ValueError, match=r"no subset 'cm'; it is one of plain"):
        SessionFolder(tmp_path, "train", subset_default="cm")
    folder.lines(b"", split="empty")
    with pytest.raises(ValueError, match="the file has no line"):
        SessionFolder(tmp_path, "empty")


def test_missing_and_damaged_pictures(folder, new_record):
    folder.sessions(4)
    (folder.path / "images/000.png").unlink()
    whole = (folder.path / "images/001.png").read_bytes()
    (folder.path / "images/001.png").write_bytes(whole[: len(whole) // 2])
    (folder.path / "images/002.png").write_bytes(b"")
    with pytest.raises(BadSessions, match=r"jsonl:1: image .*000\.png is missing; put the picture there"):
        SessionFolder(folder.path, "train")
    _, problems = session_source.check(folder.path, "train")
    assert [(p.line, p.kind) for p in problems] == [(1, Kind.PICTURE), (2, Kind.PICTURE), (3, Kind.PICTURE)]
    assert "damaged or incomplete" in problems[1].message and "the file is empty" in problems[2].message
    assert len(SessionFolder(folder.path, "train", pictures=False)) == 4


def test_a_picture_over_the_limit(folder):
    folder.sessions(1)
    _, (problem,) = session_source.check(folder.path, "train", limits=Limits(pixels=63))
    assert "has 8x8 pixels, the limit is 63" in problem.message
    session, read = SessionFolder(folder.path, "train", limits=Limits(pixels=63))[0]
    with pytest.raises(ValueError, match="limit is 63"):
        read(session.image)


@pytest.mark.parametrize(
    ("formatted", "task_type", "message"),
    [
        ("Add text '[]' on the image", "text_change", "the new text of .* is empty; give the text that is to appear"),
        ("Replace the text '[A]' on [box] with '[]'", "text_change", "the new text of .* is empty"),
        ("Put a [cup] somewhere", "subject_add", r"is no subject_add; write it in the grammar"),
        ("Remove [cup] thought: the user", "subject_remove", "is no subject_remove"),
    ],
)
def test_an_invalid_annotation_leaves_training_and_stays_in_evaluation(folder, new_record, formatted, task_type, message):
    folder.sessions(2)
    single = {name: value[:1] if isinstance(value, list) else value for name, value in new_record().items()} | {"turns": 1}
    bad = single | {"image": "images/001.png", "formatted_instruction": [formatted], "task_type": [task_type]}
    for split in ("train", "test"):
        folder.lines(single, bad, split=split)
    train, test = SessionFolder(folder.path, "train"), SessionFolder(folder.path, "test")
    assert (len(train), train.dropped, len(test), test.dropped) == (1, 1, 2, 0)
    (problem,) = test.invalid["test/001"]
    assert (problem.line, problem.turn, problem.kind) == (2, 0, "invalid_annotation") and len(train.invalid) == 1
    _, (checked,) = session_source.check(folder.path, "test")
    assert checked == problem
    assert len(SessionFolder(folder.path, "train", drop_invalid=False)) == 2
    np.testing.assert_equal(len(SessionFolder(folder.path, "test", drop_invalid=True)), 1)
    with pytest.raises(ValueError, match=message):
        raise ValueError(str(problem))


def test_a_folder_of_nothing_but_invalid_annotations(folder, new_record):
    folder.sessions(1)
    folder.lines(new_record(formatted_instruction=["x", "y", "z"]))
    with pytest.raises(ValueError, match="no session is left of 1"):
        SessionFolder(folder.path, "train")


def test_the_line_of_a_session_gives_the_session_back(folder, new_record):
    session = SessionFolder(folder.sessions(1), "train").sessions[0]
    folder.lines(json.dumps(session_source.to_record(session, folder.path)))
    assert SessionFolder(folder.path, "train").sessions[0] == session


def test_the_published_layout(folder, new_record, tmp_path):
    for name in ("cm", "cu"):
        part = type(folder)(tmp_path / name)
        part.picture(f"images/{name}.png")
        part.lines(new_record(image=f"images/{name}.png"))
    assert [session.subset for session in SessionFolder(tmp_path / "cu", "train").sessions] == ["understanding"]
    assert SessionFolder(tmp_path / "cu", "train", subset_default="plain").sessions[0].subset == "plain"
    both = SessionFolder(tmp_path, "train")
    assert [(session.id, session.subset) for session in both.sessions] == [("train/cm", "memory"), ("train/cu", "understanding")]
    assert both[1][1](both.sessions[1].image).shape == (8, 8, 3)
    (tmp_path / "cu/train_metadata.jsonl").write_text(json.dumps(new_record(image="images/cu.png", id="train/cm")))
    with pytest.raises(BadSessions, match=r"id 'train/cm' is already that of .*/cm/train_metadata.jsonl:1"):
        SessionFolder(tmp_path, "train")


FREE = {
    "task_type": ["subject_add", "free_form", "free_form"], "bg_consistency": [True, False, False],
    "unchanged_objects": [["star"], [], []],
}  # fmt: skip


def test_a_free_form_turn_has_words_alone(folder, new_record):
    folder.sessions(2)
    bare = {f"{name}_objects": [[]] * 3 for name in ("unchanged", "available", "all")}
    folder.lines(new_record(0, **FREE), new_record(1, **bare, task_type=["free_form"] * 3, bg_consistency=[False] * 3))
    loaded = SessionFolder(folder.path, "train")
    assert len(loaded) == 2 and not loaded.invalid and not loaded.flags
    for changes, message in (
        ({"bg_consistency": [True, True, False]}, "turn 1: bg_consistency is true although a free_form has come"),
        ({"unchanged_objects": [["star"], ["star"], []]}, "turn 1: unchanged_objects is not empty although a free_form has come"),
    ):
        folder.lines(new_record(0, **FREE | changes))
        with pytest.raises(BadSessions, match=message):
            SessionFolder(folder.path, "train")
