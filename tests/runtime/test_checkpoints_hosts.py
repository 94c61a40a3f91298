"""Checkpoints across meshes, hosts and kills: each case runs in processes of its own, which see simulated devices."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from editr2_jax.runtime import pointers
from editr2_jax.runtime.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

COMMON = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from editr2_jax.runtime.checkpoints import Checkpoints, DamagedCheckpoint

def mesh_of(*shape):
    return jax.make_mesh(shape, ("data", "fsdp")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))

def tree_on(mesh, *spec, scale=1):
    # Made by a compiled function: every process owns its part, whatever the number of processes.
    make = lambda: {"w": scale * jnp.arange(64.0).reshape(16, 4), "n": jnp.float32(scale * 7), "key": jax.random.key(3)}
    place = {"w": NamedSharding(mesh, P(*spec)), "n": NamedSharding(mesh, P()), "key": NamedSharding(mesh, P())}
    return jax.jit(make, out_shardings=place)() | {"step": np.int32(5)}

def target_of(tree):
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x
    return jax.tree.map(describe, tree)

def check(got, mesh, *spec):
    want = NamedSharding(mesh, P(*spec))
    assert got["w"].sharding.is_equivalent_to(want, 2), (got["w"].sharding, want)
    for shard in got["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, np.arange(64.0).reshape(16, 4)[shard.index])
    assert float(got["n"].addressable_data(0)) == 7 and int(got["step"]) == 5
    np.testing.assert_array_equal(jax.random.key_data(got["key"]).addressable_data(0), jax.random.key_data(jax.random.key(3)))
"""

ONE_PROCESS = """
folder, act, *shape = sys.argv[1:]
mesh, spec = mesh_of(*map(int, shape)), (("data", "fsdp") if len(shape) == 2 else ("data",))
with Checkpoints(folder) as saver:
    if act == "save":
        saver.save(5, tree_on(mesh, *spec), {"step": 5})
    else:
        got, meta = saver.restore(target_of(tree_on(mesh, *spec, scale=0)))
        check(got, mesh, *spec)
        assert meta == {"step": 5}
print("done")
"""

MANY_PROCESSES = """
index, count, port, folder, act = sys.argv[1:]
jax.distributed.initialize(coordinator_address=f"localhost:{port}", num_processes=int(count), process_id=int(index))
mesh = mesh_of(jax.device_count())
with Checkpoints(folder, keep=1) as saver:
    if act == "save":
        for step in (3, 4, 5):
            saver.save(step, tree_on(mesh, "data", scale=1), {"step": step})
            if step == 3:
                saver.confirm(3)
                saver.report(3, 0.5, metric="reward")
        assert saver.latest_step() == 5 and saver.steps() == [3, 5], saver.steps()
        assert saver.pointer("best") == {"step": 3, "metric": "reward", "value": 0.5}
        try:
            saver.save(6, {"local": jnp.zeros(3)}, {})
            raise AssertionError("a local array was taken")
        except ValueError as error:
            assert f"1 arrays belong to process {index} alone: local" in str(error), error
        got, _ = saver.restore(target_of(tree_on(mesh, "data", scale=0)), "healthy")
        check(got, mesh, "data")
    elif act == "restore":
        got, meta = saver.restore(target_of(tree_on(mesh, "data", scale=0)))
        check(got, mesh, "data")
        assert meta == {"step": 5} and saver.steps() == [5]
    elif act == "damaged":
        target = target_of(tree_on(mesh, "data", scale=0))
        try:
            saver.restore(target)
            raise AssertionError("a damaged checkpoint was taken")
        except DamagedCheckpoint as error:
            assert "5: this checkpoint cannot be read" in str(error) and "(there: 3)" in str(error), error
        got, meta = saver.restore(target, 3)
        check(got, mesh, "data")
        assert meta == {"step": 3} and saver.steps() == [3, 5]
    else:
        step = saver.latest_step() or 0
        while True:
            step += 1
            saver.save(step, tree_on(mesh, "data", scale=step), {"step": step})
            saver.confirm(step)
            print(step, flush=True)
jax.distributed.shutdown()
print("done")
"""


