"""Several hosts that run as one and stop as one.

    with hosts.joined(config.hosts, say=log, stacks=workdir) as here:      # before any device is used
        for step in ...:
            with here.phase("rollout", step=step):
                ...
            rewards = here.gather(rewards)                                 # numpy in, numpy out, a leading axis of hosts
            if here.agree(stop_requested()):                               # all hosts leave the loop at the same step
                break

A host that is killed, hangs or raises takes the others with it: within `silence_s`, or at once where it could still speak, each of them
writes one line that names the host and where it was, and leaves with status 75. All calls belong to the main thread; agree, barrier and
gather must come in the same order on all hosts. A single process needs none of this and may use all of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from editr2_jax.runtime import roll_call
from editr2_jax.runtime.beats import BEAT_S, Board, JaxBoard
from editr2_jax.runtime.watchdog import STATUS, Watch, abort_held

AUTO = -1  # HostsConfig.processes: the platform tells (Cloud TPU, GKE, SLURM, Open MPI)
_JSON_LIMIT = 64 * 1024  # bytes of one host's gather_json: process 0 hands out count^2 of them
_ONE_TASK = re.compile(r"1(\(x\d+\))?")  # of each node: "1(x4)" of four
_LONGEST_PAUSE_S = 0.25  # between two looks at who has come
_MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """Which processes make one run, and how long one waits for another."""

    coordinator: str = ""  # HOST:PORT of process 0; empty for one process, or where the platform tells
    processes: int = 1  # AUTO (-1): the platform tells
    process: int = 0  # which of them this is
    join_s: float = 300.0  # all must have come by then
    silence_s: float = 60.0  # a host of which nothing was heard for so long is lost
    stuck_s: float = 3600.0  # a phase without progress, or a barrier without everybody

    def __post_init__(self):
        if self.processes != AUTO and self.processes < 1:
            raise ValueError(f"HostsConfig.processes is {self.processes}; give how many there are, or {AUTO} where the platform tells.")
        if self.processes != AUTO and not 0 <= self.process < self.processes:
            raise ValueError(f"HostsConfig.process is {self.process}; with {self.processes} processes it is 0 to {self.processes - 1}.")
        if self.processes > 1 and not self.coordinator:
            raise ValueError("HostsConfig.coordinator is empty; give HOST:PORT of process 0, reachable from all hosts.")
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal()):
            raise ValueError(f"HostsConfig.coordinator is {self.coordinator!r}; give HOST:PORT.")
        if self.silence_s < 3 * BEAT_S:
            raise ValueError(f"HostsConfig.silence_s is {self.silence_s}; hosts beat every {BEAT_S:g} s, so give at least {3 * BEAT_S:g}.")
        for name in ("join_s", "stuck_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"HostsConfig.{name} is {getattr(self, name)}; give seconds above 0.")


class Hosts:
    """This host among all; made by `joined`."""

    def __init__(
        self,
        *,
        index: int,
        count: int,
        watch: Watch,
        board: Board | None,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.index, self.count, self.first = index, count, index == 0
        self._watch, self._board, self._deadline_s, self._meetings = watch, board, deadline_s, 0
        self._clock, self._sleep = clock, sleep

    @property
    def stuck_s(self) -> float:
        """How long one waits for the others where nothing else is said."""
        return self._deadline_s

    def phase(self, name: str, **details: int | str) -> contextlib.AbstractContextManager[None]:
        """What this host is doing, e.g. phase("rollout", step=12, turn=1): for messages and as a sign of progress. Phases nest."""
        return self._watch.place.phase(name, **details)

    def agree(self, flag: bool, *, within_s: float | None = None) -> bool:
        """True on all hosts when any of them says true."""
        return any(answer == "1" for answer in self._meet("agree", "1" if flag else "0", within_s))

    def barrier(self, name: str, *, within_s: float | None = None) -> None:
        """Returns when all hosts have come. Leaves, naming who is missing, when they have not within `within_s` (default: stuck_s)."""
        self._meet(f"barrier {name!r}", "", within_s)

    def gather_json(self, value: Any, *, within_s: float | None = None) -> list[Any]:
        """Every host's value, in the hosts' order. Values are what JSON can carry, up to 64 KiB; they need not be alike."""
        text = json.dumps(value)
        if len(text) > _JSON_LIMIT:
            raise ValueError(f"gather_json: {len(text)} bytes are more than {_JSON_LIMIT}; pass arrays to gather, or write a file.")
        return [json.loads(answer) for answer in self._meet("gather_json", text, within_s)]

    def gather(self, tree: Any, *, within_s: float | None = None) -> Any:
        """Every host's arrays: numpy leaves [...] -> numpy leaves [hosts, ...], the same on all, bit for bit.

        The bytes travel as uint8 through the devices' own collectives, which without x64 would turn int64 and float64 into 32 bits.
        Raises ValueError, on all hosts, where keys, shapes or dtypes differ.
        """
        leaves, structure = jax.tree.flatten_with_path(tree)
        arrays = [np.asarray(leaf) for _, leaf in leaves]
        signature = [f"{jax.tree_util.keystr(path)}: {a.dtype.name}{list(a.shape)}" for (path, _), a in zip(leaves, arrays, strict=True)]
        if any(a.dtype.hasobject for a in arrays):
            raise ValueError(f"gather: arrays of Python objects cannot travel: {signature}.")
        self._refuse_unlike(self._meet("gather", json.dumps(signature), within_s))
        rows = self._gather_bytes(b"".join(a.tobytes() for a in arrays))
        ends = np.cumsum([a.nbytes for a in arrays], dtype=np.int64)
        out = [_as_array(rows[:, end - a.nbytes : end], a.dtype, (self.count, *a.shape)) for a, end in zip(arrays, ends, strict=True)]
        return jax.tree.unflatten(structure, out)

    def gather_text(self, text: str, *, within_s: float | None = None) -> list[str]:
        """Every host's text, in the hosts' order, of any length."""
        raw = text.encode()
        lengths = self.gather_json(len(raw), within_s=within_s)
        row = np.zeros(max(lengths), np.uint8)
        row[: len(raw)] = np.frombuffer(raw, np.uint8)
        rows = self.gather(row, within_s=within_s)
        return [bytes(one[:length]).decode() for one, length in zip(rows, lengths, strict=True)]

    def _gather_bytes(self, payload: bytes) -> np.ndarray:
        """Equally long bytes of every host -> uint8 [hosts, at least len(payload)], in the hosts' order."""
        index = self.index.to_bytes(8, "little")  # jax orders rows by its devices, which need not follow the order of processes
        row = np.zeros(_rounded(len(payload) + 8), np.uint8)
        row[: len(payload) + 8] = np.frombuffer(index + payload, np.uint8)
        rows = row[None] if self.count == 1 else multihost_utils.process_allgather(row)
        return rows[np.argsort(rows[:, :8].copy().view("<i8")[:, 0]), 8:]

    def _refuse_unlike(self, answers: list[str]) -> None:
        for host, answer in enumerate(answers):
            if answer != answers[0]:
                here, there = json.loads(answers[0]), json.loads(answer)
                unlike = [pair for pair in zip(here, there, strict=False) if pair[0] != pair[1]] or [(here, there)]
                raise ValueError(f"gather: host 0 brings {unlike[0][0]}, host {host} {unlike[0][1]}; give the same keys, shapes, dtypes.")

    def _meet(self, what: str, text: str, within_s: float | None) -> list[str]:
        """All hosts come to the same place, each with a text; returns the texts in the hosts' order."""
        if self._board is None:
            return [text]
        deadline_s = self._deadline_s if within_s is None else within_s
        folder, self._meetings = f"editr2/meetings/{self._meetings}", self._meetings + 1
        with self._watch.waiting(what):
            self._board.write(f"{folder}/{self.index}", json.dumps([what, text]))
            started, pause = self._clock(), 0.002
            while len(notes := self._board.read(folder)) < self.count:
                if self._clock() - started > deadline_s:
                    self._watch.leave(self._missing(what, deadline_s, notes))
                self._sleep(pause)
                pause = min(1.5 * pause, _LONGEST_PAUSE_S)
        if self.first and self._meetings > 1:  # all have read the notes of the meeting before, or they would not be here
            self._board.erase(f"editr2/meetings/{self._meetings - 2}")
        answers = [json.loads(notes[str(host)]) for host in range(self.count)]
        if any(where != what for where, _ in answers):
            places = ", ".join(f"host {host} is at {where}" for host, (where, _) in enumerate(answers))
            raise RuntimeError(f"hosts have come to different places: {places}; all must make the same calls in the same order.")
        return [answer for _, answer in answers]

    def _missing(self, what: str, deadline_s: float, notes: dict[str, str]) -> str:
        roll, missing = self._watch.roll, [host for host in range(self.count) if str(host) not in notes]
        late = f"did not come to {what} within {deadline_s:g} s"
        return " ".join(f"{roll.who(host)} {late}; it is in {roll.place(host)}." for host in missing)


