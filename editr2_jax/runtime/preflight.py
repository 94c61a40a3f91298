"""Before a run starts on many hosts: is everything there that it needs. One function for each question; no model is loaded.

A function looks at one thing and returns a Finding; none raises for what it finds, since all of them are to be told at once. Whoever calls
them chooses the order: `rendezvous` before `devices`, since the chips of a TPU slice answer only while all of its hosts ask.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from editr2_jax.runtime.workdir import NO_ADDRESS

_DEVICES = """
import json, jax
here = jax.local_devices()
print(json.dumps({"platform": jax.default_backend(), "kind": here[0].device_kind, "here": len(here)}))
"""
_PAUSE = 0.2  # seconds between two tries to connect
_A_LINE = 4096  # bytes; longer is not one of ours
_LFS = b"version https://git-lfs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer to one question."""

    name: str
    ok: bool
    evidence: str  # what was seen
    advice: str = ""  # what to do; only where not ok

    def __post_init__(self):
        if self.ok == bool(self.advice):
            raise ValueError(
                f"Finding {self.name}: advice belongs to what is not ok, and only there; got ok={self.ok} and {self.advice!r}."
            )


def versions(
    requirements: Iterable[str], *, needs_python: str = ">=3.11", version: Callable[[str], str] = importlib.metadata.version
) -> Finding:
    """Python and the installed packages against their bounds. requirements: as in setup.py; those of extras are left aside.

    version: gives the installed version of a distribution, or raises PackageNotFoundError.
    """
    wrong, seen = [], 0
    python = platform.python_version()
    if not SpecifierSet(needs_python).contains(python, prereleases=True):
        wrong.append(f"Python is {python}, needed is {needs_python}")
    for needed in map(Requirement, requirements):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        seen += 1
        try:
            has = version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(has, prereleases=True):
            wrong.append(f"{needed.name} is {has}, needed is {needed.specifier}")
    if wrong:
        return _bad(
            "versions", "; ".join(wrong), "Install the package anew into an environment of its own: pip install -e '.[tpu]', or [cuda]."
        )
    return _good("versions", f"Python {python} and {seen} packages are within their bounds")


def hosts(names: Sequence[str], *, processes: int) -> Finding:
    """As many hosts as processes, and every name has an address."""
    if len(names) != processes:
        return _bad("hosts", f"{len(names)} hosts for {processes} processes", "Name every host once; each runs one process.")
    lost = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            lost.append(f"{name} ({error.strerror or error})")
    if lost:
        return _bad(
            "hosts", f"no address for {', '.join(lost)}", "Wait until these hosts are up; if they are, correct their names, or DNS."
        )
    return _good("hosts", f"{len(names)} named and found")


def rendezvous(
    coordinator: str, *, processes: int, process: int, deadline: float, names: Sequence[str] = (), listen_on: str = ""
) -> Finding:
    """All processes meet at the coordinator's port: process 0 listens, the others connect, and everyone is told who did not come.

    coordinator: HOST:PORT, whose port must be free; deadline: seconds; names: of the hosts by process, for the message; listen_on: the
    address that process 0 listens on, by default all. Raises ValueError for an address or a process number that cannot be.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator {coordinator!r} is no address; give HOST:PORT.")
    if not 0 <= process < processes:
        raise ValueError(f"process {process} of {processes} cannot be; processes are counted from 0.")
    if processes == 1:
        return _good("coordinator", "one process, nobody to meet")
    until = time.monotonic() + deadline
    try:
        absent = _gather(listen_on, int(port), processes, until) if process == 0 else _join(host, int(port), process, until, grace=deadline)
    except OSError as error:
        return _unreachable(coordinator, process, deadline, error)
    if absent:
        who = ", ".join(f"{at} ({names[at]})" if at < len(names) else str(at) for at in absent)
        return _bad("coordinator", f"after {deadline:g} s these processes had not come: {who}", _WHO_CAME_NOT)
    return _good("coordinator", f"{processes} processes met at {coordinator}")


_WHO_CAME_NOT = "Look into the logs of those hosts: did they start, and can they reach the coordinator's port?"


def _unreachable(coordinator: str, process: int, deadline: float, error: OSError) -> Finding:
    said = error.strerror or str(error) or type(error).__name__
    if process == 0:
        return _bad(
            "coordinator", f"cannot listen at {coordinator}: {said}", "End what holds the port (an old run?), or choose another port."
        )
    return _bad(
        "coordinator",
        f"process {process} on {socket.gethostname()} did not reach {coordinator} within {deadline:g} s: {said}",
        "Did process 0 start there? Then let the firewall pass this port between the hosts.",
    )


def devices(*, expected: int | None = None, deadline: float = 300.0, code: str = _DEVICES) -> Finding:
    """The devices of this host, asked in a process of its own: one that hangs is ended, and none is held when the run starts.

    expected: how many there must be on this host; None takes any. deadline: seconds. code: what that process runs.
    """
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=deadline)
    except subprocess.TimeoutExpired:
        return _bad(
            "devices",
            f"no answer within {deadline:g} s",
            "On a TPU slice all hosts must ask at once: is one missing, or is a run still going on?",
        )
    if done.returncode:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        return _bad(
            "devices", f"jax found none: {said}", "Was the right extra installed (tpu, cuda)? Is another process holding the devices?"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    told = f"{found['here']} x {found['kind']} ({found['platform']}) on this host"
    if expected is not None and found["here"] != expected:
        return _bad(
            "devices", f"{told}, expected are {expected}", "Is this the machine that was asked for? Is another process holding devices?"
        )
    return _good("devices", told)


def workdir(directory: str, *, free_gb: float = 5.0) -> Finding:
    """The folder of the run can be made, written into and read back, and has room."""
    if "://" in directory:
        return _bad("workdir", f"{directory}: {NO_ADDRESS}", "Mount a file system that all hosts share, and choose a folder there.")
    content, folder = uuid.uuid4().hex, Path(directory).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".preflight-{content}"
        probe.write_text(content)
        back = probe.read_text()
        probe.unlink()
    except OSError as error:
        return _bad(
            "workdir",
            f"{directory}: {error.strerror or error}",
            "Choose another --workdir, mount it on this host, or change its permissions.",
        )
    if back != content:
        return _bad(
            "workdir", f"{directory}: what was written did not come back", "This file system cannot be trusted with a run; choose another."
        )
    free = shutil.disk_usage(folder).free / 1e9
    if free < free_gb:
        return _bad(
            "workdir", f"{folder}: {free:.1f} GB free, wanted are {free_gb:g}", "Delete what is not needed, or choose another --workdir."
        )
    return _good("workdir", f"{folder} can be written, {free:.0f} GB free")


def checkpoint(folder: Path) -> Finding:
    """The folder holds *.safetensors that this host can read, each with a sound head and its whole length; no array is read."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            there = "has no *.safetensors" if folder.is_dir() else "is no folder"
            return _bad("checkpoint", f"{folder} {there} on this host", "Copy the checkpoint to every host, or mount it there.")
        wrong = [f"{file.name} {problem}" for file in files if (problem := _problem(file))]
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        return _bad(
            "checkpoint", f"{error.filename or folder}: {error.strerror or error}", "Change the permissions, or copy the checkpoint anew."
        )
    if wrong:
        return _bad("checkpoint", f"{folder}: {'; '.join(wrong)}", "Fetch these files again.")
    return _good("checkpoint", f"{folder}: {len(files)} file(s), {size / 1e9:.2f} GB")