def start(script, *arguments, devices):
    """A process of its own with so many simulated devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMMON + script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    """Waits for all; whoever has not ended in time is killed, and then nobody has."""
    try:
        told = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, errors) in zip(processes, told, strict=True):
        assert process.returncode == 0 and out.endswith("done\n"), errors[-4000:]


def start_together(folder, act, *, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(MANY_PROCESSES, index, processes, port, folder, act, devices=2) for index in range(processes)]


def together(folder, act, *, processes):
    finish(*start_together(folder, act, processes=processes))


def test_a_checkpoint_is_restored_onto_other_meshes(tmp_path):
    finish(start(ONE_PROCESS, tmp_path, "save", 8, devices=8))
    finish(start(ONE_PROCESS, tmp_path, "restore", 2, 4, devices=8), start(ONE_PROCESS, tmp_path, "restore", 1, devices=1))


def test_two_processes_save_and_one_goes_on(tmp_path):
    together(tmp_path, "save", processes=2)
    assert {name: record["step"] for name, record in pointers.read(tmp_path).items()} == {"latest": 5, "healthy": 3, "best": 3}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == ["3", "5"]
    finish(start(ONE_PROCESS, tmp_path, "restore", 2, devices=2), start(ONE_PROCESS, tmp_path, "restore", 1, devices=1))


def test_two_processes_agree_on_what_is_damaged(tmp_path):
    together(tmp_path, "save", processes=2)
    file = max((path for path in (tmp_path / "5" / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    together(tmp_path, "damaged", processes=2)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_while_all_save_leaves_whole_checkpoints(tmp_path, victim):
    chance, latest = random.Random(victim), 0
    for _ in range(2):
        processes = start_together(tmp_path, "for ever", processes=2)
        try:
            begun, wanted = 0, chance.randrange(2, 5)
            while begun < wanted:
                line = processes[victim].stdout.readline()  # some are the network's
                assert line, processes[victim].stderr.read()
                begun += line.strip().isdecimal()
            time.sleep(chance.uniform(0.0, 0.05))
            processes[victim].kill()
            time.sleep(0.3)  # the other one waits for it, or ends
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        listed = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())
        assert listed and listed[-1] > latest and all(record["step"] in listed for record in pointers.read(tmp_path).values())
        latest = listed[-1]
        with Checkpoints(tmp_path, read_only=True) as reader:
            for step in listed:
                target = {"w": np.zeros((16, 4), np.float32), "n": np.zeros((), np.float32)}
                arrays, meta = reader.restore(target, step, partial=True)
                np.testing.assert_array_equal(arrays["w"], step * np.arange(64.0).reshape(16, 4))
                assert meta == {"step": step} and arrays["n"] == 7 * step


def test_one_process_saves_and_two_go_on(tmp_path):
    finish(start(ONE_PROCESS, tmp_path, "save", 2, devices=2))
    together(tmp_path, "restore", processes=2)


# Kills ---------------------------------------------------------------------------------------------------------------------------

SAVE_FOR_EVER = """
import hashlib
folder = sys.argv[1]
print("open", flush=True)
with Checkpoints(folder, keep=2, keep_every=7) as saver:
    step = (saver.latest_step() or 0) + 1
    while True:
        noise = np.random.default_rng(step).standard_normal((4, 1 << 18))  # 8 MB that do not compress
        digest = hashlib.sha256(noise.tobytes()).hexdigest()
        arrays = {f"leaf_{i}": row for i, row in enumerate(noise)} | {"step": step}
        saver.save(step, arrays, {"sha256": digest})
        print(f"began {step}", flush=True)
        if step % 2:
            saver.confirm(step)
        if step % 3 == 0:
            saver.report(step, (step * 7) % 11, metric="reward")
        step += 1
