"""Who is there, before jax brings all processes together: jax waits for everybody and, in vain, names nobody.

Process 0 holds the coordinator's port until every other process has come and said who it is; one that is lost meanwhile is missing again.
Then all are told to go on, and the port is jax's. What is said is a line of JSON each way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import time

_LINE = 1024  # bytes; whoever says more is none of us
_ANSWER = 1024 * 1024
_RETRY_S = 0.5
_GOODBYE_S = 5.0  # for the others to let go of the port first


class NotAllHere(ConnectionError):
    """A process of the run did not come."""


class TurnedAway(ValueError):
    """This process may not take part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """One process of a run, as it introduces itself."""

    index: int
    count: int  # how many it thinks there are
    name: str = dataclasses.field(default_factory=socket.gethostname)
    pid: int = dataclasses.field(default_factory=os.getpid)

    def __str__(self) -> str:
        return f"host {self.index} ({self.name}, process {self.pid})"


def take_part(coordinator: str, me: Process, *, within_s: float) -> None:
    """Returns in all processes once the last of them has come to HOST:PORT. Raises NotAllHere, which names who is missing, in
    all that came, and TurnedAway in one that does not fit."""
    if me.index == 0:
        _Roll(coordinator, me, within_s).call()
    else:
        _answer(coordinator, me, within_s)


class _Roll:
    """Process 0's list of those that are there."""

    def __init__(self, coordinator: str, me: Process, within_s: float):
        self._where, self._me, self._within_s = coordinator, me, within_s
        self._came: dict[socket.socket, Process] = {}
        self._said: dict[socket.socket, bytes] = {}  # by those that have come in and are not known yet
        self._refused: list[str] = []

    def call(self) -> None:
        """Returns when all have come and let go of the port. Raises NotAllHere, and tells all that came, when the time is over."""
        ends = time.monotonic() + self._within_s
        with contextlib.ExitStack() as until, selectors.DefaultSelector() as ready:
            ready.register(until.enter_context(_listening(int(self._where.rpartition(":")[2]))), selectors.EVENT_READ)
            while len(self._came) < self._me.count - 1:
                for key, _ in ready.select(max(0.0, min(ends - time.monotonic(), 1.0))):
                    if key.fileobj in self._came or key.fileobj in self._said:
                        if not self._hear(key.fileobj):
                            ready.unregister(key.fileobj)
                            key.fileobj.close()
                        continue
                    connection = until.enter_context(key.fileobj.accept()[0])
                    connection.setblocking(False)
                    self._said[connection] = b""
                    ready.register(connection, selectors.EVENT_READ)
                if time.monotonic() > ends and len(self._came) < self._me.count - 1:
                    self._tell("missing", missing := self._missing())
                    raise NotAllHere(missing)
            self._tell("all here")
            ends = time.monotonic() + _GOODBYE_S
            for connection in self._came:  # whoever closes first keeps a port busy for a minute, and this one's is wanted
                connection.settimeout(max(0.01, ends - time.monotonic()))
                with contextlib.suppress(OSError):
                    connection.recv(1)

    def _hear(self, connection: socket.socket) -> bool:
        """What somebody says; False when it has gone, or has to."""
        try:
            said = connection.recv(_LINE)
        except OSError:
            said = b""
        if not said or connection in self._came:  # who is known has nothing more to say
            for known in (self._came, self._said):
                known.pop(connection, None)
            return False
        self._said[connection] += said
        if b"\n" not in said and len(self._said[connection]) < _LINE:
            return True
        return self._let_in(connection, self._said.pop(connection))

    def _let_in(self, connection: socket.socket, line: bytes) -> bool:
        try:
            who = Process(**json.loads(line))
            wrong = self._wrong(who)
        except (ValueError, TypeError):  # a stranger; nothing is owed to it
            return False
        if wrong:
            self._refused.append(wrong)
            _say(connection, "turned away", wrong)
            return False
        self._came[connection] = who
        return True

    def _wrong(self, who: Process) -> str:
        if who.count != self._me.count:
            return f"{who} counts {who.count} processes, {self._me} counts {self._me.count}; start all with the same number."
        if not 0 < who.index < who.count:
            return f"{who} is none of hosts 1 to {who.count - 1}, and {self._me} is host 0."
        twin = next((other for other in self._came.values() if other.index == who.index), None)
        return f"{who} came where {twin} is already; give every process an index of its own." if twin else ""

    def _missing(self) -> str:
        here = [self._me, *sorted(self._came.values(), key=lambda who: who.index)]
        gone = sorted(set(range(self._me.count)) - {who.index for who in here})
        names = ", ".join(f"host {index}" for index in gone)
        there = ", ".join(map(str, here))
        refused = "".join(f" Turned away: {sentence}" for sentence in self._refused)
        return f"{names} did not come to the roll call at {self._where} within {self._within_s:g} s; there: {there}.{refused}"

    def _tell(self, what: str, sentence: str = "") -> None:
        for connection in self._came:
            _say(connection, what, sentence)


def _answer(coordinator: str, me: Process, within_s: float) -> None:
    """Come, say who this is, and wait to be told to go on."""
    host, _, port = coordinator.rpartition(":")
    ends, reason = time.monotonic() + within_s, ""
    while time.monotonic() < ends:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0) as connection:
                connection.settimeout(max(0.0, ends - time.monotonic()) + _GOODBYE_S)  # host 0 knows better who is missing
                connection.sendall(json.dumps(dataclasses.asdict(me)).encode() + b"\n")
                with connection.makefile("rb") as file:
                    what, sentence = _heard(file.readline(_ANSWER))
        except OSError as error:
            what, reason = "", str(error)
        else:
            reason = "what answers there calls no roll"
        if what == "all here":
            return
        if what in ("missing", "turned away"):
            raise NotAllHere(sentence) if what == "missing" else TurnedAway(sentence)
        time.sleep(_RETRY_S)
    raise NotAllHere(
        f"host 0 did not come to the roll call at {coordinator} within {within_s:g} s ({reason}), says {me}; "
        "is process 0 running there, and is the port open between the hosts?"
    )


def _listening(port: int) -> socket.socket:
    """On every interface, as jax's service does afterwards."""
    both = socket.has_dualstack_ipv6()
    return socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024)


def _say(connection: socket.socket, what: str, sentence: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps([what, sentence]).encode() + b"\n")


def _heard(line: bytes) -> tuple[str, str]:
    """What process 0 says; nothing, if it is somebody else or has gone."""
    try:
        what, sentence = json.loads(line)
    except (ValueError, TypeError):
        return "", ""
    return str(what), str(sentence)
