"""What a stranger cannot make the server hold, and for how long: pictures, texts, bodies and answers."""

import concurrent.futures
import socket
import time
import zlib

import dinov3_cases
import eyes_server
import numpy as np
import pytest
from eyes_server import MSGPACK, EyesServer, error_of
from test_server import ASK, found, head
from test_wire import chunk, png

from editr2_jax.services import wire

pytestmark = pytest.mark.slow


def test_a_thin_picture_costs_an_extractor_no_memory():
    thin = wire.to_png(np.zeros((1, 1 << 24, 3), np.uint8))
    assert len(thin) < 1 << 20
    with EyesServer("features", f"--folder={dinov3_cases.FOLDER / 'plain'}", kind="dinov3") as server:
        before = server.resident()
        code, told = server.post("/v1/embed", {"pictures": [thin]})
        assert code == 422 and "up to 16384 pixels a side, got 1x16777216" in error_of(told)
        assert server.resident() < before + (256 << 20)  # three bytes a pixel, and what the allocator keeps


def test_text_inside_a_picture_is_not_blown_up():
    bomb = png(4, 4)[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (64 << 20))) + wire.to_png(np.zeros((4, 4, 3), np.uint8))[33:]
    assert len(bomb) < 100_000
    with EyesServer("detector") as server:
        found(server)
        before = server.resident()
        for _ in range(3):
            code, _ = server.post("/v1/detect", ASK | {"picture": bomb})
            assert code == 400
        assert server.resident() < before + (30 << 20)


def test_bodies_that_are_refused_are_not_kept():
    with EyesServer("detector", "max_requests=2", "max_body_bytes=8000000", "body_s=8", kind="faulty") as server:
        server.post("/v1/detect", ASK)
        before = server.resident()
        half = head("Content-Length: 8000000") + b"\0" * 7_000_000
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(server.raw, half) for _ in range(16)]
            ends = time.monotonic() + 30
            while sum(answer.done() for answer in answers) < 14 and time.monotonic() < ends:
                time.sleep(0.05)
            assert server.resident() < before + (2 * 16 << 20) + (24 << 20)  # two are read, fourteen are dropped as they come
            statuses = sorted(answer.result().split(b" ", 2)[1] for answer in answers)
        assert statuses == [b"408"] * 2 + [b"503"] * 14


def slow_taker(server, pictures):
    """A connection that has asked for the features of as many pictures, 260 kB each, and does not read."""
    message = wire.MSGPACK.write({"pictures": [ASK["picture"]] * pictures})
    lines = (f"Content-Length: {len(message)}", f"Accept: {MSGPACK}")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(head(*lines, path="/v1/embed") + message)
    return connection


def taken(connection):
    """The head of an answer, and how much of its body came before the server hung up."""
    head, _, content = connection.recv(1024).partition(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    size = len(content)
    while size < length and (part := connection.recv(65536)):
        size += len(part)
    return head, size, length


def test_an_answer_that_is_not_taken_yet_counts_among_the_requests():
    with EyesServer("features", "--max-requests=1") as server, slow_taker(server, 64) as connection:
        calls = 'editr2_requests_total{path="/v1/embed",status="200"}'
        deadline = time.monotonic() + 60
        while not server.counted().get(calls) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.post("/v1/embed", {"pictures": [ASK["picture"]]})[0] == 503  # 17 MB wait in memory
        said, size, length = taken(connection)
        assert said.startswith(b"HTTP/1.1 200 ") and size == length > 16_000_000
        assert server.post("/v1/embed", {"pictures": [ASK["picture"]]})[0] == 200


def test_taking_an_answer_may_last_longer_than_an_idle_connection():
    """What `--write-s` allows is not cut short by the patience with connections on which nothing happens."""
    shorter = "from editr2_jax.services import server_process; server_process._IDLE_S = 0.3"
    with EyesServer("features", "--write-s=60", before=shorter) as server, slow_taker(server, 64) as connection:
        time.sleep(3.0)
        _, size, length = taken(connection)
        assert size == length > 16_000_000


def test_who_hangs_up_leaves_no_pictures_behind():
    seen = wire.MSGPACK.write(ASK | {"picture": wire.to_png(np.zeros((1000, 1000, 3), np.uint8)), "phrases": ["ball"]})
    slow = wire.MSGPACK.write(ASK | {"phrases": ["sleep 4"]})
    with (
        EyesServer("detector", "max_requests=3", kind="faulty") as faulty,
        socket.create_connection(("127.0.0.1", faulty.port), timeout=20) as busy,
    ):
        faulty.post("/v1/detect", ASK)
        busy.sendall(head(f"Content-Length: {len(slow)}") + slow)
        faulty.wait_until_inside(1)
        before = faulty.resident()
        for _ in range(40):  # 3 MB each, decoded
            with socket.create_connection(("127.0.0.1", faulty.port), timeout=20) as connection:
                connection.sendall(head(f"Content-Length: {len(seen)}") + seen)
                time.sleep(0.05)
        assert faulty.resident() < before + (40 << 20)


def test_an_answer_that_nobody_takes_is_dropped():
    message = wire.MSGPACK.write({"pictures": [ASK["picture"]] * 9})  # 2.4 MB come back
    ask = head(f"Content-Length: {len(message)}", path="/v1/embed").replace(
        MSGPACK.encode(), b"application/msgpack\r\nAccept: application/msgpack"
    )
    with EyesServer("features", "--max-pictures=9", "--write-s=0.5") as features, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", features.port))
        connection.sendall((ask + message) * 3)
        time.sleep(4.0)
        assert len(eyes_server.read_to_end(connection)) < 3 * 2_400_000
        assert features.ask("GET", "/health")[0] == 200
