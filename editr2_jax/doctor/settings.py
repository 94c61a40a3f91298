"""How closely a run is examined. It changes nothing of what the run computes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """The small batch, and what happens before step 0."""

    before: bool = True  # training examines its arithmetic and its rewards before step 0, and does not start where they fail
    sessions: int = 2  # played by `doctor`; one after the other those of the run's first step
    members: int = 4  # rollouts of each
    pairs: int = 12  # known right and wrong outcomes shown to the rewards

    def __post_init__(self):
        if self.sessions < 1 or self.members < 2 or self.pairs < 1:
            raise ValueError(
                f"DoctorConfig: {self.sessions} sessions of {self.members} rollouts and {self.pairs} pairs; "
                "give at least 1 session, 2 rollouts and 1 pair."
            )
