"""The logic of hosts without processes: a board in memory, a clock that is set by hand, and an exit that only raises."""

import json
import os
import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.runtime import hosts
from editr2_jax.runtime.beats import Beat, Place, Roll, one_line
from editr2_jax.runtime.watchdog import STATUS, Watch


class Left(BaseException):
    """Stands for os._exit."""


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class MemoryBoard:
    """What JaxBoard does, in one process; `down` once host 0 is gone."""

    def __init__(self):
        self.notes, self.down = {}, False

    def write(self, key, text):
        self.check()
        self.notes[key] = text

    def read(self, folder):
        self.check()
        return {key.rsplit("/", 1)[1]: text for key, text in list(self.notes.items()) if key.rsplit("/", 1)[0] == folder}

    def erase(self, folder):
        self.notes = {key: text for key, text in self.notes.items() if not key.startswith(folder + "/")}

    def check(self):
        if self.down:
            raise RuntimeError("UNAVAILABLE")


class World:
    """Some hosts on one board, driven by hand."""

    def __init__(self, count, *, silence_s=10.0, stuck_s=100.0, stacks=None):
        self.clock, self.board, self.said = Clock(), MemoryBoard(), [[] for _ in range(count)]
        self.watches = [
            Watch(
                index=index,
                count=count,
                silence_s=silence_s,
                stuck_s=stuck_s,
                board=self.board,
                say=self.said[index].append,
                stacks=stacks,
                clock=self.clock,
                sleep=self.clock.sleep,
                leave=leave,
            )
            for index in range(count)
        ]

    def pass_by(self, seconds, *, without=()):
        """Second by second everybody beats and looks, but for those without."""
        living = [watch for host, watch in enumerate(self.watches) if host not in without]
        for _ in range(seconds):
            self.clock.now += 1
            for watch in [*living, *living]:  # the last one's beat reaches the first one, too
                if not self.board.down:
                    watch.exchange()
            for watch in living:
                watch.look()

    def hosts(self, index):
        return hosts.Hosts(
            index=index,
            count=len(self.watches),
            watch=self.watches[index],
            board=self.board,
            deadline_s=30,
            clock=self.clock,
            sleep=self.clock.sleep,
        )


def leave(status):
    assert status == STATUS
    raise Left


def test_a_silent_host_is_named_with_its_last_place_and_ours(capfd):
    world = World(3)
    with world.watches[2].place.phase("rollout", step=12, turn=1), world.watches[0].place.phase("update", step=12):
        world.pass_by(10)
        world.pass_by(11, without=[2])
        with pytest.raises(Left):
            world.pass_by(1, without=[2])
    (line,) = world.said[0]
    assert line == (
        f"{world.watches[0].roll.who(2)} has not been heard from for 11 s; it was in step 12, rollout, turn 1. "
        "This host (0) was in step 12, update. Stopping; the same command resumes from the last checkpoint."
    )
    assert line.startswith("host 2 (") and f"process {os.getpid()})" in line
    assert capfd.readouterr().err == line + "\n"


def test_the_next_host_repeats_the_sentence_of_the_first():
    world = World(3)
    world.pass_by(1)
    with pytest.raises(Left):
        world.watches[0].leave("host 2 (x, process 5) has not been heard from for 11 s; it was in step 3, save.")
    with pytest.raises(Left):
        world.pass_by(1, without=[0, 2])
    assert world.said[1][0].startswith(
        "host 2 (x, process 5) has not been heard from for 11 s; it was in step 3, save. This host (1) was in "
    )


def test_without_a_board_only_host_0_is_to_blame():
    world = World(3)
    world.pass_by(3)
    world.board.down = True
    with pytest.raises(Left):
        world.pass_by(20, without=[0])
    (line,) = world.said[1]
    assert line.startswith("host 0 (") and "host 2" not in line


def test_a_pause_of_this_process_is_nobodys_silence():
    world = World(2)
    world.pass_by(3)
    world.clock.now += 1000
    world.watches[1].look()
    world.pass_by(5)
    with pytest.raises(Left):
        world.pass_by(12, without=[0])


def test_a_stuck_phase_names_itself_and_a_wait_is_not_stuck(tmp_path):
    world = World(2, stacks=tmp_path)
    with world.watches[1].waiting("barrier 'saved'"):
        world.pass_by(150)
    with world.watches[1].place.phase("judges", step=4):
        world.pass_by(60)
        with world.watches[1].place.phase("turn", turn=2):
            world.pass_by(60)
        world.pass_by(100)
        with pytest.raises(Left):
            world.pass_by(1)
    assert "has made no progress for 101 s in step 4, judges. This host (1)" in world.said[1][0]
    assert "test_a_stuck_phase" in (tmp_path / "host_1_stacks.txt").read_text()


