import collections
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax import experiment, presets
from editr2_jax.data import pipeline
from editr2_jax.data.images import Buckets
from editr2_jax.data.session_source import SessionFolder
from editr2_jax.models.bagel import config as sizes
from editr2_jax.records import Session, Turn

pytest.importorskip("grain")


def turn(target=None):
    return Turn(
        instruction="i", formatted_instruction="f", task_type="subject_add", bg_consistency=True,
        unchanged_objects=(), available_objects=(), all_objects=("a",), target=target,
    )  # fmt: skip


class Numbers:
    """Session i has a picture full of i; every other one is wide where `mixed`."""

    def __init__(self, count, mixed=False, target=None):
        self.count, self.mixed, self.target, self.reads = count, mixed, target, collections.Counter()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        def read(path):
            self.reads[path] += 1
            return np.full((8, 16 if self.mixed and index % 2 else 8, 3), index, np.uint8)

        return Session(id=str(index), image=f"{index}.png", turns=(turn(self.target),)), read


def names(samples):
    return [(sample.session.id, sample.group, sample.member) for sample in samples]


def take(stream, steps):
    try:
        return [names(next(stream)) for _ in range(steps)]
    finally:
        stream.close()


def test_groups_come_in_a_row_and_are_numbered():
    (step,) = take(pipeline.stream(Numbers(5), seed=0, groups_per_step=2, group_size=3, shuffle=False), 1)
    assert step == [("0", 0, 0), ("0", 0, 1), ("0", 0, 2), ("1", 1, 0), ("1", 1, 1), ("1", 1, 2)]
    (later,) = take(pipeline.stream(Numbers(5), seed=0, groups_per_step=2, group_size=1, shuffle=False, start_step=3), 1)
    assert later == [("1", 6, 0), ("2", 7, 0)]


