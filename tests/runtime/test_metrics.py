"""metrics.jsonl has each step once, whatever happened to the process that wrote it."""

import io
import json
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.runtime import metrics
from editr2_jax.runtime.metrics import MetricsWriter


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def writer(directory, start=0, **kwargs):
    return MetricsWriter(directory, start=start, total=10, stream=io.StringIO(), **kwargs)


def test_one_line_a_step_of_any_kind_of_number(tmp_path):
    with writer(tmp_path) as out:
        out.write(0, {"reward/mean": 0.5, "loss/total": np.float32(1.5), "image/clip_fraction": jnp.float32(0.25), "filter/dropped": 3})
        out.write(1, {"reward/if/turn_1": jnp.bfloat16(2.0)})
    assert lines(tmp_path) == [
        {"step": 0, "reward/mean": 0.5, "loss/total": 1.5, "image/clip_fraction": 0.25, "filter/dropped": 3.0},
        {"step": 1, "reward/if/turn_1": 2.0},
    ]
    assert metrics.read(tmp_path) == lines(tmp_path)


def test_what_is_not_finite_is_null(tmp_path):
    with writer(tmp_path) as out:
        out.write(0, {"reward/cc": float("nan"), "loss/total": np.inf, "reward/if": 0.0})
    assert lines(tmp_path) == [{"step": 0, "reward/cc": None, "loss/total": None, "reward/if": 0.0}]


def test_a_line_is_there_before_the_writer_is_closed(tmp_path):
    out = writer(tmp_path)
    out.write(0, {"loss/total": 1.0})
    assert len(lines(tmp_path)) == 1
    out.close()


def test_resuming_drops_the_resumed_step_and_all_after_it(tmp_path):
    with writer(tmp_path) as out:
        for step in range(6):
            out.write(step, {"loss/total": step})
    with writer(tmp_path, start=4) as out:
        for step in range(4, 8):
            out.write(step, {"loss/total": 10 * step})
    assert [(line["step"], line["loss/total"]) for line in lines(tmp_path)] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
        (5, 50),
        (6, 60),
        (7, 70),
    ]


@pytest.mark.parametrize("torn", [b'{"step": 2, "loss/tot', b'{"step": 2, "loss/total": 1.0}', b"{", b"\xff\xfe"])
def test_a_torn_last_line_is_repaired(tmp_path, torn):
    with writer(tmp_path) as out:
        for step in range(2):
            out.write(step, {"loss/total": step})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    assert len(metrics.read(tmp_path)) == 2
    with writer(tmp_path, start=2) as out:
        out.write(2, {"loss/total": 2})
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


def test_a_line_broken_elsewhere_is_named_and_left_alone(tmp_path):
    broken = '{"step": 0}\n{"step": \n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(broken)
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a line of metrics"):
        writer(tmp_path, start=3)
    assert (tmp_path / "metrics.jsonl").read_text() == broken


def test_steps_only_go_up(tmp_path):
    with writer(tmp_path, start=3) as out:
        out.write(3, {"loss/total": 1})
        for step in (3, 2):
            with pytest.raises(ValueError, match=f"step {step} comes after step 3"):
                out.write(step, {"loss/total": 1})


@pytest.mark.parametrize("name", ["loss", "Loss/total", "loss/", "/loss", "loss total/x", "step"])
def test_names_are_area_and_quantity(tmp_path, name):
    with writer(tmp_path) as out, pytest.raises(ValueError, match="is not of the form area/quantity"):
        out.write(0, {name: 1.0})


@pytest.mark.parametrize("value", [np.zeros(2), "1", None, np.zeros(0)])
def test_a_metric_is_one_number(tmp_path, value):
    with writer(tmp_path) as out, pytest.raises(ValueError, match="loss/total wants one number"):
        out.write(0, {"loss/total": value})
    assert lines(tmp_path) == []


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    stream = io.StringIO()
    with MetricsWriter(tmp_path / "run", start=0, total=1, stream=stream) as out:
        out.write(0, {"loss/total": 1})
        out.say("hello")
    assert not (tmp_path / "run").exists() and stream.getvalue() == ""


def test_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write here"):
        writer(tmp_path / "file")


def test_nothing_written_yet_reads_as_nothing(tmp_path):
    assert metrics.read(tmp_path) == []


WRITE_FOR_EVER = """
import io, sys
from editr2_jax.runtime.metrics import MetricsWriter
out = MetricsWriter(sys.argv[1], start=int(sys.argv[2]), total=10**9, stream=io.StringIO())
for step in range(int(sys.argv[2]), 10**9):
    out.write(step, {f"area/quantity_{i}": step / 7 for i in range(200)})
    print(step, flush=True)
"""


def test_kills_leave_each_step_once(tmp_path):
    start = 0
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True)
        try:
            told = [int(child.stdout.readline()) for _ in range(20)]
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        assert {line["step"] for line in metrics.read(tmp_path)} >= set(told)
        start = told[-1] - 5
    with writer(tmp_path, start=start):
        pass
    assert [line["step"] for line in lines(tmp_path)] == list(range(start))
