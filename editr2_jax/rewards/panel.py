"""The rewards of a run on all its hosts: each asks about the rollouts that lie with it, all learn every verdict.

Groups may span hosts, and what a reward counts can depend on every rollout of a session, so scores are put together once all verdicts
are known, by the suite itself and on every host alike. With one host this is the suite. Letters: B rollouts, T turns.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from editr2_jax.records import Episode, Sample, Status, Verdict
from editr2_jax.rewards.suite import Pending, Scores, Suite


class Exchange(Protocol):
    """What a panel needs of the hosts (runtime/hosts.Hosts)."""

    count: int

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

    def __init__(self, suite: Suite, hosts: Exchange | None = None):
        self.suite, self._hosts = suite, hosts if hosts is not None and hosts.count > 1 else None

    def submit(self, episodes: Sequence[Episode | None]) -> Pending:
        """Starts scoring the latest turn of the rollouts that lie here; None stands for those that lie elsewhere."""
        return self.suite.submit([episode for episode in episodes if episode is not None])

    def collect(self, batches: Sequence[Asked]) -> list[Scores]:
        """Waits for all that was asked about some batches. Raises TooManyErrors, on all hosts, above the suite's limit for all together."""
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
