"""The clock, under a time set by hand and devices that are ready when the test says so."""

import threading

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.runtime.clock import Clock, device_memory


class Devices:
    """Programs end at the times they are given, which is what the thread that waits for them reads next; others read `host`."""

    def __init__(self, stats=()):
        self.host, self.stats = 0.0, stats
        self._waited = threading.local()

    def wait(self, ends):
        if isinstance(ends, Exception):
            raise ends
        self._waited.ends = ends

    def now(self):
        return getattr(self._waited, "ends", self.host)

    def memory(self):
        return self.stats

    def clock(self):
        return Clock(now=self.now, wait=self.wait, memory=self.memory)


def phase(devices, clock, name, start, end):
    devices.host = start
    with clock.phase(name):
        devices.host = end


def test_phases_without_programs_are_what_the_host_sees():
    devices = Devices()
    clock = devices.clock()
    phase(devices, clock, "data", 1.0, 1.5)
    phase(devices, clock, "update", 2.0, 6.0)
    phase(devices, clock, "data", 7.0, 7.25)
    assert clock.metrics() == {"time/data_s": 0.75, "time/update_s": 4.0}
    assert clock.metrics() == {}


def test_programs_that_are_sent_at_once_share_the_time_in_their_order():
    devices = Devices()
    clock = devices.clock()
    for name, ends in (("rollout/context", 3.0), ("rollout/denoise", 10.0), ("rollout/context", 11.0)):
        clock.follow(name, 1.0, ends)
    assert clock.metrics() == {"time/rollout/context_s": 3.0, "time/rollout/denoise_s": 7.0}


def test_a_program_counts_from_its_sending_where_the_devices_had_nothing_to_do():
    devices = Devices()
    clock = devices.clock()
    clock.follow("a", 0.0, 1.0)
    clock.follow("b", 5.0, 6.0)
    assert clock.metrics() == {"time/a_s": 1.0, "time/b_s": 1.0}


def test_waiting_for_judges_counts_from_when_the_devices_are_idle():
    devices = Devices()
    clock = devices.clock()
    clock.follow("recall", 0.0, 4.0)
    phase(devices, clock, "reward_wait", 1.0, 5.0)
    clock.follow("recall", 5.0, 9.0)
    phase(devices, clock, "reward_wait", 5.0, 6.0)  # the devices are busy all the while
    assert clock.metrics() == {"time/recall_s": 8.0, "time/reward_wait_s": 1.0}


def test_a_program_that_fails_does_not_stop_the_clock():
    devices = Devices()
    clock = devices.clock()
    clock.follow("a", 0.0, RuntimeError("out of memory"))
    clock.follow("b", 0.0, 2.0)
    assert clock.metrics()["time/b_s"] == 2.0


def test_a_phase_that_raises_is_not_told():
    devices = Devices()
    clock = devices.clock()
    with pytest.raises(RuntimeError), clock.phase("update"):
        raise RuntimeError
    assert clock.metrics() == {}


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8))
def test_seconds_of_programs_never_exceed_the_whole(steps):
    """Sent in order, ready in order: the parts are at least 0 and their sum is at most the time from the first sending to the last end."""
    devices = Devices()
    clock, sent, ready = devices.clock(), 0.0, 0.0
    for number, (gap, length) in enumerate(steps):
        sent += gap
        ready = max(ready, sent) + length
        clock.follow(f"p{number}", sent, ready)
    told = clock.metrics()
    assert min(told.values()) >= 0
    assert sum(told.values()) == pytest.approx(sum(length for _, length in steps), abs=1e-9)


def test_share_of_the_peak_is_of_useful_flops():
    devices = Devices()
    clock = devices.clock()
    phase(devices, clock, "update", 0.0, 4.0)
    phase(devices, clock, "save", 4.0, 5.0)
    told = clock.metrics(flops={"update": 8e12, "elsewhere": 1.0}, peak=4e12)
    assert told == {"time/update_s": 4.0, "time/save_s": 1.0, "mfu/update": 0.5}


def test_memory_is_told_for_the_phase_that_raised_the_mark():
    devices = Devices([{"peak_bytes_in_use": 1_000_000_000, "bytes_in_use": 5}, {"peak_bytes_in_use": 10, "bytes_in_use": 7_000_000_000}])
    clock = devices.clock()
    phase(devices, clock, "rollout", 0.0, 1.0)
    devices.stats[1]["peak_bytes_in_use"] = 9_000_000_000
    phase(devices, clock, "update", 1.0, 2.0)
    phase(devices, clock, "save", 2.0, 3.0)
    told = {name: value for name, value in clock.metrics().items() if name.startswith("memory/")}
    assert told == {"memory/rollout_peak_gb": 1.0, "memory/update_peak_gb": 9.0, "memory/peak_gb": 9.0, "memory/in_use_gb": 7.0}


def test_real_programs_on_a_cpu():
    """Ready before metrics returns; no memory and no share of a peak are told."""
    clock, work = Clock(), jax.jit(lambda x: x @ x)
    started, out = clock.now(), work(jnp.ones((64, 64)))
    clock.follow("work", started, out)
    with clock.phase("update"):
        jax.block_until_ready(work(out))
    assert out.is_ready() and device_memory() == []
    assert clock.metrics(flops={"work": 1.0}).keys() == {"time/work_s", "time/update_s"}
