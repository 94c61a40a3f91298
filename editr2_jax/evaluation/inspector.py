"""The session inspector's data: a small index of everything that was played, and one block with all about each session.

The page reads the index when it opens and a block when somebody looks at its session, so that thousands of rollouts open at once. A group
is what the inspector shows side by side: the rollouts of one session in a training step, or a held-out session in the first and the last
evaluation.
    index: {"fields": [name], "failure": score that tells a failed turn, "labels": {score: label}, "groups": [{"id", "subset", "key",
      "where": "training" | "held-out", "step": int | null, "said": [[instruction, task type]], "rollouts": [[value of each field]]}]}
    block: {"source": picture, "formatted": [str], "rollouts": [[turn]]}, turns as recorded_run.py tells them
A picture is an address, or "@ID" for the picture of the element ID of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editr2_jax.evaluation import alarms, tables
from editr2_jax.evaluation.recorded_run import Evaluation, Run

FIELDS = ("step", "rewards", "first_failure", "filtered", "missing", "fallback", "copies")  # of a rollout in the index
DIGITS = 7  # of a number in the page: what float32 holds

Group = dict[str, Any]


def read(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(index, blocks) of a run; the group at place n of the index is told by block n. Latest training step first, held-out last."""
    failure = _failure(run.config)
    groups = [_training(step, number, group) for step in reversed(run.sessions) for number, group in enumerate(step["groups"])]
    groups += _held_out([evaluation for evaluation in run.evaluations if evaluation.records])
    index = {
        "fields": FIELDS,
        "failure": failure[0],
        "labels": tables.LABELS,
        "groups": [group["index"] | {"rollouts": [_row(*one, failure) for one in group["played"]]} for group in groups],
    }
    blocks = [group["block"] | {"rollouts": [[_told(turn) for turn in turns] for _, turns in group["played"]]} for group in groups]
    return index, blocks


def strip_id(step: int, number: int, part: str | int) -> str:
    """The id of a picture among the page's strips: of a session by its number, and its turn or "source"."""
    return f"strip-{step}-{number}-{part}"


def _failure(config: Mapping[str, Any]) -> tuple[str, float]:
    """(score, floor): a turn whose score is at or below the floor has failed, for this run's trajectory filter."""
    section = config.get("advantage") or {}
    return section.get("filter_reward", "if"), section.get("floor", 0.0)


def _training(step: Mapping[str, Any], number: int, group: Mapping[str, Any]) -> Group:
    session = group["session"]
    turns = session.get("turns") or []
    return {
        "index": {
            "id": session["id"],
            "subset": session.get("subset"),
            "where": "training",
            "step": step["step"],
            "key": f"{step['step']}.{number}",
            "said": [[turn.get("instruction"), turn.get("task_type")] for turn in turns],
        },
        "block": {"source": group.get("source"), "formatted": [turn.get("formatted_instruction") for turn in turns]},
        "played": [(step["step"], rollout["turns"]) for rollout in group["rollouts"]],
    }


def _held_out(scored: Sequence[Evaluation]) -> list[Group]:
    """The sessions of the first and the last evaluation, in the order of the last."""
    sides = scored[:1] + scored[1:][-1:]
    played = [_by_session(side) for side in sides]
    names = list(dict.fromkeys(name for side in reversed(played) for name in side))
    return [_held_out_group(number, name, sides, played) for number, name in enumerate(names)]


def _held_out_group(number: int, name: str, sides: Sequence[Evaluation], played: Sequence[Mapping[str, list]]) -> Group:
    there = [(side.step, turns[name]) for side, turns in zip(sides, played, strict=True) if name in turns]
    record = there[-1][1][0]
    sources = [strip_id(side.step, at, "source") for side in sides for at, strip in enumerate(side.strips) if strip["id"] == name]
    return {
        "index": {
            "id": name,
            "subset": record["subset"],
            "where": "held-out",
            "step": None,
            "key": f"held-out.{number}",
            "said": [[turn["instruction"], turn["task_type"]] for turn in there[-1][1]],
        },
        "block": {"source": f"@{sources[0]}" if sources else None, "formatted": []},
        "played": there,
    }


def _by_session(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Session -> its turns in order, with a picture where the evaluation kept one."""
    number = {strip["id"]: at for at, strip in enumerate(evaluation.strips)}
    found: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(evaluation.records, key=lambda record: record["turn"]):
        at = number.get(record["session"])
        picture = None if at is None else f"@{strip_id(evaluation.step, at, record['turn'])}"
        found.setdefault(record["session"], []).append(dict(record) | {"picture": picture})
    order = dict.fromkeys(record["session"] for record in evaluation.records)
    return {name: found[name] for name in order}


def _row(step: int, turns: Sequence[Mapping[str, Any]], failure: tuple[str, float]) -> list[Any]:
    """The values of FIELDS for one rollout."""
    failed = [_failed(turn, failure) for turn in turns]
    return [
        step,
        [_short(turn.get("reward")) for turn in turns],
        failed.index(True) if True in failed else None,
        sum(turn.get("image_learns") is False for turn in turns),
        sum(_missing(turn) for turn in turns),
        sum(bool(turn.get("intent_fallback")) for turn in turns),
        sum(turn.get("changed") is not None and turn["changed"] < alarms.COPY for turn in turns),
    ]


def _failed(turn: Mapping[str, Any], failure: tuple[str, float]) -> bool:
    value = (turn.get("scores") or {}).get(failure[0])
    return value is not None and value <= failure[1]


def _missing(turn: Mapping[str, Any]) -> bool:
    """Whether a verdict that is due is not there."""
    status = turn.get("status") or {}
    absent = [name for name, value in (turn.get("scores") or {}).items() if value is None]
    return turn.get("reward") is None or any(status.get(name, "not_applicable") != "not_applicable" for name in absent)


def _told(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn for the page: nothing that the index says, no fields without a value, short numbers, tokens as [text, log_prob, ratio]."""
    known = ("session", "subset", "turn", "task_type", "instruction")  # of a score record
    told = {name: _short(value) for name, value in turn.items() if name not in known and value is not None}
    if told.get("tokens"):
        told["tokens"] = [[token["text"], token.get("log_prob"), token.get("ratio")] for token in told["tokens"]]
    return told


def _short(value: Any) -> Any:
    """Numbers with the digits that matter."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    return [_short(part) for part in value] if isinstance(value, list | tuple) else value
