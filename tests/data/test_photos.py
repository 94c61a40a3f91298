import pytest

from editr2_jax.data import check, instruction_grammar, photos, pipeline
from editr2_jax.data.images import Buckets
from editr2_jax.data.session_source import SessionFolder

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    photos.write_folder(path)
    return path


def test_the_folder_is_sound(folder):
    report = check.check(folder)
    assert report["problems"] == 0, check.check_text(report)
    sessions = SessionFolder(folder, "train").sessions
    assert len(sessions) >= 8 and all(len(session.turns) == 3 for session in sessions)
    turns = [turn for session in sessions for turn in session.turns]
    assert len({turn.task_type for turn in turns}) == 9
    assert all(instruction_grammar.parse(turn.formatted_instruction, turn.task_type) for turn in turns)


def test_the_photographs_have_many_shapes_and_fill_their_buckets(folder):
    buckets = Buckets(max_size=64, min_size=32, stride=16)
    samples = [sample for batch in pipeline.once(SessionFolder(folder, "train"), batch_size=1, buckets=buckets) for sample in batch.samples]
    shapes = {sample.picture.shape for sample in samples}
    assert len(shapes) >= 4 and all(max(shape[:2]) <= 64 and shape[0] % 16 == shape[1] % 16 == 0 for shape in shapes)


def test_nothing_is_overwritten(folder):
    with pytest.raises(ValueError, match=r"train_metadata\.jsonl is already there"):
        photos.write_folder(folder)


def test_a_split_is_no_path(tmp_path):
    with pytest.raises(ValueError, match=r"--split is '\.\./evil'; it becomes the name of a file"):
        photos.write_folder(tmp_path / "out", "../evil")
    assert not list(tmp_path.iterdir())
