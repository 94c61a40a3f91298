"""Preflight: each check finds what it is there to find, and says who and what to do."""

import importlib.metadata
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from editr2_jax.porting import safetensors_io
from editr2_jax.runtime import preflight, workdir


def test_advice_belongs_to_what_is_not_ok():
    with pytest.raises(ValueError, match="advice belongs to what is not ok"):
        preflight.Finding(name="x", ok=True, evidence="fine", advice="do something")
    with pytest.raises(ValueError, match="advice belongs to what is not ok"):
        preflight.Finding(name="x", ok=False, evidence="broken")


HAS = {"jax": "0.10.2", "numpy": "2.4.6"}


def has(name):
    if name not in HAS:
        raise importlib.metadata.PackageNotFoundError(name)
    return HAS[name]


@pytest.mark.parametrize(
    ("requirements", "python", "told"),
    [
        (["jax>=0.10.2", "numpy>=2.4", 'torch>=2; extra == "parity"'], ">=3.11", ""),
        (["jax>=0.11"], ">=3.11", "jax is 0.10.2, needed is >=0.11"),
        (["flax>=0.12"], ">=3.11", "flax is missing"),
        ([], ">=99", "needed is >=99"),
    ],
)
def test_versions_are_held_against_their_bounds(requirements, python, told):
    found = preflight.versions(requirements, needs_python=python, version=has)
    assert found.ok == (not told) and told in found.evidence


def test_the_package_s_own_bounds_hold_here():
    assert preflight.versions(importlib.metadata.requires("editr2_jax")).ok


def test_hosts_are_counted_and_found():
    assert preflight.hosts(["localhost", "127.0.0.1"], processes=2).ok
    assert preflight.hosts(["localhost"], processes=2).evidence == "1 hosts for 2 processes"
    lost = preflight.hosts(["localhost", "no such host"], processes=2)
    assert not lost.ok and "no address for no such host" in lost.evidence


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def meet(port, came, *, processes=3, deadline=20.0, names=("a", "b", "c")):
    """What each process that came was told."""

    def one(process):
        return preflight.rendezvous(
            f"127.0.0.1:{port}", processes=processes, process=process, deadline=deadline, names=names, listen_on="127.0.0.1"
        )

    with ThreadPoolExecutor(len(came)) as pool:
        return list(pool.map(one, came))


def test_processes_meet_whoever_comes_first(port):
    assert all(found.ok and f"3 processes met at 127.0.0.1:{port}" == found.evidence for found in meet(port, [2, 1, 0]))


def test_everyone_is_told_which_host_did_not_come(port):
    for found in meet(port, [0, 1], deadline=4.0):
        assert not found.ok and found.evidence == "after 4 s these processes had not come: 2 (c)"


def test_a_coordinator_that_is_not_there_is_named(port):
    (found,) = meet(port, [1], deadline=0.3)
    assert not found.ok and f"did not reach 127.0.0.1:{port} within 0.3 s" in found.evidence and "firewall" in found.advice


def test_a_port_that_is_taken_is_said(port):
    with socket.create_server(("127.0.0.1", port)):
        (found,) = meet(port, [0], deadline=1.0)
    assert not found.ok and f"cannot listen at 127.0.0.1:{port}" in found.evidence


def test_a_stranger_at_the_port_is_not_counted(port):
    over, heard = threading.Event(), threading.Event()

    def stranger():
        while not over.wait(0.01):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(b"GET / HTTP/1.1\n")
                    heard.set()
                    return
            except ConnectionRefusedError:
                continue

    thread = threading.Thread(target=stranger)
    thread.start()
    (found,) = meet(port, [0], processes=2, deadline=3.0)
    over.set()
    thread.join()
    assert heard.is_set() and not found.ok and "had not come: 1 (b)" in found.evidence


@pytest.mark.parametrize(("coordinator", "process"), [("nowhere", 0), ("h:70000", 0), (":80", 0), ("h:80", 2), ("h:80", -1)])
def test_an_address_or_process_that_cannot_be_is_refused(coordinator, process):
    with pytest.raises(ValueError, match="give HOST:PORT|counted from 0"):
        preflight.rendezvous(coordinator, processes=2, process=process, deadline=1.0)


