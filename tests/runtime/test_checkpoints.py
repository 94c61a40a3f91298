"""Checkpoints: what is restored is what was saved, whole or not at all."""

import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from editr2_jax.runtime import checkpoints, keys
from editr2_jax.runtime.checkpoints import Checkpoints


def state(value=1.0):
    """A tree of every kind of leaf a run has."""
    params = {"decoder": {"kernel": jnp.full((4, 3), value, jnp.bfloat16), "bias": jnp.arange(3.0) * value}}
    return {
        "params": params,
        "moments": optax.adamw(1e-3).init(params),
        "key": keys.at(0, "rollout", 5),
        "counts": np.arange(5, dtype=np.int64),
        "step": 7,
        "pair": (jnp.float32(value), [1.5]),
    }


def assert_same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


def test_everything_comes_back_bit_for_bit(tmp_path):
    meta = {"next_index": 12, "fingerprint": "abc", "best": None}
    with Checkpoints(tmp_path) as saver:
        saver.save(3, state(), meta)
        saver.wait()
        assert saver.meta() == meta
    with Checkpoints(tmp_path) as saver:
        assert saver.latest_step() == 3
        arrays, got = saver.restore(state(0.0))
    assert_same(arrays, state())
    assert got == meta and isinstance(arrays["moments"], tuple) and arrays["params"]["decoder"]["kernel"].dtype == ml_dtypes.bfloat16


def test_shapes_are_enough_of_a_target(tmp_path):
    with Checkpoints(tmp_path) as saver:
        saver.save(0, {"w": jnp.arange(6.0).reshape(2, 3)}, {})
        arrays, _ = saver.restore({"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    np.testing.assert_array_equal(arrays["w"], np.arange(6.0).reshape(2, 3))


def test_buffers_may_be_donated_after_save(tmp_path):
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    x = jnp.arange(1000.0)
    with Checkpoints(tmp_path, keep=5) as saver:
        for step in range(3):
            saver.save(step, {"x": x}, {})
            x = double(x)
        for step in range(3):
            np.testing.assert_array_equal(saver.restore({"x": x}, step)[0]["x"], np.arange(1000.0) * 2**step)


def test_old_steps_go_and_milestones_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2, keep_every=4) as saver:
        for step in range(7):
            saver.save(step, {"x": jnp.zeros(1)}, {})
        saver.wait()
        assert saver.steps() == [0, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and any(path.iterdir())) == ["0", "4", "5", "6"]
    with pytest.raises(ValueError, match="keep_every=-1.*or 0 for none"):
        Checkpoints(tmp_path, keep_every=-1)


def test_a_half_deleted_checkpoint_is_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)  # killed before it got anywhere
    with Checkpoints(tmp_path, keep=1) as saver:
        for step in range(3):
            saver.save(step, {"x": jnp.zeros(1)}, {})
        saver.wait()
        assert saver.steps() == [2]
    assert sorted(path.name for path in (tmp_path / ".deleted").iterdir()) == ["0", "1"]
    monkeypatch.undo()
    with Checkpoints(tmp_path, keep=1) as saver:
        assert saver.steps() == [2] and not list((tmp_path / ".deleted").iterdir())


def test_a_step_is_not_saved_twice(tmp_path):
    with Checkpoints(tmp_path) as saver:
        saver.save(4, {"x": jnp.zeros(1)}, {})
        saver.wait()
        for step in (4, 3):
            with pytest.raises(ValueError, match=f"step {step} was not saved, the latest there is 4"):
                saver.save(step, {"x": jnp.zeros(1)}, {})


def test_another_tree_is_refused_leaf_by_leaf(tmp_path, capfd):
    with Checkpoints(tmp_path) as saver:
        saver.save(1, {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4), "gone": jnp.zeros(1)}, "n": 1}, {})
        target = {"a": jnp.zeros((3, 2)), "b": {"c": jnp.zeros(4, jnp.bfloat16), "new": jnp.zeros(1)}, "n": 1}
        with pytest.raises(ValueError) as refusal:
            saver.restore(target)
        message = str(refusal.value)
        assert str(tmp_path / "1") in message and "1 leaves missing in the checkpoint: b/new float32[1]." in message
        assert "1 leaves not wanted by this run: b/gone float32[1]." in message
        assert "a is float32[2, 3], wanted float32[3, 2]" in message and "b/c is float32[4], wanted bfloat16[4]" in message
        saver.restore({"a": jnp.ones((2, 3)), "b": {"c": jnp.zeros(4), "gone": jnp.zeros(1)}, "n": 1})
    assert "Traceback" not in capfd.readouterr().err


def test_a_long_list_of_differences_is_cut():
    wanted = checkpoints.layout({f"leaf_{i:02d}": jnp.zeros(1) for i in range(20)})
    assert "20 leaves missing in the checkpoint: leaf_00 float32[1]" in checkpoints._mismatch({}, wanted)
    assert "and 8 more." in checkpoints._mismatch({}, wanted)


def test_nothing_there_is_said(tmp_path):
    with Checkpoints(tmp_path) as saver:
        assert saver.latest_step() is None and saver.steps() == []
        with pytest.raises(ValueError, match="there is no checkpoint here"):
            saver.restore({})
        saver.save(2, {"x": jnp.zeros(1)}, {})
        with pytest.raises(ValueError, match="there is no step 9; there are 2"):
            saver.restore({"x": jnp.zeros(1)}, 9)


def test_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write here"):
        Checkpoints(tmp_path / "file" / "checkpoints")


SAVE_FOR_EVER = """
import sys, jax.numpy as jnp
from editr2_jax.runtime.checkpoints import Checkpoints
with Checkpoints(sys.argv[1], keep=3) as saver:
    for step in range(10000):
        saver.save(step, {f"leaf_{i}": jnp.full(20000, float(step)) for i in range(20)}, {"step": step})
        print(step, flush=True)
"""


@pytest.mark.parametrize("patience", [0.0, 0.013, 0.031])
def test_a_kill_leaves_only_whole_checkpoints(tmp_path, patience):
    writer = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        while writer.stdout.readline().strip() != "3":
            assert writer.poll() is None
        time.sleep(patience)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    target = {f"leaf_{i}": jnp.zeros(20000) for i in range(20)}
    with Checkpoints(tmp_path, keep=3) as saver:
        assert saver.latest_step() >= 2
        for step in saver.steps():
            arrays, meta = saver.restore(target, step)
            assert meta == {"step": step} and all((np.asarray(leaf) == step).all() for leaf in arrays.values())
        again = saver.latest_step() + 1
        saver.save(again, target, {"step": again})
        saver.wait()
        assert saver.latest_step() == again
        assert not list(tmp_path.glob("*tmp*"))
