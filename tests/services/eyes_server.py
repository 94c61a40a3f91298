"""Runs `python -m editr2_jax serve` in a process of its own, and speaks to it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from editr2_jax.services import wire

ROOT = Path(__file__).parents[2]
MSGPACK, JSON = wire.MSGPACK.media_type, wire.JSON.media_type


class EyesServer:
    """`serve ARGUMENTS`, by default the embedded world's; kind `faulty` is faulty_eyes.py; before: a line of Python. A context manager."""

    def __init__(self, verb, *flags, kind="tabletop", environment=None, before=""):
        program = ["-m", "editr2_jax", "serve", verb, f"--kind={kind}"]
        if before:
            program[:2] = ["-c", f"import sys; {before}; from editr2_jax.cli import main; sys.exit(main.main(sys.argv[1:]))"]
        if kind == "faulty":
            program = [str(Path(__file__).with_name("faulty_eyes.py")), verb]
        command = [sys.executable, *program, *flags]
        told = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.process = subprocess.Popen(command, cwd=ROOT, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline().strip()
        if not self.line:
            raise RuntimeError(f"the server did not start: {self.process.communicate()[1]}")
        self.model, _, self.url = self.line.partition(" at ")
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def stop(self, number=signal.SIGTERM):
        """(exit status, what it wrote to stderr) after a signal."""
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, *, on=None, **headers):
        """(status, headers, body) of one request; on: a connection to be used."""
        connection = on or self.connection()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            if on is None:
                connection.close()

    def post(self, path, message, form=wire.MSGPACK, **headers):
        """(status, message) of a request with a body."""
        body = message if isinstance(message, bytes) else form.write(message)
        status, told, content = self.ask("POST", path, body, **{"Content_Type": form.media_type, "Accept": form.media_type} | headers)
        return status, (wire.MSGPACK if told["content-type"] == MSGPACK else wire.JSON).read(content)

    def raw(self, data, *, timeout=60):
        """Everything that comes back until the server closes, for bytes that are no request of a decent client."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            return read_to_end(connection)

    def resident(self):
        """Bytes of memory that the process holds (Linux)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def addresses(self):
        """The addresses at which the process listens, in the kernel's hexadecimal (Linux)."""
        links = [os.readlink(path) for path in Path(f"/proc/{self.process.pid}/fd").iterdir() if path.is_symlink()]
        mine = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
        rows = [
            line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{self.process.pid}/net/{name}").read_text().splitlines()[1:]
        ]
        return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in mine}  # 0A: LISTEN

    def wait_until_inside(self, count):
        """Returns when so many requests are being read, waiting, or with the model."""
        ends = time.monotonic() + 30
        while (inside := self.counted()["editr2_requests_inside"]) != count:
            assert time.monotonic() < ends, f"{inside} requests are inside, not {count}"
            time.sleep(0.01)

    def counted(self, **headers):
        """The numbers of GET /metrics."""
        lines = self.ask("GET", "/metrics", **headers)[2].decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}


def read_to_end(connection):
    """What a socket still gives; a reset ends it too."""
    content = bytearray()
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionError:
        pass
    return bytes(content)


def error_of(told):
    """The message of a refusal, or of a raw answer that is one."""
    if isinstance(told, bytes):
        told = json.loads(told.partition(b"\r\n\r\n")[2])
    return told["error"]["message"]