ANSWER = "import json; print('noise'); print(json.dumps({'platform': 'tpu', 'kind': 'TPU v5 lite', 'here': 4}))"


@pytest.mark.parametrize(
    ("code", "expected", "told"),
    [
        (ANSWER, 4, "4 x TPU v5 lite (tpu) on this host"),
        (ANSWER, None, "4 x TPU v5 lite (tpu) on this host"),
        (ANSWER, 8, "expected are 8"),
        ("raise RuntimeError('Unable to initialize backend')", 4, "jax found none: RuntimeError: Unable to initialize backend"),
        ("import time; time.sleep(60)", 4, "no answer within 1 s"),
    ],
)
def test_devices_are_asked_in_a_process_of_their_own(code, expected, told):
    found = preflight.devices(expected=expected, deadline=1.0 if "sleep" in code else 60.0, code=code)
    assert told in found.evidence and found.ok == told.startswith("4 x")


@pytest.mark.slow
def test_devices_of_this_machine_are_counted(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert preflight.devices(expected=3).evidence == "3 x cpu (cpu) on this host"


def test_a_workdir_is_written_and_left_as_it_was(tmp_path):
    assert preflight.workdir(str(tmp_path / "new"), free_gb=0).ok
    assert list((tmp_path / "new").iterdir()) == []
    full = preflight.workdir(str(tmp_path), free_gb=1e9)
    assert not full.ok and "wanted are 1e+09" in full.evidence


def test_a_workdir_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    found = preflight.workdir(str(tmp_path / "file" / "run"))
    assert not found.ok and "Not a directory" in found.evidence


def test_an_address_is_no_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = preflight.workdir("gs://bucket/run")
    assert not found.ok and "a run appends to its files and locks them" in found.evidence
    with pytest.raises(ValueError, match="^gs://bucket/run: a run appends .* on a disk that all hosts mount, as --workdir.$"):
        workdir.writable("gs://bucket/run")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def weights(tmp_path):
    safetensors_io.write(tmp_path / "model.safetensors", {"a": ((4, 4), np.float32, lambda: np.ones((4, 4), np.float32))})
    return tmp_path


def test_a_sound_checkpoint(weights):
    assert preflight.checkpoint(weights).ok


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], "is cut short"),
        (lambda data: data[:4], "is cut short"),
        (lambda data: data[:8] + b"x" + data[9:], "has no sound head"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_damaged_checkpoint_is_named(weights, damage, told):
    file = weights / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    found = preflight.checkpoint(weights)
    assert not found.ok and f"model.safetensors {told}" in found.evidence


def test_a_checkpoint_that_is_not_on_this_host_is_said(tmp_path):
    assert "has no *.safetensors on this host" in preflight.checkpoint(tmp_path).evidence
    assert "is no folder on this host" in preflight.checkpoint(tmp_path / "gone").evidence


@pytest.fixture
def judge():
    """A server with an open /v1/models, unless told otherwise; `answers` maps a path to a status."""

    class Judge(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(self.server.answers.get(self.path, 404))
            self.end_headers()
            self.wfile.write(json.dumps({"data": []}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.answers, server.seen = {"/v1/models": 200}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answers", "ok", "told"),
    [
        ({"/v1/models": 200}, True, "/v1/models answers"),
        ({"/health": 200}, True, "/health answers"),
        ({"/v1/models": 401}, False, "/v1/models answers 401"),
        ({"/v1/models": 503, "/health": 503}, False, "/v1/models answers 503"),
    ],
)
def test_a_judge_answers(judge, answers, ok, told):
    judge.answers = answers
    found = preflight.endpoint(judge.url + "/v1/", token="secret")
    assert found.ok == ok and told in found.evidence and "secret" not in found.evidence + found.advice
    assert judge.seen[0] == ("/v1/models", "Bearer secret")


def test_a_judge_that_is_not_there(port):
    found = preflight.endpoint(f"http://127.0.0.1:{port}", timeout=1.0)
    assert not found.ok and "refused" in found.evidence
    with pytest.raises(ValueError, match="is no address"):
        preflight.endpoint("file:///etc/passwd")
