"""A folder of pictures: what is wrong with it is told by file, and what to do."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from editr2_jax.evaluation.benchmarks import picture_folder
from editr2_jax.evaluation.benchmarks.picture_folder import Meta
from editr2_jax.records import Session, Turn

TURN = Turn(
    instruction="Remove ball", formatted_instruction="Remove [ball]", task_type="subject_remove", bg_consistency=True,
    unchanged_objects=(), available_objects=(), all_objects=(),
)  # fmt: skip
SESSIONS = [Session(id=name, image=f"{name}.png", turns=(TURN, TURN)) for name in ("test/a", "test/b", "c")]
SIZES = {session.id: (32, 48) for session in SESSIONS}


@pytest.fixture
def folder(tmp_path):
    for session in SESSIONS:
        picture_folder.save(tmp_path, session, [np.zeros((32, 48, 3), np.uint8)] * 2, (None, "Remove ball"))
    picture_folder.save_meta(tmp_path, Meta(model="mine", seeds={"noise": 3}))
    return tmp_path


def problems(folder, sizes=SIZES, **more):
    return [str(one) for one in picture_folder.look(folder, SESSIONS, sizes, **more)[1]]


def test_a_sound_folder_comes_back(folder):
    drawn, wrong = picture_folder.look(folder, SESSIONS, SIZES)
    assert not wrong and [found.session.id for found in drawn] == ["test/a", "test/b", "c"]
    assert drawn[0].paths == (folder / "test/a/turn_1.png", folder / "test/a/turn_2.png") and drawn[0].intents == (None, "Remove ball")
    assert picture_folder.read_meta(folder) == Meta(model="mine", seeds={"noise": 3})
    assert json.loads((folder / "meta.json").read_text()) == {"format": 1, "pass": "multi", "model": "mine", "seeds": {"noise": 3}}


def test_pictures_alone_are_enough(folder):
    for path in folder.rglob("*.json"):
        path.unlink()
    drawn, wrong = picture_folder.look(folder, SESSIONS, None)
    assert not wrong and drawn[0].intents == (None, None) and picture_folder.read_meta(folder) == Meta()


def spoil_png(path):
    path.write_bytes(path.read_bytes()[:60])


def copy(path, other):
    path.with_name(other).write_bytes(path.read_bytes())


FROM_0 = "c/turn_0.png: turns count from 1: turn_1.png to turn_2.png, lower case, PNG; rename or remove it."
SHAPE = "c/turn_1.png: has 48x48 pixels, of another shape than its source of 48x32"
SPOILED = {
    "missing": (lambda f: (f / "c/turn_2.png").unlink(), ["c/turn_2.png: missing; draw the picture of instruction 2 of 2"]),
    "no session": (lambda f: (f / "test/bb").mkdir(), ["test/bb: no session of the data has this id (the nearest is 'test/b'); rename"]),
    "one too many": (lambda f: copy(f / "c/turn_1.png", "turn_3.png"), ["c/turn_3.png: the session has 2 turns; remove it"]),
    "counted from 0": (lambda f: copy(f / "c/turn_1.png", "turn_0.png"), [FROM_0]),
    "upper case": (
        lambda f: (f / "c/turn_1.png").rename(f / "c/Turn_1.PNG"),
        ["c/Turn_1.PNG: turns count from 1", "c/turn_1.png: missing"],
    ),
    "stray file": (lambda f: (f / "notes.txt").write_text("hello"), ["notes.txt: belongs to no session; remove it"]),
    "no picture": (lambda f: (f / "c/turn_1.png").write_text("no"), ["c/turn_1.png: cannot be read (it is no picture); write it again"]),
    "torn": (lambda f: spoil_png(f / "c/turn_1.png"), ["c/turn_1.png: cannot be read"]),
    "shape": (
        lambda f: [Image.new("RGB", (48, 48)).save(f / f"c/turn_{t}.png") for t in (1, 2)],
        [SHAPE, "c/turn_2.png: has 48x48"],
    ),
    "size": (
        lambda f: Image.new("RGB", (96, 64)).save(f / "c/turn_2.png"),
        ["c/turn_2.png: has 96x64 pixels, the dialogue's first picture 48x32"],
    ),
    "words": (lambda f: (f / "c/words.json").write_text('{"intents": ["one"]}'), ['c/words.json: wanted {"intents": [2 texts or nulls]}']),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_is_told_by_file(folder, case):
    spoil, told = SPOILED[case]
    spoil(folder)
    found = problems(folder)
    assert len(found) == len(told) and all(one.startswith(start) for one, start in zip(found, told, strict=True)), found


def test_a_picture_that_cannot_be_used_is_no_picture(folder):
    (folder / "c/turn_1.png").write_text("no")
    drawn, _ = picture_folder.look(folder, SESSIONS, SIZES)
    assert drawn[2].paths == (None, folder / "c/turn_2.png") and drawn[2].why[0].startswith("c/turn_1.png: cannot be read")


def test_any_shape_is_welcome_where_pictures_are_stretched(folder):
    Image.new("RGB", (17, 90)).save(folder / "c/turn_2.png")
    assert not problems(folder, sizes=None)


def test_sessions_that_are_not_looked_at_may_have_pictures(folder):
    few = SESSIONS[:1]
    assert len(picture_folder.look(folder, few, SIZES)[1]) == 2
    assert not picture_folder.look(folder, few, SIZES, others=SESSIONS)[1]


def test_later_turns_that_are_not_looked_at_may_have_pictures_and_words(folder):
    first = [dataclasses.replace(session, turns=session.turns[:1]) for session in SESSIONS]
    drawn, wrong = picture_folder.look(folder, first, SIZES, others=SESSIONS)
    assert not wrong and drawn[0].paths == (folder / "test/a/turn_1.png",) and drawn[0].intents == (None,)
    copy(folder / "c/turn_1.png", "turn_3.png")
    assert [str(one) for one in picture_folder.look(folder, first, SIZES, others=SESSIONS)[1]] == [
        "c/turn_3.png: the session has 2 turns; remove it."
    ]


def test_a_folder_of_other_sessions_is_refused_at_once(folder, tmp_path):
    others = [dataclasses.replace(session, id=f"x{number}") for number, session in enumerate(SESSIONS)]
    with pytest.raises(ValueError, match="none of the 3 sessions has a picture here; folders are named by session ids, such as 'x0'"):
        picture_folder.look(folder, others, None)
    with pytest.raises(ValueError, match="no such folder"):
        picture_folder.look(tmp_path / "nowhere", SESSIONS, None)


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "", "a/./b"])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        picture_folder.folder_of(tmp_path, name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"pass": "double"}', "\"pass\" is 'double'; it is one of multi, single"),
        ('{"modell": "x"}', "unknown field 'modell'; put what is your own under \"more\""),
        ('{"format": 2}', "with format 1"),
        ('{"model": 3}', "model and made_by are texts"),
        ('{"training_judge": {"urls": "http://127.0.0.1/v1"}}', "urls is a list of texts"),
        ('{"training_judge": {"model": 3}}', "answerer and model are texts"),
        ("[", "not JSON"),
    ],
)
def test_a_meta_file_of_another_kind_is_refused(tmp_path, text, told):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        picture_folder.read_meta(tmp_path)
