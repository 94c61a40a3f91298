"""From a cell of a table back to the verdicts, and from a verdict to its requests.

A cell's "from" names the reward, which turns, and how far back it reaches:
    turn       the turns of the row                      so_far    these, and every turn before them in their dialogues
    dialogue   all turns of the row's dialogues
and with "kept" of these turns those alone whose background is to stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
PARTS = ("object", "background")  # of CC, which some columns are means of


def cell(board: Mapping[str, Any], address: str) -> Mapping[str, Any]:
    """The cell at TABLE/ROW/COLUMN. Raises ValueError naming what there is."""
    table, _, rest = address.partition("/")
    row, _, column = rest.rpartition("/")
    found = _named(board["tables"], table, "table", address)
    line = _named(found["rows"], row, "row", address)
    if column not in line["cells"]:
        raise ValueError(f"{address!r}: there is no column {column!r}; row {row!r} has {', '.join(line['cells'])}.")
    told = line["cells"][column]
    if "from" not in told:
        raise ValueError(f"{address!r}: this cell counts, and stands on no verdict; take one with a mean.")
    return told


def _named(things: Sequence[Mapping[str, Any]], name: str, what: str, address: str) -> Mapping[str, Any]:
    for thing in things:
        if thing["name"] == name:
            return thing
    names = " | ".join(thing["name"] for thing in things)
    raise ValueError(f"{address!r}: there is no {what} {name!r}; write TABLE/ROW/COLUMN. There are: {names}.")


def behind(records: Sequence[Record], source: Mapping[str, Any]) -> list[Record]:
    """The records behind a cell's "from", in the order of the file."""
    chosen = {(record["session"], record["turn"]) for record in records if _matches(record, source)}
    last: dict[str, int] = {}
    for session, turn in chosen:
        last[session] = max(last.get(session, -1), turn)
    if source["reach"] == "turn":
        return [record for record in records if (record["session"], record["turn"]) in chosen]
    if source["reach"] == "so_far":
        return [record for record in records if record["turn"] <= last.get(record["session"], -1)]
    return [record for record in records if record["session"] in last]


def _matches(record: Record, source: Mapping[str, Any]) -> bool:
    return (
        source.get("subset") in (None, record["subset"])
        and source.get("turn") in (None, record["turn"])
        and (source.get("task_types") is None or record["task_type"] in source["task_types"])
        and (not source.get("kept") or record["bg_consistency"])
    )


def lines(records: Sequence[Record], source: Mapping[str, Any]) -> Iterator[str]:
    """One JSON line per verdict behind a cell: session, turn, score, status, parts, its key in the verdict store, and every request."""
    score = source["score"]
    for record in behind(records, source):
        detail = record["detail"].get(score) or {}
        told = {
            "session": record["session"],
            "turn": record["turn"] + 1,
            **_said(record["scores"].get(score), record["status"].get(score), detail),
        }
        if record.get("each") and score == "if":  # a single pass: the picture's other instructions were asked about as well
            told["each"] = [{"turn": one["turn"] + 1, **_said(one["score"], one["status"], one["detail"])} for one in record["each"]]
        yield json.dumps(told, ensure_ascii=False)


def _said(score: float | None, status: str | None, detail: Record) -> dict[str, Any]:
    parts = {name: detail[name] for name in PARTS if name in detail}
    told = {"score": score, "status": status} | ({"parts": parts} if parts else {})
    return told | {"verdict": detail.get("verdict"), "requests": detail.get("requests", [])}


def jq(source: Mapping[str, Any]) -> str:
    """The same for who has jq and scores.jsonl."""
    tests = [f".subset=={json.dumps(source['subset'])}"] if source.get("subset") is not None else []
    if source.get("turn") is not None and source["reach"] != "dialogue":
        tests.append(f".turn{'<=' if source['reach'] == 'so_far' else '=='}{source['turn']}")
    if source.get("task_types") and source["reach"] == "turn":
        tests.append(f"(.task_type|IN({','.join(json.dumps(name) for name in source['task_types'])}))")
    tests += [".bg_consistency"] if source.get("kept") else []
    score = source["score"]
    picked = f'[.session,.turn+1,.scores["{score}"],.status["{score}"],.detail["{score}"].verdict,.detail["{score}"].requests]'
    chosen = f"select({' and '.join(tests)}) | " if tests else ""
    return f"jq -c '{chosen}{picked}' scores.jsonl"
