"""Who is there, who is missing, and who has no business there."""

import socket
import threading
import time

import pytest

from editr2_jax.runtime import roll_call
from editr2_jax.runtime.roll_call import NotAllHere, Process, TurnedAway


@pytest.fixture
def where():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


class Come(threading.Thread):
    """A process of the run, as a thread."""

    def __init__(self, where: str, index: int, count: int, *, name: str = "m", within_s: float = 20.0):
        super().__init__(daemon=True)
        self.me, self.outcome = Process(index=index, count=count, name=name, pid=100 + index), None
        self._call = lambda: roll_call.take_part(where, self.me, within_s=within_s)
        self.start()

    def run(self):
        try:
            self._call()
            self.outcome = "here"
        except (NotAllHere, TurnedAway) as error:
            self.outcome = error

    def ended(self):
        self.join(30)
        return self.outcome


def test_all_go_on_once_the_last_has_come_and_the_port_is_free_again(where):
    for _ in range(2):
        late = [Come(where, index, 4) for index in (2, 0, 3)]
        time.sleep(0.2)
        assert [come.outcome for come in late] == [None] * 3
        assert [come.ended() for come in (*late, Come(where, 1, 4))] == ["here"] * 4


def test_one_that_is_missing_is_named_to_all(where):
    come = [Come(where, index, 4, within_s=4.0) for index in (0, 2)]
    for outcome in (one.ended() for one in come):
        assert isinstance(outcome, NotAllHere)
        assert str(outcome) == (
            f"host 1, host 3 did not come to the roll call at {where} within 4 s; there: host 0 (m, process 100), host 2 (m, process 102)."
        )


def test_one_that_is_lost_meanwhile_is_missing_again_and_may_come_back(where):
    first = Come(where, 0, 2)
    address = ("localhost", int(where.rpartition(":")[2]))
    deadline = time.monotonic() + 20
    while True:
        try:
            lost = socket.create_connection(address)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    three = Come(where, 2, 3)  # of another run
    assert isinstance(three.ended(), TurnedAway) and "counts 3 processes, host 0 (m, process 100) counts 2" in str(three.outcome)
    lost.sendall(b"GET / HTTP/1.1\r\n")
    assert lost.recv(10) == b"", "a stranger is let in nowhere"
    again = Come(where, 1, 2)
    assert (first.ended(), again.ended()) == ("here", "here")


def test_two_of_one_index(where):
    """Who comes second is turned away, whoever that is."""
    first, twins = Come(where, 0, 3), [Come(where, 1, 3, name=name) for name in ("m", "other")]
    deadline = time.monotonic() + 20
    while not any(twin.outcome for twin in twins):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second, one = sorted(twins, key=lambda twin: twin.outcome is None)
    assert isinstance(second.outcome, TurnedAway) and str(second.outcome) == (
        f"host 1 ({second.me.name}, process 101) came where host 1 ({one.me.name}, process 101) is already; "
        "give every process an index of its own."
    )
    last = Come(where, 2, 3)
    assert [come.ended() for come in (one, first, last)] == ["here"] * 3


def test_process_0_that_never_comes_is_named_with_the_reason(where):
    with pytest.raises(NotAllHere, match=rf"host 0 did not come to the roll call at {where} within 0.6 s \(.*refused\), says host 1"):
        roll_call.take_part(where, Process(index=1, count=2), within_s=0.6)
