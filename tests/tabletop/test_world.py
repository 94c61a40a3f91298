"""Sessions of the world: the same from the same numbers, splits apart, folders as the loader wants them."""

import re

import numpy as np
import pytest

from editr2_jax.data import images, session_source
from editr2_jax.records import SUBSETS, TASK_TYPES
from editr2_jax.tabletop import dialogues, world


def same(a, b):
    assert a[0] == b[0]
    for one, other in zip((a[1], *a[2]), (b[1], *b[2]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_session_is_settled_by_split_seed_and_index():
    same(world.make_session("train", 1, 5), world.make_session("train", 1, 5))
    firsts = [world.make_session(*numbers)[1] for numbers in (("train", 1, 5), ("train", 2, 5), ("train", 1, 8), ("test", 1, 5))]
    assert len({picture.tobytes() for picture in firsts}) == 4


FROZEN = ["Change the material of [star] to [metal]", "Change the count of [metal star] to [2]", "Change the count of [metal star] to [4]"]


def test_the_format_is_frozen():
    """Published numbers name (split, seed, index): when this changes on purpose, raise world.FORMAT."""
    session, source, targets = world.make_session("test", 0, 1)
    assert (world.FORMAT, session.subset, len(targets), source.shape) == (2, "memory", 3, (64, 64, 3))
    assert [turn.formatted_instruction for turn in session.turns] == FROZEN


def test_train_and_test_share_no_dialogue():
    prints = {
        split: {dialogues.fingerprint(world.make_dialogue(split, seed, index)) for seed in (0, 1) for index in range(200)}
        for split in world.SPLITS
    }
    assert not prints["train"] & prints["test"] and all(len(found) > 390 for found in prints.values())
    for split in world.SPLITS:
        assert world.home_of(world.make_dialogue(split, 3, 3)) == split


def test_a_split_keeps_its_dialogues_even_when_they_lie_a_little_differently():
    dialogue = world.make_dialogue("test", 0, 0)
    again = world.make_dialogue("test", 0, 0, size=(128, 128))  # same cells: the same dialogue
    assert dialogues.fingerprint(dialogue) == dialogues.fingerprint(again)


def test_subsets_come_by_turns_and_can_be_chosen():
    assert [world.make_dialogue("train", 0, index).subset for index in range(3)] == list(SUBSETS)
    assert world.make_dialogue("train", 0, 0, subset="memory").subset == "memory"


@pytest.mark.parametrize(("turns", "size"), [(1, (64, 64)), (2, (48, 96)), (5, (96, 96))])
def test_turns_and_sizes(turns, size):
    session, source, targets = world.make_session("train", 0, 0, turns=turns, size=size)
    assert len(session.turns) == len(targets) == turns and source.shape == (*size, 3) == targets[-1].shape


def test_bulk_is_the_same_as_one_by_one():
    pictures, sessions = world.arrays("train", 4, 10, 80)
    assert pictures.shape == (70, 4, 64, 64, 3) and pictures.dtype == np.uint8 and len(sessions) == 70
    same((sessions[69], pictures[69, 0], pictures[69, 1:]), world.make_session("train", 4, 79))


@pytest.mark.slow
def test_processes_give_the_same_in_the_same_order():
    alone, together = (world.arrays("train", 0, 0, 130, workers=workers) for workers in (0, 2))
    np.testing.assert_array_equal(alone[0], together[0])
    assert alone[1] == together[1]


def test_a_folder_loads_as_any_other(tmp_path):
    world.write_folder(tmp_path, {"train": 9, "test": 3}, seed=2)
    folder = session_source.SessionFolder(tmp_path, "train")
    assert len(folder) == 9 and not folder.invalid and len(session_source.SessionFolder(tmp_path, "test")) == 3
    session, read = folder[4]
    described, source, targets = world.make_session("train", 2, 4)
    assert session.id == described.id and session.subset == described.subset
    assert [t.formatted_instruction for t in session.turns] == [t.formatted_instruction for t in described.turns]
    assert [t.intent for t in session.turns] == [t.intent for t in described.turns]
    np.testing.assert_array_equal(read(session.image), source)
    np.testing.assert_array_equal(images.read_picture(session.turns[2].target), targets[2])


def test_a_folder_is_kept_or_refused_but_never_mixed(tmp_path):
    world.write_folder(tmp_path, {"test": 2}, targets=False)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")}
    assert len(list((tmp_path / "images").iterdir())) == 2
    world.write_folder(tmp_path, {"test": 2}, targets=False)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")} == written
    with pytest.raises(ValueError, match="another folder"):
        world.write_folder(tmp_path, {"test": 2}, targets=False, seed=1)
    world.write_folder(tmp_path, {"train": 1})  # another split may join


def test_an_interrupted_folder_is_written_to_its_end(tmp_path, monkeypatch):
    real = world.make_session
    monkeypatch.setattr(world, "make_session", lambda split, seed, index, **more: 1 / 0 if index == 2 else real(split, seed, index, **more))
    with pytest.raises(ZeroDivisionError):
        world.write_folder(tmp_path, {"train": 4})
    assert not list(tmp_path.glob("*.jsonl"))
    monkeypatch.undo()
    world.write_folder(tmp_path, {"train": 4})
    assert len(session_source.SessionFolder(tmp_path, "train")) == 4


def test_the_vocabulary_sentences_hold_every_word_of_the_world():
    def words(sentences):
        return {word for sentence in sentences for word in re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", sentence)}

    known, used = words(world.vocabulary_sentences(0)), set()
    for index in range(900):
        session = world.session_of(world.make_dialogue("test", 0, index), "test", index)
        used |= words([text for turn in session.turns for text in (turn.instruction, turn.formatted_instruction, turn.intent)])
        assert all(turn.task_type in TASK_TYPES for turn in session.turns)
    assert used == known and len(known) < 120


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match="train, test"):
        world.make_session("dev", 0, 0)
    with pytest.raises(ValueError, match="count from 0"):
        world.make_session("train", 0, -1)
    with pytest.raises(ValueError, match="positive"):
        world.write_folder(tmp_path, {"train": 0})
