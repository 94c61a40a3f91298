"""How long a step waits for a judge of two seconds that answers sixteen at a time: as long as arithmetic says, and the timeline of it.

`pytest tests/services/test_waiting.py -m nightly -s` prints the timelines. It times, so it wants a machine with nothing else to do.
"""

import contextlib
import time

import numpy as np
import pytest
from judge_server import PATIENT
from small_checkpoint import call

from editr2_jax.rewards.panel import Panel
from editr2_jax.runtime import metrics
from editr2_jax.training.edit_r2 import EditR2

DELAY_S, SLOTS, GROUP, TURNS, STEPS = 2.0, 16, 8, 3, 4
CONFIG = "configs/tabletop_edit_r2.py"
WIDTH = 100
pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.fixture
def spans(monkeypatch):
    """(what, its start, its end) of the phases of a step; of "drawn", the moment at which a turn's pictures were there."""
    found, phase, submit = [], EditR2._phase, Panel.submit

    @contextlib.contextmanager
    def timed(self, name, step):
        began = time.monotonic()
        with phase(self, name, step):
            yield
        found.append((name, began, time.monotonic()))

    def submitted(self, episodes):
        found.append(("drawn", time.monotonic(), time.monotonic()))
        return submit(self, episodes)

    monkeypatch.setattr(EditR2, "_phase", timed)
    monkeypatch.setattr(Panel, "submit", submitted)
    return found


def picture(spans, asked, line) -> str:
    """A step on a line of time: phases, turns as they are drawn, and how many questions are with the judge."""
    began = max(start for name, start, _ in spans if name == "rollout")
    ended = max(end for name, start, end in spans if name == "update" and start > began)
    place = lambda at: min(max(int((at - began) / (ended - began) * WIDTH), 0), WIDTH - 1)  # noqa: E731
    rows = {}
    for name in ("rollout", "drawn", "reward_wait", "update"):
        rows[name] = [" "] * WIDTH
        for what, start, end in spans:
            if what == name and began <= start <= ended:
                rows[name][place(start) : place(end) + 1] = ("|" if name == "drawn" else "#") * (place(end) + 1 - place(start))
    ticks = began + (np.arange(WIDTH) + 0.5) / WIDTH * (ended - began)
    rows["judge"] = [f"{min(n, 15):X}" if (n := sum(at <= tick < at + DELAY_S for at in asked)) else " " for tick in ticks]
    step, wait, asked = line["time/step_s"], line["time/reward_wait_s"], line["judge/requests"]
    head = f"step {line['step']}: {step:.1f} s, {wait:.2f} s of it waiting, {asked:.0f} questions"
    return "\n".join([head, *(f"{name:>12} {''.join(rows[name])}" for name in ("rollout", "drawn", "judge", "reward_wait", "update"))])


@pytest.mark.parametrize(("sessions", "steps"), [(1, 8), (1, 64), (2, 64)])
def test_a_step_waits_as_long_as_it_must(server, tmp_path, spans, sessions, steps):
    """One or two groups of eight, three turns, IF and GA; drawing is made longer by its denoising steps."""
    server.control(delay_s=DELAY_S)
    settings = {
        "data.sessions": sessions, "data.group": GROUP, "step.rows": GROUP, "step.updates": 1, "rollout.turns": TURNS,
        "rollout.flow.grid_points": steps + 1, "loop.steps": STEPS, "evaluate.before": False, "evaluate.sessions": GROUP,
        "evaluate.rows": GROUP, "doctor.before": False, "rewards.answerer": "vlm", "rewards.workers": 3 * SLOTS,
        "rewards.vlm.urls": f"('{server.url}',)", "rewards.vlm.model": "judge", "rewards.vlm.concurrency": SLOTS,
    }  # fmt: skip
    patience = {f"rewards.vlm.{name}": value for name, value in PATIENT.items()}
    told = [f"--config.{name}={value}" for name, value in (settings | patience).items()]
    outcome = call("train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *told)
    assert outcome.status == 0, outcome.err
    last = metrics.read(tmp_path / "run")[-1]  # the first one compiles
    end = max(end for name, _, end in spans if name == "update")  # the evaluation behind it asks, too
    print("\n" + picture(spans, [question["at"] for question in server.questions() if question["at"] < end], last))
    assert last["reward/error_share"] == 0 and last["judge/requests"] > 0
    drawn_at = max(start for name, start, _ in spans if name == "drawn" and start < end)
    answered_at = max(question["at"] for question in server.questions() if question["at"] < end) + DELAY_S
    assert last["time/reward_wait_s"] < max(answered_at - drawn_at, 0.0) + 1.0  # a second for what a machine does besides
