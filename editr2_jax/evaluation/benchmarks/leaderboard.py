"""leaderboard.json: one evaluation as other programs read it, with everything that says whether two of them may be compared.

    {"schema": "editr2_jax.leaderboard", "version": 1, "benchmark", "title", "model", "date", "pass", "level",
     "data": {"split", "sessions", "turns", "flags"}, "pictures": {"due", "there", "size", "made_by", "seeds", "more"},
     "judge": {...}, "training_judge", "same_judge_as_training", "hashes": {"rewards", "prompts", "scores", "words"},
     "denominators": {score: {status: count}}, "warnings": [text], "tables": [table]}
Shares are in [0, 1]. Tables and cells: measures.py. Hashes are hexadecimal; `words` is over ids and instructions, `scores` over
scores.jsonl. Nothing in it depends on when or where it was made: the date is the caller's. A reader refuses another version;
fields may be added within one.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from editr2_jax.data.quality_flags import Flag, QualityFlag
from editr2_jax.evaluation import statistics
from editr2_jax.evaluation import tables as score_tables
from editr2_jax.evaluation.benchmarks import edival, judges, measures, mice_bench, scoring
from editr2_jax.evaluation.benchmarks.picture_folder import Meta
from editr2_jax.runtime import workdir

SCHEMA, VERSION = "editr2_jax.leaderboard", 1
FILE = "leaderboard.json"
BENCHMARKS = {module.NAME: module for module in (mice_bench, edival)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the records do not say themselves."""

    benchmark: str = ""  # a name in BENCHMARKS; empty: by the subsets of the sessions
    split: str = "test"
    date: str | None = None  # YYYY-MM-DD, as the caller says
    size: str = "drawn"  # at which pictures were held against their source: scoring.Asked.size
    meta: Meta = Meta()
    rewards: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the config's section that scored; empty where it is not known
    rewards_hash: str = ""
    train: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)  # subset -> first types of its training sessions
    flags: Mapping[str, int] = dataclasses.field(default_factory=dict)  # quality flag -> turns (or dialogues) that carry it
    warnings: Sequence[str] = ()
    level: float = statistics.LEVEL
    draws: int = statistics.DRAWS
    seed: int = 0


def make(records: Sequence[Mapping[str, Any]], about: Circumstances) -> dict[str, Any]:
    """The content of leaderboard.json. Raises ValueError for an unknown benchmark, a date of another form, or unfit records."""
    refuse_unknown(about.benchmark, about.date)
    board = measures.layout(records)
    module = BENCHMARKS[_benchmark(board, about.benchmark)]
    options = {"level": about.level, "draws": about.draws, "seed": about.seed}
    tables = module.tables(board, measures.measure(board, **options))
    tables += mice_bench.shifts(board, about.train, **options) if module is mice_bench else []
    tables.append(measures.statuses(board))
    judge = judges.identity(about.rewards) if about.rewards else None
    training = about.meta.training_judge
    warned = [judges.warning(judge, training)] if judge else []
    warned += _missing(records) + _leaked(about.flags) + _probabilities(about.rewards) + [*about.warnings]
    return score_tables.plain(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "benchmark": module.NAME,
            "title": module.TITLE,
            "model": about.meta.model,
            "date": about.date,
            "pass": "single" if board.single else "multi",
            "level": about.level,
            "data": {"split": about.split, "sessions": len(board.sessions), "turns": int(board.played.sum()), "flags": about.flags},
            "pictures": {
                "due": len(records),
                "there": len(records) - scoring.undrawn(records),
                "size": about.size,
                "made_by": about.meta.made_by,
                "seeds": about.meta.seeds,
                "more": about.meta.more,
            },
            "judge": judge,
            "training_judge": training,
            "same_judge_as_training": judges.same(judge, training) if judge else None,
            "hashes": {
                "rewards": about.rewards_hash,
                "prompts": judges.prompts(about.rewards) if about.rewards else {},
                "scores": hashlib.sha256(score_lines(records).encode()).hexdigest(),
                "words": words_hash(records),
            },
            "denominators": {
                name: dict(sorted(collections.Counter(status[board.played].tolist()).items())) for name, status in board.status.items()
            },
            "warnings": [text for text in warned if text],
            "tables": tables,
        }
    )


def refuse_unknown(benchmark: str, date: str | None) -> None:
    """Raises ValueError for the name of no benchmark and for a date of another form; an empty name is chosen by the subsets."""
    if benchmark and benchmark not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {benchmark!r}; choose from {', '.join(BENCHMARKS)}.")
    if date is not None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        raise ValueError(f"the date is {date!r}; give it as YYYY-MM-DD.")


def _benchmark(board: measures.Board, name: str) -> str:
    return name or (edival.NAME if set(board.subsets.tolist()) == {"plain"} else mice_bench.NAME)


def _missing(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning about pictures that are not there."""
    lost = scoring.undrawn(records)
    told = f"{lost} of {len(records)} turns have no picture, or come after one that has none: every mean is over the others alone."
    return [told] if lost else []


def _leaked(flags: Mapping[str, int]) -> list[str]:
    """A warning about turns that can be asked about, though they mean nothing; those of an empty text are invalid_annotation."""
    count = flags.get(Flag.LEAKED_GENERATOR_TEXT, 0)
    return [f"{count} turns name an object by words of the data's generator; they are scored as they stand."] if count else []


def _probabilities(rewards: Mapping[str, Any]) -> list[str]:
    """A warning about scores that are hardly ever 1, where numbers ask for exactly that."""
    if not rewards or rewards["answerer"] != "vlm" or not rewards["vlm"]["soft"]:
        return []
    return [
        "rewards.vlm.soft: IF is a probability, and whatever asks for IF 1 (so far, success, dialogue by IF, overall) counts few edits."
    ]


def count_flags(flags: Mapping[str, Sequence[QualityFlag]], sessions: Set[str]) -> dict[str, int]:
    """How often each quality flag occurs in these sessions."""
    found = collections.Counter(str(flag.name) for session, carried in flags.items() if session in sessions for flag in carried)
    return dict(sorted(found.items()))


def score_lines(records: Sequence[Mapping[str, Any]]) -> str:
    """The text of scores.jsonl."""
    return "".join(json.dumps(score_tables.plain(record), ensure_ascii=False) + "\n" for record in records)


def words_hash(records: Sequence[Mapping[str, Any]]) -> str:
    """16 digits over sessions and instructions: two evaluations with the same one are about the same dialogues."""
    said = sorted([str(record["session"]), record["turn"], record["instruction"]] for record in records)
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:16]


def read(folder: Path) -> dict[str, Any]:
    """The leaderboard.json of a folder. Raises ValueError where there is none, or one of another version."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path}: not found; give a folder that `score` has written.")
    told = workdir.read_json(path)
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or told.get("version") != VERSION:
        raise ValueError(f"{path}: wanted {SCHEMA} version {VERSION}; score again with this version of the package.")
    return told
