"""Real processes under jax.distributed, two simulated devices each: what is exact, who is named, and how they leave."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from editr2_jax.runtime.watchdog import STATUS

pytestmark = pytest.mark.slow
FOUR = pytest.mark.nightly  # as two do, and for longer

CHILD = Path(__file__).with_name("hosts_child.py")
PATIENCE_S = 240  # of the test itself, on a busy machine; what is asserted is words and exit statuses


class Children:
    """The processes of one run, their output in files."""

    def __init__(self, folder: Path, scene: str, count: int, *, start: list[int] | None = None):
        self.folder, self.port = folder, free_port()
        devices = "--xla_force_host_platform_device_count=2"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self.processes = {}
        for index in range(count) if start is None else start:
            with open(folder / f"out_{index}", "w") as out, open(folder / f"err_{index}", "w") as err:
                command = [sys.executable, str(CHILD), scene, str(index), str(count), str(self.port), str(folder)]
                self.processes[index] = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    def out(self, index: int) -> str:
        return (self.folder / f"out_{index}").read_text()

    def err(self, index: int) -> str:
        return (self.folder / f"err_{index}").read_text()

    def wait_for(self, word: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not all(word in self.out(index) for index in self.processes):
            assert time.monotonic() < until and all(p.poll() is None for p in self.processes.values()), self.report()
            time.sleep(0.1)

    def statuses(self, *, without: int | None = None) -> list[int]:
        """Exit statuses in the hosts' order. without: a host that will not end by itself."""
        try:
            return [process.wait(PATIENCE_S) for index, process in self.processes.items() if index != without]
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running: {self.report()}")

    def report(self) -> str:
        return "\n".join(f"host {index}: {self.out(index)[-2000:]}{self.err(index)[-4000:]}" for index in self.processes)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()  # also one that is stopped; nothing happens to one that has ended
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def play(tmp_path):
    started = []

    def start(*args, **keywords) -> Children:
        started.append(Children(tmp_path, *args, **keywords))
        return started[-1]

    yield start
    for children in started:
        children.kill()


def line_about(children: Children, survivor: int, pattern: str) -> str:
    """The one line in which a survivor says why it leaves; it is in the log that was given, too."""
    lines = [line for line in children.err(survivor).splitlines() if "Stopping; the same command resumes from the last checkpoint." in line]
    assert len(lines) == 1 and re.search(pattern, lines[0]), children.report()
    assert f"said: {lines[0]}" in children.out(survivor)
    return lines[0]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=FOUR)])
def test_hosts_agree_and_gather_bit_for_bit(play, count):
    children = play("exact", count)
    assert children.statuses() == [0] * count, children.report()
    for index in range(count):
        said = children.out(index)
        assert "host 0 brings ['rows']: int32[2], host 1 ['rows']: int32[3]" in said and "exact" in said and "done" in said


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), *(pytest.param(4, victim, marks=FOUR) for victim in (0, 2))])
def test_a_killed_host_is_named_by_all_others(play, count, victim):
    children = play("play", count)
    children.wait_for("ready")
    time.sleep(2)  # until a beat has told where it is
    children.processes[victim].kill()
    statuses = children.statuses()
    assert statuses.pop(victim) == -signal.SIGKILL and statuses == [STATUS] * (count - 1), children.report()
    words = {host: f"step 12, {'rollout' if host == 0 else 'update'}, turn 1" for host in range(count)}
    who = rf"host {victim} \(.+, process {children.processes[victim].pid}\)"
    for survivor in set(range(count)) - {victim}:
        line = line_about(children, survivor, rf"{who} has not been heard from for \d+ s; it was in {words[victim]}")
        assert f"This host ({survivor}) was in {words[survivor]}" in line
        assert "Thread 0x" in (children.folder / f"host_{survivor}_stacks.txt").read_text()