def _problem(file: Path) -> str:
    """What is wrong with a safetensors file, by its head alone: eight bytes of length, then JSON that says where each array ends."""
    with file.open("rb") as opened:
        start = opened.read(8)
        if _LFS.startswith(start) and start:
            return "is a Git LFS pointer"
        length = int.from_bytes(start, "little")
        size = file.stat().st_size
        if len(start) < 8 or length + 8 > size:
            return "is cut short"
        try:
            head = json.loads(opened.read(length))
            end = max((entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no sound head"
    return "is cut short" if size < 8 + length + end else ""


def endpoint(url: str, *, timeout: float = 10.0, token: str = "") -> Finding:
    """A judge's server answers GET /v1/models, or else GET /health. token: sent as a bearer token; it is never shown.

    Raises ValueError for what is no http(s) address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"endpoint {url!r} is no address; give http://HOST:PORT or https://...")
    name, said = f"endpoint {url}", ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for path in ("/v1/models", "/health"):
        try:
            with urllib.request.urlopen(urllib.request.Request(_at(url, path), headers=headers), timeout=timeout):
                return _good(name, f"{path} answers")
        except urllib.error.HTTPError as error:
            said = said or f"{path} answers {error.code} {error.reason}"
            if error.code in (401, 403):
                return _bad(
                    name, f"{path} answers {error.code} {error.reason}", "It wants a token: --token_env=NAME of the variable that holds it."
                )
        except OSError as error:  # URLError, a timeout, a reset
            said = said or f"{path}: {getattr(error, 'reason', None) or error}"
    return _bad(name, said, "Start the judge, correct the address, or open the way to it from every host.")


def _at(url: str, path: str) -> str:
    """Addresses are given with and without /v1."""
    return url.rstrip("/").removesuffix("/v1") + path


def _gather(listen_on: str, port: int, processes: int, until: float) -> list[int]:
    """Process 0: waits for all the others, and tells each one who is absent; the absent ones."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as open_until_told, socket.create_server((listen_on, port), backlog=processes) as server:
        while len(came) < processes - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            open_until_told.callback(connection.close)
            connection.settimeout(min(2.0, left))
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a stranger at the door is no process of ours
                other = int(_read(connection)["process"])
                if 0 < other < processes:
                    came[other] = connection  # one that came twice lost its first connection
        absent = [other for other in range(1, processes) if other not in came]
        for connection in came.values():
            with contextlib.suppress(OSError):  # whoever has gone meanwhile will say so itself
                connection.sendall(json.dumps({"absent": absent}).encode() + b"\n")
    return absent


def _join(host: str, port: int, process: int, until: float, *, grace: float) -> list[int]:
    """Any other process: comes, and is told who is absent. Raises OSError where process 0 was not reached, or did not answer.

    grace: seconds by which process 0 may have begun later; its answer comes at its own deadline.
    """
    problem: OSError = TimeoutError("no time was given")
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(json.dumps({"process": process}).encode() + b"\n")
                connection.settimeout(left + grace)
                return [int(other) for other in _read(connection)["absent"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = error if isinstance(error, OSError) else ConnectionError(f"something else answers there ({error})")
            time.sleep(min(_PAUSE, max(0.0, until - time.monotonic())))
    raise problem


def _read(connection: socket.socket) -> Mapping[str, object]:
    """One line of JSON. Raises ValueError for anything else."""
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(_A_LINE)
        received += piece
        if not piece or len(received) > _A_LINE:
            raise ValueError("no line of JSON")
    return json.loads(received)


def _good(name: str, evidence: str) -> Finding:
    return Finding(name=name, ok=True, evidence=evidence)


def _bad(name: str, evidence: str, advice: str) -> Finding:
    return Finding(name=name, ok=False, evidence=evidence, advice=advice)
