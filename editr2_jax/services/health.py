"""What is known about one endpoint: how busy it is, whether its circuit is closed, until when it asked to be left alone.

    closed --(failures in a row)--> open --(time)--> probing --(it answers)--> closed, one failure short of opening again
                                     ^------(it does not)------'
A circuit spares a server that is down the requests, and the questions the waiting. Times are seconds of one clock, handed in.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Health:
    """The state of one endpoint; the pool's loop alone touches it."""

    url: str
    places: int  # requests it may have at a time
    breaker_failures: int  # in a row, that open its circuit
    breaker_s: float  # between opening and a probe
    in_flight: int = 0
    failures: int = 0  # in a row
    open_until: float | None = None  # None: closed
    probing: bool = False
    rest_until: float = 0.0  # it said when to come back
    opened: int = 0  # times that the circuit opened
    last_failure: str = ""

    @property
    def closed(self) -> bool:
        """Whether requests may be sent at all."""
        return self.open_until is None

    def has_place(self, now: float) -> bool:
        """Whether a request may be sent at this moment."""
        return self.closed and self.in_flight < self.places and now >= self.rest_until

    def due_for_probe(self, now: float) -> bool:
        """Whether an open circuit has waited long enough."""
        return not self.closed and not self.probing and now >= self.open_until

    def failed(self, now: float, why: str) -> None:
        """A request found it out of order."""
        self.failures, self.last_failure = self.failures + 1, why
        if self.closed and self.failures >= self.breaker_failures:
            self.opened += 1
            self.open_until = now + self.breaker_s

    def answered(self) -> None:
        """A request was answered, whatever the answer says."""
        self.failures = 0

    def revived(self) -> None:
        """A probe was answered: requests may come, but the next failure opens the circuit again."""
        self.open_until, self.probing, self.failures = None, False, self.breaker_failures - 1

    def not_revived(self, now: float, why: str) -> None:
        """A probe was not answered."""
        self.open_until, self.probing, self.last_failure = now + self.breaker_s, False, why

    def rest(self, until: float) -> None:
        """It is well, and asks for a pause."""
        self.rest_until = max(self.rest_until, until)
