import json
from concurrent.futures import ThreadPoolExecutor

import bagel_cases as golden
import ml_dtypes
import numpy as np
import pytest
from elsewhere import Elsewhere
from safetensors.numpy import load_file, save_file

from editr2_jax.porting import byte_ranges, safetensors_io

TENSORS = {
    "wide": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([[1.5], [-2.0]], ml_dtypes.bfloat16),
    "ids": np.array([1, 2, 3], np.int64),
    "one": np.array(0.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
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
    with pytest.raises(FileNotFoundError, match=r"index.json: 1 of the 2 shards .* not there: model-2.safetensors; copy them here"):
        safetensors_io.open_tensors(tmp_path)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="ema.safetensors"):
        safetensors_io.open_tensors(tmp_path, ("ema",))


def test_a_slice_reads_its_rows_and_no_others(monkeypatch):
    file = safetensors_io.open_tensors(golden.FOLDER, ("ema",))
    name = "language_model.model.embed_tokens.weight"
    whole, tensor, read = load_file(golden.FOLDER / "ema.safetensors")[name], file[name], []
    real = byte_ranges.ByteRanges.read_into
    note = lambda self, at, out, what: (read.append(out.nbytes), real(self, at, out, what))  # noqa: E731
    monkeypatch.setattr(byte_ranges.ByteRanges, "read_into", note)
    row, every = whole[0].nbytes, len(whole)
    for index, rows in ((np.s_[3:5], 2), (7, 1), (-1, 1), (np.s_[3:5, 1:9], 2), (np.s_[5:3], 0), (np.s_[::2], every)):
        read.clear()
        np.testing.assert_array_equal(tensor[index], whole[index])
        assert sum(read) == rows * row
    assert (tensor.shape, tensor.dtype, tensor.nbytes, len(tensor)) == (whole.shape, whole.dtype, whole.nbytes, len(whole))


def test_files_behind_another_kind_of_path_are_read_the_same_way(path):
    ours = safetensors_io.open_tensors(Elsewhere(path.parent))
    assert str(ours) == "gs://bucket/model.safetensors"
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(ours[name], expected)
    with ThreadPoolExecutor(4) as pool:  # one file, many readers
        assert all(pool.map(lambda row: np.array_equal(ours["wide"][row], TENSORS["wide"][row]), [0, 1] * 50))
    shrinking = safetensors_io.open_tensors(Elsewhere(path.parent))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="gs://bucket/model.safetensors: tensor .* ends early"):
        [np.asarray(tensor) for tensor in shrinking.values()]


def test_shards_are_of_about_one_size_and_read_back(tmp_path):
    tensors = {f"t{number}": np.full((number + 1, 8), number, ml_dtypes.bfloat16) for number in range(9)}
    entries = {name: (array.shape, array.dtype, lambda array=array: array) for name, array in tensors.items()}
    digests = {}
    safetensors_io.write_sharded(tmp_path, "ema", entries, 3, digests=digests)
    assert len(list(tmp_path.glob("ema-0000?-of-00003.safetensors"))) == 3
    ours = safetensors_io.open_tensors(tmp_path, ("ema",))
    assert list(ours) == list(tensors)
    assert all(np.array_equal(ours[name], array) and safetensors_io.digest(ours[name]) == digests[name] for name, array in tensors.items())
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert max(sizes) < 2 * min(sizes)


def test_a_digest_tells_type_shape_and_numbers_apart():
    ones = np.ones((2, 3), np.float32)
    others = (ones.T, ones.astype(np.float16), ones * 2, ones[:1])
    assert len({safetensors_io.digest(np.ascontiguousarray(array)) for array in (ones, *others)}) == 5
