"""What is in a session folder: everything wrong with it, and its counts. Plain structures that JSON can hold, and the same as text."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from editr2_jax.data import session_source
from editr2_jax.data.quality_flags import Flag
from editr2_jax.data.session_source import Entry, Kind, Problem
from editr2_jax.records import FREE_FORM, TASK_TYPES


def check(path: str | Path, *, subset_default: str | None = None, pictures: bool = True) -> dict[str, Any]:
    """Every problem of every split.

    {"folder", "splits": {name: {"sessions", "problems": [{"file", "line", "kind", "turn", "message"}]}}, "problems": how many in all,
    "unread_flags": {file: {split that is not here: lines}}}. The last is no problem: flags may be published for more than is at hand.
    Sessions that are in two splits are a problem too: what is held out must not have been learned. Raises ValueError where `path` is no
    session folder.
    """
    splits: dict[str, Any] = {}
    home: dict[tuple[str, str], tuple[str, Entry]] = {}
    told: set[Problem] = set()  # splits may share a flag file
    for split in session_source.splits(path):
        entries, problems = session_source.check(path, split, subset_default=subset_default, pictures=pictures)
        problems = [problem for problem in (*problems, *_shared(entries, split, home)) if problem not in told]
        told.update(problems)
        splits[split] = {"sessions": len(entries), "problems": [_plain(problem) for problem in problems]}
    problems = sum(len(found["problems"]) for found in splits.values())
    return {"folder": str(path), "splits": splits, "problems": problems, "unread_flags": session_source.unread_flags(path)}


def check_text(report: Mapping[str, Any]) -> str:
    """The report of `check`: a line per problem, one per split, and the splits whose flags nothing reads."""
    lines = []
    for found in report["splits"].values():
        lines += [_sentence(problem) for problem in found["problems"]]
    for split, found in report["splits"].items():
        kinds = collections.Counter(problem["kind"] for problem in found["problems"])
        unloadable = kinds[Kind.RECORD] + kinds[Kind.PICTURE]
        parts = [f"{split}: {found['sessions']} sessions"]
        if unloadable:
            parts.append(f"{unloadable} problem{'s' * (unloadable > 1)} that must be corrected before it loads")
        if kinds[Kind.INVALID_ANNOTATION]:
            rows = len({(p["file"], p["line"]) for p in found["problems"] if p["kind"] == Kind.INVALID_ANNOTATION})
            parts.append(f"{rows} with an invalid annotation, left out of training and kept in evaluation")
        lines.append(", ".join(parts) + (": sound" if len(parts) == 1 else ""))
    for file, counts in report["unread_flags"].items():
        told = ", ".join(f"{split} ({count} line{'s' * (count > 1)})" for split, count in counts.items())
        lines.append(f"{file}: also tells of what is not here and was not read: {told}")
    return "\n".join(lines)


def stats(path: str | Path, *, subset_default: str | None = None, pictures: bool = True) -> dict[str, Any]:
    """Counts of every split.

    {"folder", "splits": {name: {"sessions", "turns": {T: sessions}, "subsets": {subset: sessions}, "types": {type: [count per turn]},
    "background_kept": [per turn], "no_unchanged_object": [per turn], "with_intent", "with_target", "invalid_annotation",
    "flags": {flag: how often}, "sizes": {"HxW": sessions}}}}. Raises BadSessions where a split does not load.
    """
    counted = {}
    for split in session_source.splits(path):
        folder = session_source.SessionFolder(path, split, subset_default=subset_default, drop_invalid=False, pictures=pictures)
        counted[split] = _counts(folder, pictures)
    return {"folder": str(path), "splits": counted}


def stats_text(report: Mapping[str, Any]) -> str:
    """The report of `stats` as one table per split."""
    return "\n\n".join(_split_text(split, counts) for split, counts in report["splits"].items())


def _shared(entries: Iterable[Entry], split: str, home: dict[tuple[str, str], tuple[str, Entry]]) -> list[Problem]:
    """Complaints about ids and images that an earlier split has; fills `home`, (field, value) -> split and line."""
    problems = []
    for entry in entries:
        for field, value in (("image", entry.session.image), ("id", entry.session.id)):
            first, there = home.setdefault((field, value), (split, entry))
            if first != split:
                message = f"{field} {value!r} is also in the split {first} ({there.file}:{there.line}); keep it in one of them."
                problems.append(Problem(file=entry.file, line=entry.line, kind=Kind.RECORD, message=message))
    return problems


def _plain(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "kind": str(problem.kind), "turn": problem.turn, "message": problem.message}


def _sentence(problem: Mapping[str, Any]) -> str:
    return str(Problem(**{**problem, "kind": Kind(problem["kind"])}))


def _counts(folder: session_source.SessionFolder, pictures: bool) -> dict[str, Any]:
    sessions = folder.sessions
    longest = max(len(session.turns) for session in sessions)
    at = [[session.turns[t] for session in sessions if len(session.turns) > t] for t in range(longest)]  # turns by number
    sizes = collections.Counter("{}x{}".format(*folder.size(session.image)) for session in sessions) if pictures else {}
    return {
        "sessions": len(sessions),
        "turns": _sorted(collections.Counter(len(session.turns) for session in sessions)),
        "subsets": _sorted(collections.Counter(session.subset for session in sessions)),
        "types": {kind: [sum(turn.task_type == kind for turn in turns) for turns in at] for kind in (*TASK_TYPES, FREE_FORM)},
        "background_kept": [sum(turn.bg_consistency for turn in turns) for turns in at],
        "no_unchanged_object": [sum(not turn.unchanged_objects for turn in turns) for turns in at],
        "with_intent": sum(session.turns[0].intent is not None for session in sessions),
        "with_target": sum(session.turns[0].target is not None for session in sessions),
        "invalid_annotation": len(folder.invalid),
        "flags": {flag: sum(one.name == flag for told in folder.flags.values() for one in told) for flag in Flag},
        "sizes": dict(collections.Counter(sizes).most_common()),
    }


def _sorted(counter: collections.Counter) -> dict[str, int]:
    return {str(name): counter[name] for name in sorted(counter)}


def _split_text(split: str, counts: Mapping[str, Any]) -> str:
    listed = {name: ", ".join(f"{n} x {key}" for key, n in counts[name].items()) for name in ("turns", "subsets", "sizes")}
    flags = {"background kept": counts["background_kept"], "no unchanged object": counts["no_unchanged_object"]}
    rows = [*((name, row) for name, row in counts["types"].items() if name != FREE_FORM or any(row)), *flags.items()]
    odd = [f"{n} x {flag}" for flag, n in counts["flags"].items() if n]
    head = "".join(f"{f'turn {t}':>8}" for t in range(len(counts["background_kept"])))
    lines = [
        f"{split}: {counts['sessions']} sessions ({listed['subsets']})",
        f"  sessions by number of turns: {', '.join(f'{n} of {turns}' for turns, n in counts['turns'].items())}",
        f"  with ground-truth intents {counts['with_intent']}, with ground-truth pictures {counts['with_target']}, "
        f"with an invalid annotation {counts['invalid_annotation']}",
        *([f"  pictures (height x width): {listed['sizes']}"] if counts["sizes"] else []),
        *([f"  flagged: {', '.join(odd)}"] if odd else []),
        f"  {'':<20}{head}",
        *(f"  {name:<20}" + "".join(f"{n:>8}" for n in row) for name, row in rows),
    ]
    return "\n".join(lines)
