"""A server's socket, its patience with connections, and its end.

It listens on this machine alone, unless it is told to be public, which takes a token. uvicorn waits for the head of a request, and for a
client that does not read its answer, for ever; the protocol below does not. SIGTERM: no new connections, what is being answered is
answered, exit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import os
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from editr2_jax.runtime import signals

_IDLE_S = 30.0  # between two requests of a connection; clients let go of theirs earlier, so that none meets a closing one
_BACKLOG = 128
_HEAD_BYTES = 16384


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How connections are borne with."""

    head_s: float = 10.0  # until the head of a connection's first request is there, or that of one that has begun
    write_s: float = 60.0  # for a client to take its answer
    max_connections: int = 256
    grace_s: float = 30.0  # for what is being answered when the server is told to stop

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; give a positive number.")


def token_of(name: str) -> str:
    """The token in an environment variable; empty for no name. Raises ValueError where it is not set, too short, or fit for no header."""
    if not name:
        return ""
    token = os.environ.get(name, "").strip()
    if not token:
        raise ValueError(f"--token-env={name}: that variable is not set in the environment; export it before the start.")
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"--token-env={name}: a token is 16 or more printable ASCII characters without spaces; make one with `openssl rand -hex 32`."
        )
    return token


def bind(host: str, port: int, *, public: bool, token: str) -> socket.socket:
    """A socket of that address, which does not listen yet; port 0 takes a free one.

    Raises ValueError for an address beyond this machine unless it is meant, and never without a token.
    """
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port={port}: give a number below 65536, or 0 for a free one.")
    if public and not token:
        raise ValueError(
            "--public lets other machines in, which takes a token; name the environment variable that holds it in --token-env."
        )
    try:
        where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ValueError(
            f"--host={host}: there is no such address ({error.strerror}); give 127.0.0.1, or one of this machine's."
        ) from error
    address = where[4][0]
    if not public and not ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"--host={host} is reached from other machines; give 127.0.0.1, or --public and a --token-env if that is meant.")
    bound = socket.socket(where[0], where[1])
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where[4])
    except OSError as error:
        bound.close()
        raise ValueError(f"--host={host} --port={port}: the address cannot be taken ({error.strerror}); give another port.") from error
    return bound


def run(app: Starlette, bound: socket.socket, patience: Patience, *, say: Callable[[str], None]) -> None:
    """Answers until SIGTERM or Ctrl-C. say: takes the address, once connections are taken."""
    config = uvicorn.Config(
        app,
        http=lambda **told: _Protocol(patience, **told),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # a line for every stranger's nonsense would fill disks, and a pipe that nobody reads would stop the server
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=patience.grace_s,
        backlog=_BACKLOG,
    )
    host, port = bound.getsockname()[:2]
    with signals.stop_flag():  # uvicorn raises the signal again when it has stopped: here it ends in a flag, and the exit status is 0
        bound.listen(_BACKLOG)
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        uvicorn.Server(config).run(sockets=[bound])


class _Protocol(H11Protocol):
    """A connection that is hung up on when it keeps the server waiting."""

    def __init__(self, patience: Patience, **told):
        super().__init__(**told)
        self._patience = patience
        self._head: asyncio.TimerHandle | None = None  # runs while the head of a request is waited for
        self._writing: asyncio.TimerHandle | None = None  # runs while the client does not take its answer

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._patience.max_connections:
            self.transport.write(_plain(503, "Too many connections; come back later.", "Retry-After: 1\r\n"))
            self.transport.close()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._head, self._writing):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()
        super().data_received(data)
        if self._head is not None and self.cycle is not None and not self.cycle.response_complete:  # the head has come
            self._head.cancel()
            self._head = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # close would wait for what the client does not take
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._patience.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP; nothing can follow it."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_plain(400, f"{msg} Heads may have {_HEAD_BYTES} bytes."))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self._patience.head_s, self.transport.abort)


def _plain(status: int, message: str, headers: str = "") -> bytes:
    """A whole answer, for when no application is reached."""
    body = json.dumps({"error": {"status": status, "message": message}}).encode()
    reason = {400: "Bad Request", 503: "Service Unavailable"}[status]
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return head.encode() + body
