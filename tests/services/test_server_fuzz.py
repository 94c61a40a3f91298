"""Thousands of requests that no decent client sends, and in between those of one: the server answers the one and survives the others."""

import base64
import collections
import concurrent.futures
import gzip
import pickle
import random
import socket

import pytest
from eyes_server import JSON, MSGPACK, EyesServer
from test_wire import chunk, png

from editr2_jax.services import wire
from editr2_jax.tabletop import perception, world

REQUESTS, THREADS = 12_000, 4
TOKEN = "correct-horse-battery-staple"
NAMES = ["orange cross", "stone blue ring", "pink ball", "sign"]
PICTURES = [world.make_session("train", 0, row, turns=1, subset="memory", size=(32, 32))[1] for row in range(4)]
FILES = [wire.to_png(picture) for picture in PICTURES]
TRICKS = (
    "../../etc/passwd",
    "/proc/self/environ",
    "file:///etc/shadow",
    "..\\..\\x",
    "%2e%2e%2f",
    "\0",
    "$(reboot)",
    "{{7*7}}",
    "con",
    "a" * 300,
)
EXPECTED = {200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 501}


class Attacker:
    """One connection at a time, kept as long as the server keeps it, and a stream of requests that a seed decides."""

    def __init__(self, port, seed):
        self.port, self.chance, self.connection = port, random.Random(seed), None
        self.kinds = [name for name in dir(self) if name.startswith("send_")]
        self.statuses = collections.Counter()  # (kind, status); 0: no answer
        self.wrong = []  # what a decent request got instead of its answer

    def attack(self, count, truth):
        for number in range(count):
            row = self.chance.randrange(len(FILES))
            if number % 10 == 0:
                self.decent(row, truth[row])
            else:
                kind = self.chance.choice(self.kinds)
                self.statuses[kind, getattr(self, kind)(FILES[row])] += 1

    def decent(self, row, truth):
        status, content = self.request(self.head(MSGPACK), wire.MSGPACK.write({"picture": FILES[row], "phrases": NAMES}))
        if status != 200 or wire.read_detections(wire.MSGPACK.read(content)["detections"], NAMES) != truth:
            self.wrong.append((status, content))
        self.statuses["decent", status] += 1

    # What is sent: each returns the status --------------------------------------------------------------------------------------------

    def send_random_bytes(self, _):
        kind = self.chance.choice([MSGPACK, JSON, "application/x-msgpack", "text/html", "application/octet-stream", "x" * 50])
        return self.request(self.head(kind), self.chance.randbytes(self.chance.randrange(300)))[0]

    def send_damaged_msgpack(self, file):
        return self.request(self.head(MSGPACK), self.damaged(wire.MSGPACK.write({"picture": file, "phrases": NAMES})))[0]

    def send_damaged_json(self, file):
        body = wire.JSON.write({"picture": base64.b64encode(file).decode(), "phrases": NAMES})
        return self.request(self.head(JSON), self.damaged(body))[0]

    def send_damaged_picture(self, file):
        return self.message({"picture": self.damaged(file), "phrases": NAMES})

    def send_nested(self, _):
        depth = self.chance.randrange(1, 50_000)
        kind, body = self.chance.choice(
            [(JSON, b"[" * depth), (JSON, b'{"a":' * depth), (MSGPACK, b"\x91" * depth), (MSGPACK, b"\x81\xa1a" * depth)]
        )
        return self.request(self.head(kind), body)[0]

    def send_bomb(self, _):
        side = self.chance.randrange(1500, 1 << 31)
        text = chunk(b"zTXt", b"k\0\0" + gzip.zlib.compress(b"\0" * 2_000_000))
        small = wire.to_png(PICTURES[0])
        return self.message({"picture": self.chance.choice([png(side, side), small[:33] + text + small[33:]]), "phrases": NAMES})

    def send_pickle(self, file):
        body = pickle.dumps({"picture": file, "phrases": NAMES}, self.chance.randrange(pickle.HIGHEST_PROTOCOL + 1))
        return self.request(self.head(self.chance.choice([MSGPACK, JSON, "application/x-pickle"])), body)[0]

    def send_huge_head(self, _):
        lines = [f"X-{self.chance.random()}: {'a' * self.chance.randrange(3000)}" for _ in range(self.chance.randrange(1, 30))]
        return self.request(self.head(MSGPACK, *lines), b"\xc0")[0]

    def send_path_trick(self, file):
        trick = self.chance.choice(TRICKS)
        way = self.chance.randrange(4)
        if way == 0:
            safe = trick.replace("\0", "%00").replace(" ", "%20")
            return self.request(self.head(MSGPACK, path=f"/v1/{safe}"), b"")[0]
        field = {1: {"picture": trick}, 2: {"path": trick, "picture": file}, 3: {"picture": trick.encode()}}[way]
        return self.message({"phrases": NAMES} | field)

    def send_odd_phrases(self, file):
        odd = self.chance.choice([[""], ["\n"], ["x" * 5000], ["\u202e"], ["a"] * 500, [1], {}, "red", None, [["a"]], ["\U0001f600"]])
        return self.message({"picture": file, "phrases": odd})

    def send_wrong_token(self, file):
        token = self.chance.choice(
            ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {self.chance.random()}", f"Basic {TOKEN}", "\x7f" * 9, "é"]
        )
        body = wire.MSGPACK.write({"picture": file, "phrases": NAMES})
        return self.request(self.head(MSGPACK, token=token), body)[0]

    def send_packed(self, file):
        coding = self.chance.choice(["gzip", "deflate", "br", "zstd", "x"])
        body = gzip.compress(wire.MSGPACK.write({"picture": file, "phrases": NAMES}))
        return self.request(self.head(MSGPACK, f"Content-Encoding: {coding}"), body)[0]

    def send_other_method(self, _):
        method = self.chance.choice(["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD", "BREW"])
        path = self.chance.choice(
            ["/v1/detect", "/health", "/metrics", "/v1/models", "/", "*", "/v1/embed", "//v1/detect", "/?a=" + "b" * 2000]
        )
        return self.request(self.head("", method=method, path=path), b"", bodiless=method == "HEAD")[0]

    def send_no_http(self, _):
        return self.broken(
            self.chance.choice(
                [self.chance.randbytes(200), b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
            )
        )

    def send_false_length(self, file):
        body = wire.MSGPACK.write({"picture": file, "phrases": NAMES})
        length = self.chance.choice([len(body) - 7, len(body) + 7, -1, 10**30, "x", "0x10", "1, 1"])
        return self.broken(self.head(MSGPACK, f"Content-Length: {length}", framed=True) + body)

    def send_broken_pieces(self, file):
        size = self.chance.choice([b"5", b"zz", b"-1", b"fffffffffffffffff", b"5;" + b"e" * 500])
        return self.broken(self.head(MSGPACK, "Transfer-Encoding: chunked", framed=True) + size + b"\r\n" + file[:5] + b"\r\n")

    # How it is sent -------------------------------------------------------------------------------------------------------------------

    def damaged(self, data):
        """Some bytes changed, put in, taken out, or the end cut off."""
        data = bytearray(data)
        for _ in range(self.chance.randrange(1, 6)):
            place = self.chance.randrange(len(data) or 1)
            way = self.chance.randrange(4)
            if way == 0:
                data[place : place + 1] = self.chance.randbytes(1)
            elif way == 1:
                data[place:place] = self.chance.randbytes(self.chance.randrange(9))
            elif way == 2:
                del data[place : place + self.chance.randrange(9)]
            elif self.chance.random() < 0.2:
                del data[place:]
        return bytes(data)

    def head(self, kind, *lines, method="POST", path="/v1/detect", token=f"Bearer {TOKEN}", framed=False):
        told = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Authorization: {token}", f"Accept: {MSGPACK}", *lines]
        return "\r\n".join([*told, "", ""] if framed else told).encode("latin-1", "replace")

    def message(self, message):
        return self.request(self.head(MSGPACK), wire.MSGPACK.write(message))[0]

    def request(self, head, body, *, bodiless=False):
        """(status, content) over the kept connection, which is made anew once where the server had let go of it."""
        data = head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for fresh in (False, True):
            if fresh or self.connection is None:
                self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
            try:
                self.connection.sendall(data)
                answer = self.read(bodiless)
            except ConnectionError:
                answer = None
            if answer is not None:
                return answer
            self.connection.close()
            self.connection = None
        return 0, b""

    def read(self, bodiless):
        """One answer; None where the connection ends before it."""
        content = b""
        while b"\r\n\r\n" not in content:
            part = self.connection.recv(65536)
            if not part:
                return None
            content += part
        head, _, content = content.partition(b"\r\n\r\n")
        told = {name.lower(): value for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:])}
        length = 0 if bodiless else int(told.get(b"content-length", 0))
        while len(content) < length:
            content += self.connection.recv(65536)
        if told.get(b"connection") == b"close":
            self.connection.close()
            self.connection = None
        return int(head.split(b" ", 2)[1]), content

    def broken(self, data):
        """The status that comes back for what may be no whole request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
            except ConnectionError:
                answer = b""
        return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.slow
def test_nothing_that_is_sent_stops_it_fills_it_or_changes_what_it_says():
    truth = [perception.TabletopDetector().detect(picture, NAMES) for picture in PICTURES]
    flags = ("--token-env=EYES_TOKEN", "--max-body-bytes=200000", "--max-pixels=2000000", "--body-s=5", "--head-s=5")
    with EyesServer("detector", *flags, environment={"EYES_TOKEN": TOKEN}) as server:
        Attacker(server.port, 0).attack(300, truth)  # what grows once has grown
        before = server.resident()
        attackers = [Attacker(server.port, seed) for seed in range(1, THREADS + 1)]
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda attacker: attacker.attack(REQUESTS // THREADS, truth), attackers))
        grown, statuses = server.resident() - before, sum((attacker.statuses for attacker in attackers), collections.Counter())
        assert server.process.poll() is None
        status, told = server.stop()
    print(f"{statuses.total()} requests; memory {before >> 20} MB, {grown / (1 << 20):+.1f}")
    print(collections.Counter(status for _, status in statuses.elements()))
    assert statuses.total() == REQUESTS and not [wrong for attacker in attackers for wrong in attacker.wrong]
    assert statuses["decent", 200] == REQUESTS // 10
    assert {status for kind, status in statuses if kind not in ("send_no_http", "send_false_length", "send_broken_pieces")} <= EXPECTED, (
        statuses
    )
    assert {status for _, status in statuses} <= EXPECTED | {0}, statuses
    assert all(statuses[kind, 200] == 0 for kind in ("send_pickle", "send_bomb", "send_packed", "send_wrong_token", "send_path_trick"))
    assert grown < 64 << 20
    assert (status, told) == (0, "")  # not a line in its log: strangers do not fill disks
