"""Devices that stand still: which share of a step they wait for sessions or for judges, and a warning when that lasts.

    idle/data_share   = time/data_s / time/step_s
    idle/reward_share = time/reward_wait_s / time/step_s

Both times count from the moment the devices have nothing left to do (see clock.py), so what is waited for behind their backs costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SHARE = 0.1  # of a step: more is worth a warning
STEPS = 3  # in a row; a first step may wait for a judge to start
WAITS = {"idle/data_share": "time/data_s", "idle/reward_share": "time/reward_wait_s"}
WORDS = {"idle/data_share": "sessions", "idle/reward_share": "judges"}
ADVICE = {
    "idle/data_share": "put the sessions on a local disk, keep small pictures in memory (data.remember), or give the host more processors",
    "idle/reward_share": "add judges, let more questions be in flight (rewards.workers), or take a judge that answers sooner",
}


def shares(metrics: Mapping[str, float]) -> dict[str, float]:
    """The idle shares of a step, as far as its times are told."""
    whole = metrics.get("time/step_s", 0.0)
    return {name: metrics[time] / whole for name, time in WAITS.items() if time in metrics} if whole > 0 else {}


@dataclasses.dataclass(frozen=True)
class Streaks:
    """How many steps in a row, up to the latest, a share has been too large."""

    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def after(self, found: Mapping[str, float]) -> tuple[Streaks, list[str]]:
        """The streaks after one more step, whose shares are `found`, and a line for each that has just become long: once per streak."""
        lengths = {name: self.lengths.get(name, 0) + 1 for name, share in found.items() if share > SHARE}
        lines = [
            f"the devices waited for {WORDS[name]} during {found[name]:.0%} of this step, and more than {SHARE:.0%} of the last "
            f"{length}: {ADVICE[name]}."
            for name, length in lengths.items()
            if length == STEPS
        ]
        return Streaks(lengths), lines