def test_an_error_reaches_the_others_as_one_short_line():
    world = World(2)
    with pytest.raises(ValueError), world.watches[1].place.phase("rollout", step=2):
        raise ValueError
    world.watches[1].stop("ValueError: first\nsecond " + "x" * 1000)
    with pytest.raises(Left):
        world.pass_by(1)
    (line,) = world.said[0]
    assert (
        "host 1 (" in line and "stopped in step 2, rollout: ValueError: first second xxx" in line and "\n" not in line and len(line) < 1000
    )
    assert world.said[1] == []


def test_a_host_with_an_error_of_its_own_keeps_it_when_others_stop_too():
    world = World(2)
    world.watches[0].stop("NonFiniteLoss: loss/total is nan")
    world.watches[1].stop("NonFiniteLoss: loss/total is nan")
    world.pass_by(30)
    assert world.said == [[], []]


def test_faltering_ends_when_the_others_live_on():
    world = World(2)
    world.pass_by(2)
    beats = iter([False, False, True, True])

    def sleep(seconds):
        world.clock.now += seconds
        if next(beats):
            world.watches[1].exchange()
        world.watches[0].exchange()

    world.watches[1].exchange()  # written before the error and read after it: no proof of life
    world.watches[0]._sleep = sleep
    world.watches[0].falter()
    assert list(beats) == [True]


def test_only_the_first_of_two_threads_leaves():
    world = World(1)
    second = threading.Thread(target=lambda: world.watches[0].leave("second."), daemon=True)
    with pytest.raises(Left):
        world.watches[0].leave("first.")
    second.start()
    second.join(0.05)
    assert second.is_alive() and len(world.said[0]) == 1


def test_what_a_log_does_cannot_keep_a_host():
    def say(line):
        raise OSError("disk full")

    with pytest.raises(Left):
        Watch(silence_s=10, stuck_s=10, say=say, leave=leave).leave("host 0 is stuck.")


def test_places_are_nested_and_stay_after_an_error():
    clock = Clock()
    place = Place(clock)
    assert place.look() == ("no phase yet", 0.0)
    with place.phase("step", step=3):
        with place.phase("rollout", turn=1):
            clock.now += 5
            assert place.look() == ("step 3, step, rollout, turn 1", 5.0)
        assert place.look() == ("step 3, step", 0.0)
        with pytest.raises(RuntimeError), place.phase("save"):
            raise RuntimeError
        assert place.look()[0] == "step 3, step, save"
        with place.phase("update"):
            assert place.look()[0] == "step 3, step, update"
    clock.now += 1000
    assert place.look() == ("step 3, step", 0.0)  # nobody is stuck outside phases


def test_beats_survive_the_board_and_strangers_are_refused():
    beat = Beat(name="a", pid=1, place="step 1, save", count=2, stopped="")
    assert Beat.parse(beat.text()) == beat
    with pytest.raises(ValueError, match="start all hosts from one commit"):
        Beat.parse(json.dumps({"name": "a", "mood": "good"}))


@given(st.text(max_size=2000))
def test_one_line_is_one_short_line(text):
    assert len(one_line(text).splitlines()) <= 1 and len(one_line(text)) <= 600


def test_a_repeated_note_is_no_sign_of_life():
    clock = Clock()
    roll = Roll(index=0, count=2, clock=clock)
    beat = Beat(name="a", pid=1, place="", count=7)
    for _ in range(20):
        clock.now += 1
        roll.hear({1: beat})
    assert roll.silence(1) == 19 and roll.silent(18) == [1] and roll.silent(19) == []


def meet(world, calls):
    """Each host's call in a thread of its own, as in processes: the results, or the errors. The clock stands: nobody is late."""
    results = [None] * len(calls)
    world.clock.sleep = lambda seconds: time.sleep(0.001)

    def run(index):
        try:
            results[index] = calls[index](world.hosts(index))
        except (Exception, Left) as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_one_true_is_true_for_all():
    assert meet(World(3), [lambda here, flag=flag: here.agree(flag) for flag in (False, True, False)]) == [True] * 3
    assert meet(World(2), [lambda here: here.agree(False)] * 2) == [False, False]


