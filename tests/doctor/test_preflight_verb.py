"""`doctor --preflight` from the command line: flags that go together, findings as lines and JSON, exit statuses."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_checkpoint import call

MAIN = Path(__file__).parents[2] / "configs/tabletop_edit_r2.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--preflight", f"--config={MAIN}"), "--preflight wants --config=FILE.py and --workdir=DIR"),
        (("--preflight", f"--config={MAIN}", "--workdir=w", "--only=masks"), "leave it out with --preflight"),
        (("--preflight", f"--config={MAIN}", "--workdir=w", "--process=1"), "--process=I go together"),
        (("--preflight", f"--config={MAIN}", "--workdir=w", "--token_env=NO_SUCH_TOKEN"), "has no such variable; export it first"),
        ((f"--config={MAIN}", "--expect_devices=4"), "--expect_devices goes with --preflight"),
    ],
)
def test_flags_that_do_not_go_together(argv, message):
    outcome = call("doctor", *argv)
    assert outcome.status == 2 and message in outcome.err and "Traceback" not in outcome.err


def test_what_is_found_is_told_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "found.json"
    more = ["--hosts=localhost", "--coordinator=localhost:8482", "--processes=1", "--process=0", "--free_gb=0", f"--json={out}"]
    outcome = call("doctor", "--preflight", f"--config={MAIN}", f"--workdir={tmp_path / 'run'}", *more)
    assert outcome.status == 0 and outcome.out.endswith("preflight: 6 ok, 0 fail. The run can start.\n")
    found = json.loads(out.read_text())
    assert [finding["name"] for finding in found["findings"]] == ["versions", "workdir", "checkpoint", "hosts", "coordinator", "devices"]
    assert "jax" in found["versions"] and not (tmp_path / "run" / "config.json").exists()


def test_a_failure_is_an_exit_status_with_advice(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    more = ["--config.model.checkpoint=/no/such/folder", "--expect_devices=4096"]
    outcome = call("doctor", "--preflight", f"--config={MAIN}", f"--workdir={tmp_path}", *more)
    assert outcome.status == 1 and not outcome.err
    assert "'/no/such/folder' is no folder" in outcome.out and "expected are 4096" in outcome.out
    assert "2 fail. What to do:" in outcome.out and "devices: Is this the machine" in outcome.out


@pytest.mark.slow
def test_a_converted_checkpoint_is_one_too(small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    folder = tmp_path / "converted"
    assert call("port", "convert", f"--checkpoint={small_checkpoint}", f"--out={folder}", "--to=orbax").status == 0
    ask = (
        "doctor",
        "--preflight",
        f"--config={MAIN}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.checkpoint={folder}",
        "--free_gb=0",
    )
    outcome = call(*ask)
    assert outcome.status == 0 and f"{folder}:" in outcome.out and "converted parameters" in outcome.out, outcome.out
    shutil.rmtree(folder / "weights")
    outcome = call(*ask)
    assert outcome.status == 1 and "checkpoint: Copy it again, or convert it again." in outcome.out


@pytest.mark.slow
def test_two_processes_meet(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "editr2_jax", "doctor", "--preflight", f"--config={MAIN}", f"--workdir={tmp_path}", "--processes=2"]
    both = [
        subprocess.Popen([*command, f"--process={at}", f"--coordinator=127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True)
        for at in (1, 0)
    ]
    for process in both:
        out, _ = process.communicate()
        assert process.returncode == 0 and f"2 processes met at 127.0.0.1:{port}" in out
