"""The progress line: in place on a terminal, plain in a file."""

import io

from editr2_jax.runtime import progress
from editr2_jax.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def ticking(*seconds):
    moments = iter(seconds)
    return lambda: next(moments)


WATCH = {"reward": "reward/mean", "loss": "loss/total"}


def test_a_file_gets_one_plain_line_a_step():
    file = io.StringIO()
    shown = Progress(start=0, total=100, watch=WATCH, stream=file, clock=ticking(0, 10, 12))
    shown.step(0, {"reward/mean": 0.5, "loss/total": 1e-4})
    shown.step(1, {"reward/mean": float("nan")})
    shown.close()
    assert file.getvalue() == (
        "step   1/100    1%  eta 16m30s  reward 0.500  loss 1.00e-04  10.00 s/step\n"  # the first step compiles
        "step   2/100    2%  eta 3m16s  reward nan  2.00 s/step\n"
    )


def test_a_terminal_gets_one_line_redrawn(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    terminal = Terminal()
    shown = Progress(start=0, total=3, watch=WATCH, stream=terminal, clock=ticking(0, 1, 2))
    shown.step(0, {})
    shown.step(1, {})
    shown.say("saved")
    shown.close()
    assert terminal.getvalue() == "\r\x1b[Kstep 1/3   33%  eta 2s \r\x1b[Kstep 2/3   67%  eta 1s \nsaved\n"


def test_a_resumed_run_says_so():
    file = io.StringIO()
    Progress(start=4, total=10, watch={}, stream=file)
    assert file.getvalue() == "resuming at step 4 of 10\n"


def test_durations_read_like_a_clock():
    assert [progress.clock_face(s) for s in (0, 42.4, 185, 7620, 273600)] == ["0s", "42s", "3m05s", "2h07m", "3d04h"]