@given(sessions=st.integers(1, 12), per_step=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_epoch_has_every_session_once(sessions, per_step, seed):
    stream = pipeline.stream(Numbers(sessions), seed=seed, groups_per_step=per_step)
    flat = [sample for step in range(-(-3 * sessions // per_step)) for sample in stream.at(step)]
    assert [sample.group for sample in flat] == list(range(len(flat)))
    for epoch in range(3):
        ids = [sample.session.id for sample in flat[epoch * sessions : (epoch + 1) * sessions]]
        assert sorted(ids, key=int) == [str(i) for i in range(sessions)]


def test_epochs_and_seeds_have_their_own_orders():
    def order(seed, epoch):
        return tuple(sample.session.id for sample in pipeline.stream(Numbers(20), seed=seed, groups_per_step=20).at(epoch))

    orders = {order(seed, epoch) for seed in (0, 1000) for epoch in range(3)}
    assert len(orders) == 6 and order(0, 0) == order(0, 0)


@given(start=st.integers(0, 30), seed=st.integers(0, 9))
def test_a_resumed_stream_goes_on_where_it_was(start, seed):
    stream = pipeline.stream(Numbers(7), seed=seed, groups_per_step=3, group_size=2)
    whole = [names(stream.at(step)) for step in range(start, start + 3)]
    assert take(pipeline.stream(Numbers(7), seed=seed, groups_per_step=3, group_size=2, start_step=start), 3) == whole


def test_the_state_is_the_step_whatever_was_read_ahead():
    stream = pipeline.stream(Numbers(7), seed=1, groups_per_step=2)
    first = [names(next(stream)) for _ in range(4)]
    assert stream.get_state() == stream.step == 4
    stream.set_state(1)
    assert take(stream, 3) == first[1:] and stream.step == 4
    with pytest.raises(ValueError, match="not at -1"):
        stream.set_state(-1)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_all_processes_together_see_the_same_step(processes):
    settings = {"seed": 3, "groups_per_step": 4, "group_size": 2}
    whole = pipeline.stream(Numbers(7), **settings)
    parts = [pipeline.stream(Numbers(7), **settings, process_index=i, process_count=processes) for i in range(processes)]
    for step in range(5):
        shares = [names(part.at(step)) for part in parts]
        assert sum(shares, []) == names(whole.at(step))
        groups = [{group for _, group, _ in share} for share in shares]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 4  # no group lies on two processes


def test_a_picture_is_decoded_once_for_its_group_and_cannot_be_written_to():
    source = Numbers(4)
    samples = pipeline.stream(source, seed=0, groups_per_step=2, group_size=6).at(0)
    assert sum(source.reads.values()) == 2
    assert samples[0].picture is samples[5].picture
    with pytest.raises(ValueError, match="read-only"):
        samples[0].picture[0] = 0


def test_pictures_and_targets_come_in_the_same_bucket():
    buckets = Buckets(stride=16, shapes=((16, 16), (16, 32)))
    source = Numbers(2, mixed=True, target="t")
    step = pipeline.stream(source, seed=0, groups_per_step=2, shuffle=False, buckets=buckets, targets=True).at(0)
    assert [sample.picture.shape for sample in step] == [(16, 16, 3), (16, 32, 3)]
    assert [[target.shape for target in sample.targets] for sample in step] == [[(16, 16, 3)], [(16, 32, 3)]]
    assert step[1].picture[0, 0, 0] == 1
    unknown = pipeline.stream(Numbers(2), seed=0, groups_per_step=2, targets=True).at(0)
    assert unknown[0].targets == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups_per_step": 3, "process_count": 2}, "groups_per_step is 3 for 2 processes; give a positive multiple of 2"),
        ({"groups_per_step": 0}, "groups_per_step is 0"),
        ({"groups_per_step": 2, "process_index": 2, "process_count": 2}, r"give one in \[0, 2\)"),
        ({"groups_per_step": 2, "group_size": 0}, "group_size is 0"),
        ({"groups_per_step": 2, "start_step": -1}, "not at -1"),
    ],
)
def test_numbers_that_do_not_fit_together(settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline.stream(Numbers(3), seed=0, **settings)


def test_a_picture_that_breaks_later_stops_the_stream_with_its_name(folder):
    sessions = SessionFolder(folder.sessions(3), "train")
    path = folder.path / "images/001.png"
    path.write_bytes(path.read_bytes()[:80])
    stream = pipeline.stream(sessions, seed=0, groups_per_step=1, shuffle=False)
    assert names(next(stream)) == [("train/000", 0, 0)]
    with pytest.raises(ValueError, match=r"001\.png is damaged or incomplete"):
        next(stream)
    assert stream.step == 1
    with pytest.raises(ValueError, match=r"001\.png is damaged"):  # not step 2 in its place
        next(stream)
    folder.picture("images/001.png")
    assert [names(next(stream))[0][0] for _ in range(2)] == ["train/001", "train/002"]
    stream.close()


def test_training_says_how_many_sessions_it_leaves_out(folder, new_record):
    folder.sessions(3)
    bad = new_record(2, formatted_instruction=["x", "Change the color of [a] to [red]", "y"])
    folder.lines(new_record(0), new_record(1), bad)
    config, model, said = presets.edit_r2(), SimpleNamespace(config=sizes.tiny()), []
    config.recipe = "autoencoder"
    stream = experiment.training_stream(config, model, folder.path, 0, say=said.append)
    assert {sample.session.id for sample in stream.at(0)} == {"train/000", "train/001"}
    assert said == [f"1 of 3 training sessions have an invalid annotation and are left out; `data check {folder.path}` names them."]
    config.data.drop_invalid = False
    experiment.training_stream(config, model, folder.path, 0, say=said.append)
    assert len(said) == 1


def test_a_source_of_something_else_than_pictures():
    class Floats(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], lambda path: np.zeros((8, 8, 3))

    with pytest.raises(ValueError, match=r"Session 0: a picture is float64\[8, 8, 3\]; give uint8"):
        pipeline.stream(Floats(1), seed=0, groups_per_step=1).at(0)


def test_once_sees_every_session_once_and_knows_its_padding():
    batches = list(pipeline.once(Numbers(5), batch_size=2))
    assert [batch.real for batch in batches] == [2, 2, 1]
    assert [[sample.session.id for sample in batch.samples] for batch in batches] == [["0", "1"], ["2", "3"], ["4", "4"]]


def test_once_keeps_sizes_apart():
    batches = list(pipeline.once(Numbers(5, mixed=True), batch_size=2))
    assert [[sample.group for sample in batch.samples[: batch.real]] for batch in batches] == [[0, 2], [1, 3], [4]]
    assert all(len({sample.picture.shape for sample in batch.samples}) == 1 for batch in batches)


@pytest.mark.parametrize("processes", [2, 4])
def test_once_on_several_processes(processes):
    whole = list(pipeline.once(Numbers(6), batch_size=4))
    parts = [list(pipeline.once(Numbers(6), batch_size=4, process_index=i, process_count=processes)) for i in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sum((names(share.samples) for share in shares), []) == names(batch.samples)
        assert sum(share.real for share in shares) == batch.real
        assert sum((names(share.samples[: share.real]) for share in shares), []) == names(batch.samples[: batch.real])
