"""A folder of pictures past the rewards: one score record per turn of every session, as `evaluate` writes them.

What is asked is exactly what `evaluate` asks while it draws: the source is brought to the pictures' size as the pipeline does, IF sees the
picture before and the one after, CC the source and the latest, the prefix judge all of them. A dialogue is scored up to its first picture
that is missing; turns without a verdict for that reason have the status `no_picture`. In the pass "single" picture t is held against the
source, once for each of the instructions 0..t; CC is that of the whole request, and there is no prefix to judge. Letters: T turns.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from editr2_jax.data import images
from editr2_jax.evaluation import pictures, runner
from editr2_jax.evaluation.benchmarks.picture_folder import Drawn
from editr2_jax.records import Episode, Session, Status, Verdict
from editr2_jax.rewards.suite import ERRORS, Pending, Suite, TooManyErrors

NO_PICTURE = "no_picture"  # a status beside those of records.Status: nobody was asked
_AT_ONCE = 16  # sessions whose pictures are in memory; twice as many while one part is judged and the next is read
_ENOUGH = 200  # verdicts from which on the share of failures means something


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """The rewards, and how pictures are shown to them."""

    suite: Suite
    read: Callable[[Session], np.ndarray]  # the source picture of a session, uint8 [H, W, 3]
    size: str = "drawn"  # the source is cut to the pictures' size; "source": pictures are stretched to the source's, as EdiVal does
    single: bool = False
    earlier: Suite | None = None  # of a single pass: IF alone, for the instructions before the latest
    max_error_share: float = 0.05


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """What has been asked about a session's turns."""

    drawn: Drawn
    pictures: tuple[np.ndarray, ...]  # the source, then what can be scored
    turns: tuple[tuple[Pending, ...], ...]  # per turn: of its episode; in a single pass those of the earlier instructions before it


def score(folder: Sequence[Drawn], asked: Asked, *, progress: Callable[[int], None] = lambda done: None) -> list[dict[str, Any]]:
    """The records of all sessions, in their order. Raises TooManyErrors when judges fail on more than `max_error_share`."""
    records: list[dict[str, Any]] = []
    failures = _Failures(asked.max_error_share)
    before: list[_Waiting] = []
    for start in range(0, len(folder) + _AT_ONCE, _AT_ONCE):
        part = folder[start : start + _AT_ONCE]
        now = [_submit(drawn, asked) for drawn in part]  # asked about while the part before is waited for
        for waiting in before:
            records += _records(waiting, asked, failures)
        before = now
        if records:
            progress(len({record["session"] for record in records}))
    failures.refuse(0)
    return records


class _Failures:
    """How many verdicts failed so far."""

    def __init__(self, limit: float):
        self._limit, self._failed, self._all = limit, collections.Counter(), 0
        self._first = ""

    def note(self, name: str, verdict: Verdict) -> None:
        if verdict.status is not Status.NOT_APPLICABLE:
            self._all += 1
        if verdict.status in ERRORS:
            self._failed[f"{name}: {verdict.status.value}"] += 1
            self._first = self._first or str(verdict.detail.get("reason", ""))

    def refuse(self, enough: int) -> None:
        """Raises TooManyErrors above the limit, once there are `enough` verdicts."""
        failed = self._failed.total()
        if self._all >= enough and failed > self._limit * self._all:
            raise TooManyErrors(
                f"{failed} of {self._all} verdicts failed ({failed / self._all:.1%}, the limit is {self._limit:.1%}): "
                f"{dict(self._failed)}. The first says: {self._first} Repair the judge and score again, what was answered is kept; or "
                "raise rewards.max_error_share."
            )


def _submit(drawn: Drawn, asked: Asked) -> _Waiting:
    """Reads a session's pictures and starts asking."""
    known = drawn.paths if asked.single else itertools.takewhile(bool, drawn.paths)
    outputs = [None if path is None else images.read_picture(path) for path in known]
    source = asked.read(drawn.session)
    shape = next((output.shape[:2] for output in outputs if output is not None), source.shape[:2])
    if asked.size == "drawn":
        source = images.fit(source, shape)
    else:
        outputs = [None if output is None else _stretched(output, source.shape[:2]) for output in outputs]
    turns = tuple(_ask(drawn.session, source, outputs, turn, asked) for turn in range(len(outputs)))
    return _Waiting(drawn, (source, *outputs), turns)