@contextlib.contextmanager
def joined(config: HostsConfig, *, say: Callable[[str], None] | None = None, stacks: Path | None = None) -> Iterator[Hosts]:
    """All processes of the run come together; the value of `with` is this host among them. Call it before any device is used.

    say: gets the line that a host leaves with (it goes to stderr in any case). stacks: a local folder for what every thread was doing then.
    Raises NotAllHere where a process that was told who they are waits for another in vain, ValueError where the platform tells nothing.
    """
    index, count = (0, 1) if config.processes == 1 else _initialize(config)
    board = JaxBoard() if count > 1 else None
    watch = Watch(index=index, count=count, silence_s=config.silence_s, stuck_s=config.stuck_s, board=board, say=say, stacks=stacks)
    here = Hosts(index=index, count=count, watch=watch, board=board, deadline_s=config.stuck_s)
    with abort_held(watch.aborting, after_errors=True) if board else contextlib.nullcontext(), watch.on():
        try:
            yield here
            here.barrier("the end")
        except BaseException as error:
            if _may_come_from_another_host(error):
                watch.falter()
            watch.stop(f"{type(error).__name__}: {error}")
            if config.processes != 1:
                _abandon_runtime()
            raise
    if config.processes != 1:
        jax.distributed.shutdown()


def _initialize(config: HostsConfig) -> tuple[int, int]:
    """(this process, how many there are), after all have come."""
    started = time.monotonic()
    named = {"coordinator_address": config.coordinator, "num_processes": config.processes, "process_id": config.process}
    if config.processes == AUTO:
        named = _platform(config)
    where, count, index = (named.get(name) for name in ("coordinator_address", "num_processes", "process_id"))
    if None not in (where, count, index):
        if _has_its_host_alone():
            named |= {"local_device_ids": None, "cluster_detection_method": "deactivate"}
        roll_call.take_part(where, roll_call.Process(index=index, count=count), within_s=config.join_s)

    def give_up() -> None:  # jax aborts the process instead of raising
        line = (
            f"host {'?' if index is None else index} ({socket.gethostname()}, process {os.getpid()}) gave up after "
            f"{time.monotonic() - started:.0f} s: "
            f"not every process of the run came to {where or 'the coordinator'} exactly once. Look for one without a log, "
            "for one with another coordinator or count, or for two with the same index."
        )
        os.write(2, (line + "\n").encode())
        os._exit(STATUS)

    # jax's own would take SIGTERM from the handlers that signals.stop_flag sets; all hosts stop at one step by agree(stop_requested())
    jax.config.update("jax_enable_preemption_service", False)
    # On CPUs, programs that do not need each other may overtake each other, and their collectives would then meet the wrong partners.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    with abort_held(give_up):
        try:
            jax.distributed.initialize(
                **named,
                initialization_timeout=math.ceil(config.join_s),
                heartbeat_timeout_seconds=math.ceil(10 * config.silence_s),  # jax's own watch aborts and names nobody: ours comes first
                shutdown_timeout_seconds=math.ceil(config.silence_s),
            )
        except ValueError as error:
            if config.processes != AUTO:
                raise
            how = "give coordinator, processes and process"
            raise ValueError(f"HostsConfig.processes is {AUTO}, but no platform tells how many there are ({error}); {how}.") from error
    return distributed.global_state.process_id, distributed.global_state.num_processes


