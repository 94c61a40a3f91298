"""Pointers name whole checkpoints, keep them, and lead back to them."""

import json
import math
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.runtime import checkpoints, pointers
from editr2_jax.runtime.checkpoints import Checkpoints, DamagedCheckpoint

TARGET = {"x": jnp.zeros(3), "more": {"y": jnp.zeros(2)}}


def tree(step):
    return {"x": jnp.full(3, float(step)), "more": {"y": jnp.full(2, -float(step))}}


def save(saver, *steps):
    for step in steps:
        saver.save(step, tree(step), {"step": step})


def on_disk(directory):
    return {name: record["step"] for name, record in pointers.read(directory).items()}


def folders(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def damage(directory, step):
    for path in (directory / str(step) / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def test_a_step_that_a_pointer_names_stays_until_it_moves_on(tmp_path):
    with Checkpoints(tmp_path, keep=1) as saver:
        save(saver, 1)
        saver.confirm(1)  # still under way, perhaps
        assert saver.report(1, 0.5, metric="reward")
        save(saver, 2, 3)
        assert saver.steps() == folders(tmp_path) == [1, 3] and on_disk(tmp_path) == {"latest": 3, "healthy": 1, "best": 1}
        saver.confirm(3)
        assert saver.report(3, 0.5, metric="reward") is False and saver.report(3, math.nan, metric="reward") is False
        save(saver, 4)
        assert saver.report(4, 0.75, metric="reward")
        save(saver, 5)
        assert saver.steps() == folders(tmp_path) == [3, 4, 5] and on_disk(tmp_path) == {"latest": 5, "healthy": 3, "best": 4}
        for name, step in {"healthy": 3, "best": 4, "latest": 5, None: 5}.items():
            arrays, meta = saver.restore(TARGET, name)
            assert meta == {"step": step} == saver.meta(name) and saver.step_at(name) == step and arrays["x"][0] == step
        assert saver.pointer("best") == {"step": 4, "metric": "reward", "value": 0.75}
        saver.confirm(4)
        saver.confirm(3)  # an older one says nothing new
        assert saver.pointer("healthy") == {"step": 4}
        assert saver.report(5, 0.1, metric="another") and on_disk(tmp_path)["best"] == 5


def test_pointers_outlive_the_process_and_follow_what_is_there(tmp_path):
    with Checkpoints(tmp_path, keep=3) as saver:
        save(saver, 1, 2, 3)
        saver.confirm(2)
        saver.report(3, 1.0, metric="reward")
    (tmp_path / "3").rename(tmp_path.parent / "elsewhere")
    with Checkpoints(tmp_path, read_only=True) as reader:
        with pytest.raises(ValueError, match="there is no step 3; there are 1, 2"):
            reader.restore(TARGET, "best")
        assert reader.restore(TARGET, "healthy")[1] == {"step": 2}
    with Checkpoints(tmp_path, keep=3) as saver:
        assert on_disk(tmp_path) == {"latest": 2, "healthy": 2} and saver.pointer("best") is None
        with pytest.raises(
            ValueError, match="no evaluation has named a best one yet, so there is no best checkpoint; .* one of the steps 1, 2"
        ):
            saver.restore(TARGET, "best")
        with pytest.raises(ValueError, match="no step is called 'bets'; ask for latest, healthy, best, or for one of the steps 1, 2"):
            saver.restore(TARGET, "bets")
        for call in (lambda: saver.confirm(7), lambda: saver.report(7, 1.0, metric="reward")):
            with pytest.raises(ValueError, match="there is no step 7; there are 1, 2"):
                call()


def test_a_reader_sees_a_run_go_on(tmp_path):
    with Checkpoints(tmp_path, keep=1) as saver:
        save(saver, 1)
        saver.wait()
        with Checkpoints(tmp_path, read_only=True) as reader:
            save(saver, 2)
            saver.confirm(2)
            saver.wait()
            assert reader.restore(TARGET, "healthy")[1] == {"step": 2} and reader.pointer("latest") == {"step": 2}


def test_a_file_that_is_no_pointer_is_named(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps([4]))
    with pytest.raises(ValueError, match="best.json: not a pointer to a checkpoint.*remove the file"):
        Checkpoints(tmp_path)


def test_a_pointer_is_not_ahead_of_its_step(tmp_path, monkeypatch):
    """The save fails: nothing points to it, and what pointed elsewhere still does."""
    with Checkpoints(tmp_path, keep=1) as saver:
        save(saver, 1)
        saver.confirm(1)
        saver.wait()
        monkeypatch.setattr(saver, "_finish", mock.Mock(side_effect=OSError("disk full")))
        save(saver, 2)
        saver.confirm(2)
        assert on_disk(tmp_path) == {"latest": 1, "healthy": 1}  # not yet
        with pytest.raises(OSError, match="disk full"):
            saver.wait()
        monkeypatch.undo()
        assert saver.pointer("healthy") == {"step": 1} and saver.steps() == [1] and 1 in folders(tmp_path)


def test_some_of_the_names_are_enough(tmp_path):
    with Checkpoints(tmp_path) as saver:
        save(saver, 1)
        arrays, meta = saver.restore({"more": {"y": jnp.zeros(2)}}, partial=True)
        np.testing.assert_array_equal(arrays["more"]["y"], [-1.0, -1.0])
        assert set(arrays) == {"more"} and meta == {"step": 1}
        with pytest.raises(ValueError, match="1 leaves missing in the checkpoint: z float32"):
            saver.restore({"z": jnp.zeros(1)}, partial=True)
        with pytest.raises(ValueError, match="1 leaves not wanted by this run: more/y"):
            saver.restore({"more": {}, "x": jnp.zeros(3)}, partial=True)


def test_a_damaged_checkpoint_is_named_and_the_older_ones_are_told(tmp_path, capfd):
    with Checkpoints(tmp_path, keep=5) as saver:
        save(saver, 1, 2, 3)
        saver.confirm(3)
        saver.wait()
        damage(tmp_path, 3)
        with pytest.raises(DamagedCheckpoint, match=r"3: this checkpoint cannot be read .*\(there: 1, 2\)"):
            saver.restore(TARGET)
        assert saver.restore(TARGET, 2)[1] == {"step": 2}
    capfd.readouterr()


@pytest.mark.parametrize("what", ["flipped", "cut", "gone"])
def test_damage_that_the_arrays_do_not_show_is_found(tmp_path, what):
    with Checkpoints(tmp_path) as saver:
        saver.save(1, {"x": np.random.default_rng(0).standard_normal(5000)}, {})
        saver.wait()
        saver.restore({"x": np.zeros(5000)})
        file = max((path for path in (tmp_path / "1" / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        {"flipped": lambda: file.write_bytes(content), "cut": lambda: file.write_bytes(content[:-1]), "gone": file.unlink}[what]()
        said = {"flipped": "has other bytes than were written", "cut": "bytes instead of", "gone": "is missing"}[what]
        with pytest.raises(DamagedCheckpoint, match=f"1: this checkpoint cannot be read .arrays/.* {said}"):
            saver.restore({"x": np.zeros(5000)})
        (tmp_path / "1" / "digests.json").write_text("{")
        with pytest.raises(DamagedCheckpoint, match="digests.json:1: not JSON"):
            saver.restore({"x": np.zeros(5000)})


steps = st.lists(st.integers(0, 40), unique=True, max_size=8).map(sorted)


@given(steps, st.integers(1, 3), st.sampled_from([0, 1, 5]), st.sets(st.integers(0, 40), max_size=3))
def test_what_is_kept_and_nothing_else(there, keep, keep_every, pinned):
    left = pointers.kept(there, keep=keep, keep_every=keep_every, pinned=pinned)
    assert left == sorted(left) and set(left) <= set(there) and set(there[-keep:]) <= set(left) and pinned & set(there) <= set(left)
    for step in set(there) - set(left):
        assert step not in pinned and not (keep_every and step % keep_every == 0)
    assert pointers.kept(left, keep=keep, keep_every=keep_every, pinned=pinned) == left


def test_local_arrays_are_refused_where_there_are_several_processes(monkeypatch):
    monkeypatch.setattr(checkpoints.jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="step 4: 1 arrays belong to process 0 alone: a/x.*give numpy arrays"):
        checkpoints._refuse_local({"a": {"x": jnp.zeros(2)}, "n": np.int32(3), "i": 4}, 4)