def _ask(session: Session, source: np.ndarray, outputs: Sequence[np.ndarray | None], turn: int, asked: Asked) -> tuple[Pending, ...]:
    if outputs[turn] is None:
        return ()
    if not asked.single:
        return (asked.suite.submit([Episode(session=session, pictures=(source, *outputs[: turn + 1]))]),)
    alone = lambda i: Episode(session=_of_one(session, i), pictures=(source, outputs[turn]))  # noqa: E731
    earlier = () if asked.earlier is None else tuple(asked.earlier.submit([alone(i)]) for i in range(turn))
    return (*earlier, asked.suite.submit([alone(turn)]))


def _of_one(session: Session, turn: int) -> Session:
    """A session of one of the turns, without a rule and without pronouns to judge a prefix by."""
    return dataclasses.replace(session, turns=(session.turns[turn],), subset="plain")


def _stretched(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == tuple(shape):
        return picture
    return np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.LANCZOS))


def _records(waiting: _Waiting, asked: Asked, failures: _Failures) -> list[dict[str, Any]]:
    session, records = waiting.drawn.session, []
    for turn, about in enumerate(session.turns):
        record = {
            "session": session.id,
            "subset": session.subset,
            "turn": turn,
            "task_type": about.task_type,
            "instruction": about.instruction,
            "intent": waiting.drawn.intents[turn],
            "bg_consistency": about.bg_consistency,
        }
        pending = waiting.turns[turn] if turn < len(waiting.turns) else ()
        if not pending:
            records.append(record | _nothing(waiting.drawn, turn, asked))
            continue
        *earlier, latest = pending
        verdicts, reward = _collected(asked.suite, latest, failures)
        edited = waiting.pictures[0 if asked.single else turn]
        changed = pictures.changed(edited, waiting.pictures[turn + 1])
        record |= told(verdicts) | {"reward": runner.number(reward), "changed": changed}
        if asked.single and asked.earlier is not None:
            each = [*(_collected(asked.earlier, one, failures)[0]["if"] for one in earlier), verdicts["if"]]
            record["each"] = [{"turn": i, **_one(verdict)} for i, verdict in enumerate(each)]
        records.append(record)
        failures.refuse(_ENOUGH)
    return records


def _collected(suite: Suite, pending: Pending, failures: _Failures) -> tuple[dict[str, Verdict], float]:
    scores = suite.collect([pending])
    verdicts = {name: table[0][0] for name, table in scores.verdicts.items()}
    for name, verdict in verdicts.items():
        failures.note(name, verdict)
    return verdicts, float(scores.combined[0, 0])


def told(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """The part of a record that says what the rewards said."""
    ones = {name: _one(verdict) for name, verdict in verdicts.items()}
    names = {"score": "scores", "status": "status", "detail": "detail"}
    return {plural: {name: one[single] for name, one in ones.items()} for single, plural in names.items()}


def _one(verdict: Verdict) -> dict[str, Any]:
    return {"score": runner.number(verdict.value), "status": verdict.status.value, "detail": dict(verdict.detail)}


def _nothing(drawn: Drawn, turn: int, asked: Asked) -> dict[str, Any]:
    """The verdicts on a turn that has no picture, or comes after one that has none."""
    why, names = next((why for why in (drawn.why[turn], *drawn.why[:turn]) if why), ""), asked.suite.names
    plain = asked.single or drawn.session.subset == "plain"  # no prefix judge was due
    return {
        "scores": dict.fromkeys(names),
        "status": {name: Status.NOT_APPLICABLE.value if name == "ga" and plain else NO_PICTURE for name in names},
        "detail": {name: {"reason": why} for name in names},
        "reward": None,
        "changed": None,
    }


def undrawn(records: Sequence[Mapping[str, Any]]) -> int:
    """How many turns have no picture."""
    return sum(NO_PICTURE in record["status"].values() for record in records)
