"""One process of several: `hosts_child.py SCENE PROCESS PROCESSES PORT FOLDER`. Prints the words that a test looks for."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from editr2_jax.runtime import hosts, signals

SILENCE_S = 4.0


def tell(word: str) -> None:
    print(word, flush=True)


def exact(here: hosts.Hosts, folder: Path) -> None:
    """What is gathered, agreed and met is the same on all."""
    odd = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)
    odd.view(np.uint32)[0] = 0x7FC00001 + here.index  # a NaN with a payload, which arithmetic may lose
    mine = {
        "odd": odd,
        "picture": np.arange(6, dtype=np.uint8).reshape(2, 3) + here.index,
        "mask": np.array([here.first, True, False]),
        "count": np.array(2**40 + here.index),
        "exact": np.array([1 / 3 + here.index]),
        "none": np.zeros((0, 3), np.float32),
    }
    got = here.gather(mine)
    for name, value in mine.items():
        assert got[name].dtype == value.dtype and got[name].shape == (here.count, *value.shape), name
        assert got[name][here.index].tobytes() == value.tobytes(), name
    assert got["odd"].view(np.uint32)[:, 0].tolist() == [0x7FC00001 + host for host in range(here.count)]
    assert got["count"].tolist() == [2**40 + host for host in range(here.count)] and got["mask"][:, 0].tolist() == [True] + [False] * (
        here.count - 1
    )
    assert here.gather_json({"host": here.index}) == [{"host": host} for host in range(here.count)]
    assert [here.agree(here.index == 1), here.agree(False), here.agree(True)] == [True, False, True]
    here.barrier("once")
    try:
        here.gather({"rows": np.zeros(2 + here.index, np.int32)})
    except ValueError as error:
        tell(f"refused: {error}")
    tell("exact")


def play(here: hosts.Hosts, folder: Path) -> None:
    """Collectives without end; somebody kills a process."""
    for step in range(10**6):
        with here.phase("rollout" if here.first else "update", step=12, turn=1):
            here.gather(np.ones(4, np.float32))
        if step == 5:
            tell("ready")


def hang(here: hosts.Hosts, folder: Path, *, sleeper: int = 1) -> None:
    """A host is no longer scheduled in the middle of a step; the others wait for it in a collective, in native code."""
    from jax.experimental import multihost_utils

    with here.phase("update", step=3):
        multihost_utils.process_allgather(np.ones(2, np.float32))
        if here.index == sleeper:
            time.sleep(2)  # long enough for a beat that says where it is
            os.kill(os.getpid(), signal.SIGSTOP)
        multihost_utils.process_allgather(np.ones(2, np.float32))


def hang_first(here: hosts.Hosts, folder: Path) -> None:
    """The same of the host that keeps the board."""
    hang(here, folder, sleeper=0)


def wrong(here: hosts.Hosts, folder: Path, *, host: int = 1) -> None:
    """A host raises in the middle of a step."""
    with here.phase("rollout", step=2):
        if here.index == host:
            raise ValueError("turn 1 has no picture")
        here.gather(np.ones(2, np.float32))


def wrong_slowly(here: hosts.Hosts, folder: Path) -> None:
    """The same in a process that needs longer for its end than host 0, whose end jax's client answers by abort()."""
    wrong(here, folder)


def wrong_first(here: hosts.Hosts, folder: Path) -> None:
    """The same in the host that keeps the board."""
    wrong(here, folder, host=0)


def aborted(here: hosts.Hosts, folder: Path) -> None:
    """A failed check in native code, which has nothing to do with other hosts."""
    with here.phase("update", step=6):
        if here.index == 1:
            os.abort()
        here.gather(np.ones(2, np.float32))


def everywhere(here: hosts.Hosts, folder: Path) -> None:
    """All hosts raise the same error, as on a loss that is not finite."""
    here.barrier("step 1")
    raise ValueError("loss/total is nan")


def late(here: hosts.Hosts, folder: Path) -> None:
    """Host 1 lives and does not come."""
    if here.index == 1:
        with here.phase("save", step=7):
            time.sleep(60)
    here.barrier("saved 7", within_s=3.0)


def stuck(here: hosts.Hosts, folder: Path) -> None:
    """Host 1 hangs in a phase of its own."""
    with here.phase("judges", step=4):
        if here.index == 1:
            time.sleep(60)
    here.barrier("judged", within_s=300.0)


def slurm(here: hosts.Hosts, folder: Path) -> None:
    """What jax took from the variables of SLURM."""
    from jax._src import xla_bridge

    tell(f"host {here.index} of {here.count}, visible devices: {xla_bridge.CUDA_VISIBLE_DEVICES.value}")


def told_by_platform(scene: str, process: int, processes: int, port: int) -> None:
    """The variables of Open MPI, or of SLURM with one task on each node."""
    names = {
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": processes, "OMPI_COMM_WORLD_RANK": process,
        "OMPI_COMM_WORLD_LOCAL_RANK": 0, "OMPI_COMM_WORLD_LOCAL_SIZE": 1,
    } if scene == "platform" else {
        "SLURM_JOB_ID": 1, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": processes, "SLURM_PROCID": process, "SLURM_LOCALID": 0,
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{processes})",
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in names.items()} | {"JAX_COORDINATOR_PORT": str(port)})


def wait_for_all(folder: Path, process: int) -> None:
    """Until all that were started have imported what they need: on a busy machine that takes longer than they wait for each other."""
    (folder / f"imported_{process}").touch()
    while len(list(folder.glob("imported_*"))) < len(list(folder.glob("out_*"))):
        time.sleep(0.05)


def terminated(here: hosts.Hosts, folder: Path) -> None:
    """SIGTERM reaches one host, and all stop after the same step. The flag was set up before jax was."""
    for step in range(10**6):
        if step == 5:
            tell("ready")
        if here.agree(stop_requested()):
            tell(f"stopped at step {here.gather_json(step)}")
            return


if __name__ == "__main__":
    scene, process, processes, port, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
    which = {"coordinator": f"localhost:{port}", "processes": processes, "process": process}
    if scene in ("platform", "slurm"):
        told_by_platform(scene, process, processes, port)
        which = {"processes": hosts.AUTO}
    if scene == "alone":
        wait_for_all(folder, process)
    config = hosts.HostsConfig(
        **which,
        join_s={"alone": 8.0, "platform": 3.0}.get(scene, 120.0),
        silence_s=SILENCE_S,
        stuck_s=5.0 if scene == "stuck" else 300.0,
    )
    try:
        with signals.stop_flag() as stop_requested, hosts.joined(config, say=lambda line: tell(f"said: {line}"), stacks=folder) as here:
            globals()[scene](here, folder)
    finally:
        if scene == "wrong_slowly":
            time.sleep(8)
    tell("done")
