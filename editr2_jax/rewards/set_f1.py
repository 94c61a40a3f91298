"""How well a set of words names another: F1.

    F1 = 2 |P and G| / (|P| + |G|)

P what was said, G what should have been, as sets of normalised strings: letter case, outer and repeated white space do not matter, nor how
often something is said. Source: the reward for an instruction's decomposition (actions, subjects, goals) in ImageEdit-R1 style planners.
"""

from __future__ import annotations

from collections.abc import Iterable


def f1(said: Iterable[str], wanted: Iterable[str], *, empty: float = 0.0) -> float:
    """F1 of two sets of strings, in [0, 1]; `empty` where both are empty, for then it is 0/0. A string of white space is no string."""
    said, wanted = _normalised(said), _normalised(wanted)
    if not said and not wanted:
        return float(empty)
    return 2 * len(said & wanted) / (len(said) + len(wanted))


def _normalised(strings: Iterable[str]) -> set[str]:
    if isinstance(strings, str):
        raise ValueError(f"f1 wants a set of strings, got the one string {strings!r}; put it into a list.")
    return {" ".join(string.casefold().split()) for string in strings} - {""}