@pytest.mark.parametrize(("scene", "victim"), [("hang", 1), ("hang_first", 0)])
def test_a_host_that_hangs_is_left_from_inside_a_collective(play, scene, victim):
    children = play(scene, 2)
    assert children.statuses(without=victim) == [STATUS], children.report()
    line_about(
        children,
        1 - victim,
        rf"host {victim} \(.+\) has not been heard from for \d+ s; it was in step 3, update\. This host .* step 3, update",
    )


@pytest.mark.parametrize(("scene", "victim"), [("wrong", 1), ("wrong_slowly", 1), ("wrong_first", 0)])
def test_an_error_of_one_host_stops_the_others_with_its_message(play, scene, victim):
    children = play(scene, 2)
    statuses = children.statuses()
    assert statuses[victim] == 1 and statuses[1 - victim] == STATUS, children.report()
    line_about(children, 1 - victim, rf"host {victim} \(.+\) stopped in step 2, rollout: ValueError: turn 1 has no picture\. This host")
    assert "ValueError: turn 1 has no picture" in children.err(victim)


def test_an_error_on_all_hosts_is_raised_where_it_came_first(play):
    children = play("everywhere", 2)
    statuses = children.statuses()
    assert 1 in statuses and set(statuses) <= {1, STATUS}, children.report()
    assert "ValueError: loss/total is nan" in children.err(statuses.index(1))


def test_native_code_that_aborts_is_the_hosts_own_end(play):
    children = play("aborted", 2)
    assert children.statuses() == [STATUS, -signal.SIGABRT], children.report()
    line_about(children, 0, r"host 1 \(.+\) stopped in step 6, update: aborted by native code")


def test_a_host_that_does_not_come_is_named_with_its_phase(play):
    children = play("late", 2)
    assert children.statuses() == [STATUS, STATUS], children.report()
    for survivor in (0, 1):  # the late one leaves, too: its main thread may be hanging
        line_about(children, survivor, r"host 1 \(.+\) did not come to barrier 'saved 7' within 3 s; it is in step 7, save\.")


def test_a_stuck_phase_names_itself(play):
    children = play("stuck", 2)
    assert children.statuses() == [STATUS, STATUS], children.report()
    line_about(children, 1, r"host 1 \(.+\) has made no progress for \d+ s in step 4, judges\.")
    line_about(children, 0, r"host 1 \(.+\) has made no progress for \d+ s in step 4, judges\.")
    assert "in stuck" in (children.folder / "host_1_stacks.txt").read_text()


def test_sigterm_to_one_host_stops_all_at_the_same_step(play):
    children = play("terminated", 2)
    children.wait_for("ready")
    children.processes[1].terminate()
    assert children.statuses() == [0, 0], children.report()
    steps = [re.search(r"stopped at step \[(\d+), (\d+)\]", children.out(index)).groups() for index in range(2)]
    assert steps[0] == steps[1] and steps[0][0] == steps[0][1]


def test_a_host_that_never_starts(play):
    children = play("alone", 3, start=[0, 2])
    assert children.statuses() == [1, 1], children.report()
    for index in children.processes:
        assert re.search(
            rf"host 1 did not come to the roll call at localhost:{children.port} within 8 s; there: host 0 .* host 2 ", children.err(index)
        )


def test_a_host_that_never_starts_where_the_platform_says_who_there_are(play):
    children = play("platform", 2, start=[0])
    assert children.statuses() == [1], children.report()
    assert f"host 1 did not come to the roll call at 127.0.0.1:{children.port} within 3 s; there: host 0 " in children.err(0)


def test_the_platform_says_who_there_are_and_each_has_all_devices_of_its_host(play):
    children = play("slurm", 2)
    assert children.statuses() == [0, 0], children.report()
    for index in range(2):
        assert f"host {index} of 2, visible devices: all" in children.out(index)


def test_a_coordinator_that_never_starts(play):
    children = play("alone", 2, start=[1])
    assert children.statuses() == [1], children.report()
    assert f"host 0 did not come to the roll call at localhost:{children.port} within 8 s" in children.err(1)