def test_notes_of_a_meeting_are_erased_after_the_next():
    def often(here):
        return [here.gather_json([here.index, turn]) for turn in range(10)]

    world = World(2)
    assert meet(world, [often, often]) == [[[[0, turn], [1, turn]] for turn in range(10)]] * 2
    assert len(world.board.notes) <= 4


def test_hosts_at_different_places_are_told_so():
    world = World(2)
    errors = meet(world, [lambda here: here.barrier("save 12"), lambda here: here.agree(False)])
    for error in errors:
        assert "host 0 is at barrier 'save 12', host 1 is at agree" in str(error)


def test_a_barrier_names_who_is_missing():
    world = World(3)
    with world.watches[1].place.phase("rollout", step=5):
        world.pass_by(1)
        here = world.hosts(0)
        with pytest.raises(Left):
            here.barrier("save 5")
    (line,) = world.said[0]
    assert "host 1 (" in line and "did not come to barrier 'save 5' within 30 s; it is in step 5, rollout. host 2 (" in line


def test_unlike_trees_are_refused_on_all_hosts():
    errors = meet(World(2), [lambda here: here.gather({"a": np.zeros(here.index + 1, np.uint8), "b": np.zeros(1)})] * 2)
    for error in errors:
        assert isinstance(error, ValueError) and "host 0 brings ['a']: uint8[1], host 1 ['a']: uint8[2]" in str(error)


def test_lengths_that_travel_are_few():
    assert [hosts._rounded(size) for size in (8, 1024, 1025, 2**20 - 1, 2**20, 2**20 + 1)] == [1024, 1024, 2048, 2**20, 2**20, 2**21]


def test_large_json_and_objects_are_refused():
    here = World(1).hosts(0)
    with pytest.raises(ValueError, match="gather_json: .* bytes are more than 65536"):
        here.gather_json("x" * 70000)
    with pytest.raises(ValueError, match=r"arrays of Python objects cannot travel: .*'names'\]: object\[2\]"):
        here.gather({"names": np.array(["a", None], object)})


def test_a_single_process_needs_nothing():
    with hosts.joined(hosts.HostsConfig()) as here:
        assert (here.index, here.count, here.first) == (0, 1, True)
        with here.phase("rollout", step=0):
            assert here.agree(True) and not here.agree(False)
            here.barrier("save 0")
            assert here.gather_json({"a": 1}) == [{"a": 1}]
            got = here.gather({"a": np.arange(3), "b": [np.float64(0.1), np.zeros((0, 2), bool)]})
    assert (
        got["a"].tolist() == [[0, 1, 2]] and got["a"].dtype == np.int64 and got["b"][0].tolist() == [0.1] and got["b"][1].shape == (1, 0, 2)
    )
    assert not [thread for thread in threading.enumerate() if thread.name in ("watch", "beats")]


def test_a_single_process_raises_its_errors_as_they_are():
    with pytest.raises(KeyError, match="mine"), hosts.joined(hosts.HostsConfig()):
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, "processes is 0; give how many there are"),
        ({"processes": 2, "process": 2, "coordinator": "a:1"}, "process is 2; with 2 processes it is 0 to 1"),
        ({"processes": 2}, "coordinator is empty; give HOST:PORT"),
        ({"processes": 2, "coordinator": "10.0.0.1"}, "coordinator is '10.0.0.1'; give HOST:PORT"),
        ({"processes": 2, "coordinator": ":80"}, "coordinator is ':80'; give HOST:PORT"),
        ({"silence_s": 1.0}, "silence_s is 1.0; hosts beat every 1 s, so give at least 3"),
        ({"stuck_s": 0.0}, "stuck_s is 0.0; give seconds above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        hosts.HostsConfig(**settings)


@pytest.mark.parametrize(
    ("told", "own"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
        ({}, False),
    ],
)
def test_a_process_that_is_alone_on_its_host_has_all_devices_of_it(monkeypatch, told, own):
    """jax would take the one whose number is SLURM_LOCALID."""
    given = {}
    for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(hosts.roll_call, "take_part", lambda *_, **__: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: given.update(how))
    hosts._initialize(hosts.HostsConfig(coordinator="a:1", processes=2))
    assert (given.get("cluster_detection_method") == "deactivate") is own
    assert (given["coordinator_address"], given["num_processes"], given["process_id"]) == ("a:1", 2, 0)


def test_a_platform_that_tells_nothing(monkeypatch):
    def initialize(**_):  # as jax does, which first wants that no device was used before
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        ValueError, match="processes is -1, but no platform tells how many there are .* give coordinator, processes and process"
    ):
        hosts._initialize(hosts.HostsConfig(processes=hosts.AUTO))
