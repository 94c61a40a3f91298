"""The rewards of a run on all its hosts: each asks about the rollouts that lie with it, all learn every verdict.

Groups may span hosts, and what a reward counts can depend on every rollout of a session, so scores are put together once all verdicts
are known, by the suite itself and on every host alike. With one host this is the suite. Letters: B rollouts, T turns.
"""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from editr2_jax.records import Episode, Sample, Status, Verdict
from editr2_jax.rewards.suite import Pending, Scores, Suite
from editr2_jax.runtime.signals import Interrupted

_LOOK_S = 1.0  # between two looks at whether to go on waiting


class Exchange(Protocol):
    """What a panel needs of the hosts (runtime/hosts.Hosts)."""

    count: int
    stuck_s: float  # longer than this nobody waits

    def agree(self, flag: bool) -> bool:
        """True on all hosts when any of them says true."""
        ...

    def gather_text(self, text: str) -> list[str]:
        """Every host's text, in the hosts' order."""
        ...


class Asked(NamedTuple):
    """What was asked about a batch of B rollouts."""

    samples: Sequence[Sample]  # all B
    pending: Sequence[Pending]  # T turns of those that lie here
    here: Sequence[bool]  # which of the B those are


class Panel:
    """A suite, and how its verdicts reach the other hosts."""

    def __init__(self, suite: Suite, hosts: Exchange | None = None, *, should_stop: Callable[[], bool] = lambda: False):
        """should_stop: asked while verdicts are waited for; the same on all hosts."""
        self.suite, self._hosts, self._should_stop = suite, hosts if hosts is not None and hosts.count > 1 else None, should_stop

    def submit(self, episodes: Sequence[Episode | None]) -> Pending:
        """Starts scoring the latest turn of the rollouts that lie here; None stands for those that lie elsewhere."""
        return self.suite.submit([episode for episode in episodes if episode is not None])

    def collect(self, batches: Sequence[Asked]) -> list[Scores]:
        """Waits for all that was asked about some batches.

        Raises TooManyErrors, on all hosts, above the suite's limit for all together, and Interrupted when asked to stop before the last
        verdict has come."""
        self._wait([turn for batch in batches for turn in batch.pending])
        return self.suite.collect_all([self._everywhere(batch) for batch in batches])

    def _everywhere(self, batch: Asked) -> Sequence[Pending]:
        """The turns of all B rollouts, wherever they lie."""
        if self._hosts is None:
            return batch.pending
        rows, names = [row for row, mine in enumerate(batch.here) if mine], self.suite.names
        verdicts = {name: [[_told(future.result()) for future in turn.futures[name]] for turn in batch.pending] for name in names}
        known = [[bool(stored) for stored in turn.stored] for turn in batch.pending]
        everyone = [json.loads(text) for text in self._hosts.gather_text(json.dumps({"rows": rows, "verdicts": verdicts, "stored": known}))]
        return [_whole(batch.samples, everyone, turn, names) for turn in range(len(batch.pending))]

    def _wait(self, pending: Sequence[Pending]) -> None:
        """Returns when everybody has what it asked for; a judge may take minutes, and a signal should not."""
        futures = [future for turn in pending for row in turn.futures.values() for future in row]
        agree = (lambda waits: waits) if self._hosts is None else self._hosts.agree
        began = time.monotonic()
        while agree(bool(missing := concurrent.futures.wait(futures, timeout=_LOOK_S).not_done)):
            if self._should_stop():
                raise Interrupted(f"stopped before {len(missing)} verdicts had come; those that are being asked for are waited for.")
            if self._hosts is not None and time.monotonic() - began > self._hosts.stuck_s:  # agreeing is progress to the watch
                raise RuntimeError(
                    f"after {self._hosts.stuck_s:g} s {len(missing)} verdicts have not come to this host; look at its judges."
                )


def _whole(samples: Sequence[Sample], everyone: Sequence[dict[str, Any]], turn: int, names: Sequence[str]) -> Pending:
    """A turn of all rollouts, every verdict of which is there."""
    futures: dict[str, list[Any]] = {name: [None] * len(samples) for name in names}
    whole = Pending(
        sessions=tuple(sample.session.id for sample in samples),
        subsets=tuple(sample.session.subset for sample in samples),
        futures={name: futures[name] for name in names},
    )
    for told in everyone:
        whole.stored.extend(told["stored"][turn])
        for name in names:
            for row, verdict in zip(told["rows"], told["verdicts"][name][turn], strict=True):
                futures[name][row] = concurrent.futures.Future()
                futures[name][row].set_result(_heard(verdict))
    return whole


def _told(verdict: Verdict) -> list[Any]:
    return [float(verdict.value), verdict.status.value, _plain(verdict.detail)]


def _heard(told: Sequence[Any]) -> Verdict:
    value, status, detail = told
    return Verdict(value=value, status=Status(status), detail=detail)


def _plain(value: Any) -> Any:
    """JSON values of a verdict's detail: numbers of numpy as numbers, what JSON has no word for as text."""
    return json.loads(json.dumps(dict(value), default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x)))
