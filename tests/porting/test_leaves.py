"""Blocks of parameters that are still in a file: each is what cutting the whole would give, and no more is read than it takes."""

import itertools
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.porting import leaves

FORMS = {"same": None, "linear": (1, 0), "conv": (2, 3, 1, 0)}
SHAPES = {"same": (7, 5), "linear": (7, 5), "conv": (6, 5, 3, 2), "pointwise": (7, 5, 1, 1)}


def stack(form: str, dtype=np.float32, layers: int = 3):
    """A stacked leaf, the same as one array, and the tensors it lies in."""
    rng = np.random.default_rng(0)
    tensors = {f"t{layer}": rng.normal(size=SHAPES[form]).astype(dtype) for layer in range(layers)}
    axes = (1, 0) if form == "pointwise" else FORMS[form]
    flat = [tensor.reshape(tensor.shape[:2]) if form == "pointwise" else tensor for tensor in tensors.values()]
    array = np.stack([tensor if axes is None else tensor.transpose(axes) for tensor in flat])
    leaf = leaves.Turned(list(tensors), tensors, array.shape, dtype, axes=axes, stacked=True, unsound=leaves.Unsound())
    return leaf, array, tensors


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Several reads and several tiles even in tensors of a few numbers."""
    monkeypatch.setattr(leaves, "_READ", 48)
    monkeypatch.setattr(leaves, "_TILE", 2)


@pytest.mark.parametrize("form", list(SHAPES))
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_block_is_the_cut_of_the_whole(form, dtype):
    leaf, array, _ = stack(form, dtype)
    np.testing.assert_array_equal(leaves.whole(leaf), array)
    indices = [tuple(slice(length // 3, length - length // 4) for length in array.shape), tuple(slice(0, 1) for _ in array.shape)]
    for block, index in zip(leaf.blocks(indices), indices, strict=True):
        assert block.dtype == dtype
        np.testing.assert_array_equal(block, array[index])


@given(st.lists(st.tuples(*[st.tuples(st.integers(0, length), st.integers(0, length)) for length in (3, 5, 7)]), min_size=1, max_size=4))
def test_any_blocks_at_once_are_right(ends):
    leaf, array, _ = stack("linear")
    indices = [tuple(slice(min(pair), max(pair)) for pair in axes) for axes in ends]
    for block, index in zip(leaf.blocks(indices), indices, strict=True):
        np.testing.assert_array_equal(block, array[index])


class Counted:
    """A tensor that notes which rows are read."""

    def __init__(self, array, rows):
        self.array, self.shape, self.dtype, self.size, self._rows = array, array.shape, array.dtype, array.size, rows

    def __getitem__(self, index):
        self._rows.extend(range(index.start, min(index.stop, len(self.array))))
        return self.array[index]


def test_only_rows_that_somebody_wants_are_read_and_each_once():
    leaf, array, tensors = stack("linear")
    read = {key: [] for key in tensors}
    leaf._tensors = {key: Counted(tensor, read[key]) for key, tensor in tensors.items()}
    cut_by_columns = [(slice(1, 2), slice(begin, begin + 1), slice(2, 6)) for begin in range(5)]  # five devices along the tensor's columns
    for block, index in zip(leaf.blocks(cut_by_columns), cut_by_columns, strict=True):
        np.testing.assert_array_equal(block, array[index])
    assert sorted(read["t1"]) == [2, 3, 4, 5] and not read["t0"] and not read["t2"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_numbers_that_are_not_finite_are_counted_once(dtype):
    leaf, _, tensors = stack("same", dtype)
    tensors["t1"][4, 1] = np.nan
    if dtype is not ml_dtypes.float8_e5m2:
        tensors["t1"][0, 0], tensors["t1"][6, 3] = np.inf, -np.inf
    leaf._unsound = leaves.Unsound()
    whole = tuple(slice(0, length) for length in leaf.shape)
    leaf.blocks([whole, whole])
    leaf.blocks([whole])
    assert leaf._unsound.listed() == [f"t1 ({1 if dtype is ml_dtypes.float8_e5m2 else 3} numbers)"]


def test_bits_stay_as_they_are_and_a_cast_is_the_usual_one():
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    out = np.empty_like(every)
    leaves.copy(every, out)
    assert np.array_equal(out.view(np.uint16), every.view(np.uint16)), "NaN payloads included"
    single = np.linspace(-3, 3, 99, dtype=np.float32)
    out = np.empty(99, ml_dtypes.bfloat16)
    leaves.copy(single, out)
    np.testing.assert_array_equal(out, single.astype(ml_dtypes.bfloat16))


def test_a_copy_is_read_once_and_put_on_every_device():
    leaf, array, tensors = stack("same")
    read = {key: [] for key in tensors}
    leaf._tensors = {key: Counted(tensor, read[key]) for key, tensor in tensors.items()}
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    placed = leaves.place(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    np.testing.assert_array_equal(placed, array)
    assert all(sorted(rows) == list(range(7)) for rows in read.values())


def test_work_in_parallel_is_all_done_and_an_error_comes_out():
    done, lock = [], threading.Lock()

    def work(number):
        with lock:
            done.append(number)
        if number == 7:
            raise ValueError("seven")

    leaves.in_parallel(work, list(range(5)))
    assert sorted(done) == list(range(5))
    with pytest.raises(ValueError, match="seven"):
        leaves.in_parallel(work, list(range(10)))


def test_a_made_table_gives_its_blocks():
    made = leaves.Made(np.arange(12).reshape(3, 4), jnp.bfloat16)
    (block,) = made.blocks([(slice(1, 3), slice(0, 2))])
    assert block.dtype == jnp.bfloat16
    np.testing.assert_array_equal(block.astype(int), [[4, 5], [8, 9]])
    assert list(itertools.chain(made.shape)) == [3, 4]


def test_blocks_that_share_nothing_are_asked_for_one_by_one():
    asked = []

    class Apart:
        stacked, together, shape, dtype = False, False, (4, 2), np.dtype(np.float32)

        def blocks(self, indices):
            asked.append(len(indices))
            return [np.ones([part.indices(length)[1] - part.indices(length)[0] for part, length in zip(index, self.shape, strict=True)],
                            np.float32) for index in indices]  # fmt: skip

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    placed = leaves.place(Apart(), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    assert asked == [1] * len(jax.devices()) and placed.shape == (4, 2)