"""


def check_everything(folder, newest):
    """What a killed process left: whole steps alone, pointers to whole steps, and nothing lost that had been finished."""
    listed = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    for name, record in pointers.read(folder).items():  # before anybody repairs anything
        assert record["step"] in listed, (name, record, listed)
    with Checkpoints(folder, read_only=True) as reader:
        assert reader.steps() == listed and (reader.latest_step() or 0) >= newest, (listed, newest)
        for step in listed:
            target = {f"leaf_{i}": np.zeros(1 << 18) for i in range(4)} | {"step": 0}
            arrays, meta = reader.restore(target, step)
            noise = np.stack([np.asarray(arrays[f"leaf_{i}"]) for i in range(4)])
            assert hashlib.sha256(noise.tobytes()).hexdigest() == meta["sha256"] and arrays["step"] == step
            np.testing.assert_array_equal(noise, np.random.default_rng(step).standard_normal((4, 1 << 18)))
    return listed


def test_kills_at_random_moments_leave_whole_checkpoints(tmp_path):
    """EDITR2_KILLS says how often; 20 shows more than 3 and takes longer."""
    kills = int(os.environ.get("EDITR2_KILLS", "3"))
    chance, finished, latest, broken_off = random.Random(11), 0, 0, 0
    for _ in range(kills):
        process = start(SAVE_FOR_EVER, tmp_path, devices=1)
        try:
            lines = [process.stdout.readline()]
            assert lines == ["open\n"], process.stderr.read()
            lines += [process.stdout.readline() for _ in range(chance.randrange(4))]  # then a moment within a save, or while it opens
            time.sleep(chance.uniform(0.0, 0.15))
            assert process.poll() is None, process.stderr.read()
        finally:
            process.kill()
            told, _ = process.communicate()
        whole = [line for line in [*lines, *told.splitlines(keepends=True)] if line.endswith("\n")]
        begun = [int(line.split()[1]) for line in whole if line.startswith("began")]
        finished = max([finished, *(step - 1 for step in begun)])  # a save begins when the one before is complete
        listed = check_everything(tmp_path, finished)
        assert max(listed, default=0) >= latest
        latest, broken_off = max(listed, default=0), broken_off + any(tmp_path.glob("*tmp*"))
    assert latest > 0 and (broken_off > 0 or kills < 20), "no save was interrupted: the test shows nothing"
    with Checkpoints(tmp_path, keep=1) as saver:
        saver.save(latest + 1, {"x": np.zeros(1)}, {})
        assert saver.latest_step() == latest + 1
        assert not list(tmp_path.glob("*tmp*")) and not list((tmp_path / ".deleted").glob("*"))


DIE_AT = """
import os, shutil
from editr2_jax.runtime import checkpoints, pointers, workdir
folder, place = sys.argv[1:]

def die_in(owner, name, when=lambda *_: True):
    real = getattr(owner, name)
    setattr(owner, name, lambda *given, **more: os._exit(9) if when(*given) else real(*given, **more))

with Checkpoints(folder, keep=1) as saver:
    for step in (1, 2):
        saver.save(step, {"x": jnp.full(3, step)}, {"step": step})
        saver.confirm(step)
    saver.wait()
    {
        "before the pointers": lambda: die_in(pointers.Pointers, "publish"),
        "in a pointer": lambda: die_in(workdir.os, "replace", lambda one, other: str(other).endswith("healthy.json")),
        "before the deletion": lambda: die_in(Checkpoints, "_move"),
        "in the deletion": lambda: die_in(checkpoints.shutil, "rmtree", lambda path, **_: str(path).endswith(".deleted/2")),
    }[place]()
    saver.save(3, {"x": jnp.full(3, 3)}, {"step": 3})
    saver._pointers.set("healthy", {"step": 3})  # as `confirm` while the save is under way, sooner than it can end
    saver.wait()
    saver.save(4, {"x": jnp.full(3, 4)}, {"step": 4})
"""


@pytest.mark.parametrize("place", ["before the pointers", "in a pointer", "before the deletion", "in the deletion"])
def test_a_death_between_two_files_leaves_pointers_to_whole_steps(tmp_path, place):
    process = start(DIE_AT, tmp_path, place, devices=1)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 9, errors
    listed = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert max(listed) >= 3 and all(record["step"] in listed for record in pointers.read(tmp_path).values())
    with Checkpoints(tmp_path, keep=1) as saver:
        for name in (None, "latest", "healthy"):
            arrays, meta = saver.restore({"x": np.zeros(3, np.int32)}, name)
            np.testing.assert_array_equal(arrays["x"], np.full(3, meta["step"]))
        assert saver.pointer("latest") == {"step": max(listed)} and not list((tmp_path / ".deleted").glob("*"))