def _platform(config: HostsConfig) -> dict[str, Any]:
    """Who this process is, as jax.distributed.initialize would find out and then wait without a name: arguments for it, None where unknown.

    Where a jax keeps this elsewhere, only what the config says: then jax finds out by itself, and who is missing stays unnamed.
    """
    told = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        from jax._src.clusters import ClusterEnv

        where, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            told, None, None, None, None, math.ceil(config.join_s)
        )
    except (ImportError, AttributeError, TypeError):
        return {"coordinator_address": told} if told else {}
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):  # which jax reads itself
        devices = None
    return {"coordinator_address": where, "num_processes": count, "process_id": index, "local_device_ids": devices}


def _has_its_host_alone() -> bool:
    """Whether SLURM or Open MPI started one process on each host. jax gives a process of theirs one device, whoever else is there."""
    told = [os.environ[name] for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE") if name in os.environ]
    return bool(told) and _ONE_TASK.fullmatch(told[0]) is not None


def _may_come_from_another_host(error: BaseException | None) -> bool:
    """A collective or a call of the coordinator that failed, or anything raised because of one."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _abandon_runtime() -> None:
    """Let this process end as an exception ends it: jax's shutdown at exit would wait for hosts that do not come, and then abort."""
    state = distributed.global_state
    for name in ("preemption_sync_manager", "client", "service"):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(getattr(state, name)))  # its destructor would do the same
        setattr(state, name, None)


def _rounded(size: int) -> int:
    """Up to a power of two, from 1 KiB on, or to whole MiB: every length is a program to compile."""
    return max(1024, 1 << (size - 1).bit_length()) if size < _MIB else -(-size // _MIB) * _MIB


def _as_array(raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [hosts, bytes] -> shape."""
    return np.frombuffer(bytearray(raw.tobytes()), dtype).reshape(shape)
