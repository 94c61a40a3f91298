"""Devices that stand still or do each other's work: which share of a step that is, and a warning when it lasts.

    idle/data_share     = time/data_s / time/step_s
    idle/reward_share   = time/reward_wait_s / time/step_s
    idle/repeated_share = rollouts in batches that the devices cannot share evenly, of all of the step: each device plays them whole

Both times count from the moment the devices have nothing left to do (see clock.py), so what is waited for behind their backs costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SHARE = 0.1  # of a step: more is worth a warning
STEPS = 3  # in a row; a first step may wait for a judge to start
WAITS = {"idle/data_share": "time/data_s", "idle/reward_share": "time/reward_wait_s"}
WORDS = {
    "idle/data_share": "wait for sessions",
    "idle/reward_share": "wait for judges",
    "idle/repeated_share": "repeat each other's work",
}
ADVICE = {
    "idle/data_share": "put the sessions on a local disk, keep small pictures in memory (data.remember), or give the host more processors",
    "idle/reward_share": "add judges, let more questions be in flight (rewards.workers), or take a judge that answers sooner",
    "idle/repeated_share": "the pictures of a step differ in size, and no size fills the devices evenly: list few in data.shapes",
}


def shares(metrics: Mapping[str, float]) -> dict[str, float]:
    """The idle shares of a step, as far as its times are told; what is a share already stays one."""
    whole = metrics.get("time/step_s", 0.0)
    waited = {name: metrics[time] / whole for name, time in WAITS.items() if time in metrics} if whole > 0 else {}
    return waited | {name: metrics[name] for name in WORDS if name in metrics and name not in WAITS}


@dataclasses.dataclass(frozen=True)
class Streaks:
    """How many steps in a row, up to the latest, a share has been too large."""

    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def after(self, found: Mapping[str, float]) -> tuple[Streaks, list[str]]:
        """The streaks after one more step, whose shares are `found`, and a line for each that has just become long: once per streak."""
        lengths = {name: self.lengths.get(name, 0) + 1 for name, share in found.items() if share > SHARE}
        lines = [
            f"the devices {WORDS[name]} in {found[name]:.0%} of this step, and in more than {SHARE:.0%} of each of the last "
            f"{length}: {ADVICE[name]}."
            for name, length in lengths.items()
            if length == STEPS
        ]
        return Streaks(lengths), lines
