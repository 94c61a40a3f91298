"""Plans side by side, as Markdown: one row per topology, and one per phase of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_GIB = 2**30


def markdown(plans: Sequence[Mapping[str, Any]]) -> str:
    """Plans as `told.as_json` gives them, or those of a search together. Seconds are bounds from the chips' figures, not measurements."""
    plans = [one for plan in plans for one in plan.get("plans", [plan]) if "refused" not in one]
    lines = [
        "| topology | devices | layouts (update, play, words) | rollouts a pass | largest need, GiB of | a step, s (nothing overlaps) "
        "| share of peak, at most | rollouts an hour | chip-hours for 1000 |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_topology, plans),
        "",
        "| topology | phase | calls | args | temps | need | TFLOP | compute, s | memory, s | wires, s | bound by | share |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_phase(plan, phase) for plan in plans for phase in plan["phases"]),
        "",
        *(f"`{plan['command']}` ({plan['compiler']})  " for plan in plans),
    ]
    return "\n".join(lines) + "\n"


def _topology(plan: Mapping[str, Any]) -> str:
    tight = max(plan["phases"], key=lambda phase: phase["need"])
    limit = f" of {plan['chip']['memory'] / _GIB:.2f}" if plan["chip"] else ""
    fits = not any(phase["too_much"] or not phase.get("fits", True) for phase in plan["phases"])
    need = f"{tight['need'] / _GIB:.2f}{limit} ({tight['name']})" + ("" if fits else ", DOES NOT FIT")
    laid, step = ", ".join(plan["mesh"][name] for name in ("train", "rollout", "words")), plan["step"]
    cells = [_name(plan), str(plan["devices"]), laid, str(plan["rows"]), need]
    if step is None:
        return f"| {' | '.join(cells)} | | | | |"
    share = step["useful"] / step["peak"] / step["bound"]
    cells += [f"{step['bound']:.0f} ({step['apart']:.0f})", f"{share:.0%}", f"{3600 * step['sessions'] / step['bound']:.0f}"]
    return f"| {' | '.join(cells)} | {step['chip_hours_per_1000']:.1f} |"


def _name(plan: Mapping[str, Any]) -> str:
    return f"{plan['topology']} ({plan['varied']})" if plan.get("varied") else plan["topology"]


def _phase(plan: Mapping[str, Any], phase: Mapping[str, Any]) -> str:
    gib = lambda name: f"{phase[name] / _GIB:.2f}"  # noqa: E731
    cells = [_name(plan), phase["name"], f"{phase['calls']:g}", gib("arguments"), gib("temporaries"), gib("need")]
    if "seconds" not in phase:
        return f"| {' | '.join(cells)} | {phase['flops'] / 1e12:.1f} | | | | {phase['too_much']} | |"
    seconds = phase["seconds"]
    slowest = max(seconds, key=seconds.get)
    times = [f"{seconds[name]:.3f}" for name in ("compute", "memory", "wires")]
    return f"| {' | '.join(cells)} | {phase['flops'] / 1e12:.1f} | {' | '.join(times)} | {slowest} | {phase['share']:.0%} |"
