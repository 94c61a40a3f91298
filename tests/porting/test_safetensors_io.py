import json

import bagel_cases as golden
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from editr2_jax.porting import safetensors_io

TENSORS = {
    "wide": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([[1.5], [-2.0]], ml_dtypes.bfloat16),
    "ids": np.array([1, 2, 3], np.int64),
}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_reads_what_the_official_writer_wrote(path):
    ours = safetensors_io.open_tensors(path)
    assert set(ours) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert ours[name].dtype == expected.dtype
        np.testing.assert_array_equal(ours[name], expected)


def test_the_official_reader_reads_what_we_write(tmp_path):
    entries = {name: (array.shape, array.dtype, lambda array=array: array) for name, array in TENSORS.items()}
    safetensors_io.write(tmp_path / "ours.safetensors", entries)
    theirs = load_file(tmp_path / "ours.safetensors")
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(theirs[name], expected)
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_file_cut_short_is_refused_by_name(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="model.safetensors.*(cut short|not a whole).*copy it again"):
        safetensors_io.open_tensors(path)


def test_a_file_with_bytes_to_spare_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0" * 4)
    with pytest.raises(ValueError, match="no tensor claims"):
        safetensors_io.open_tensors(path)


def test_damaged_headers_are_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"x" + whole[9:])
    with pytest.raises(ValueError, match="header is damaged"):
        safetensors_io.open_tensors(path)
    path.write_bytes(whole.replace(b'"shape":[2,3]', b'"shape":[2,4]'))
    with pytest.raises(ValueError, match="wide.*takes 32 bytes"):
        safetensors_io.open_tensors(path)


def test_a_git_lfs_pointer_is_recognised(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        safetensors_io.open_tensors(path)


def _shard(folder, weight_map=None):
    save_file({"a": np.zeros(2)}, folder / "model-1.safetensors")
    save_file({"b": np.ones(3)}, folder / "model-2.safetensors")
    weight_map = weight_map or {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_through_their_index(tmp_path):
    _shard(tmp_path)
    ours = safetensors_io.open_tensors(tmp_path)
    assert sorted(ours) == ["a", "b"] and ours["b"].shape == (3,)


def test_an_index_that_lies_is_refused(tmp_path):
    _shard(tmp_path, {"a": "model-1.safetensors", "c": "model-2.safetensors"})
    with pytest.raises(ValueError, match=r"c \(model-2.*b \(model-2"):
        safetensors_io.open_tensors(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-2"):
        safetensors_io.open_tensors(tmp_path)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="ema.safetensors"):
        safetensors_io.open_tensors(tmp_path, ("ema",))


def test_slices_of_the_recorded_checkpoint_are_views():
    file = safetensors_io.open_tensors(golden.FOLDER, ("ema",))
    name = "language_model.model.embed_tokens.weight"
    tensor = file[name]
    assert isinstance(tensor.base, np.ndarray) and not tensor.flags.writeable
    np.testing.assert_array_equal(tensor[3:5], load_file(golden.FOLDER / "ema.safetensors")[name][3:5])
