"""The objectives there are: every file of a folder is one, so a new objective is a new file and nothing else."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from types import ModuleType

from editr2_jax.objectives import image, intent, points

_REQUIRED = {"image": ("POINTS", "NEEDS", "Config", "loss"), "intent": ("Config", "loss")}
_PACKAGES = {"image": image, "intent": intent}


@functools.cache
def names(family: str) -> tuple[str, ...]:
    """The kinds of a family, `image` or `intent`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(_PACKAGES[family].__path__)))


@functools.cache
def named(family: str, kind: str) -> ModuleType:
    """The module of an objective.

    Raises:
        ValueError: there is no such file, or it lacks one of the names that an objective must have.
    """
    known = names(family)
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        raise ValueError(
            f"objective.{family}.kind: there is no {kind!r}{f', did you mean {near[0]!r}' if near else ''}; choose from {', '.join(known)}."
        )
    module = importlib.import_module(f"{_PACKAGES[family].__name__}.{kind}")
    if missing := [name for name in _REQUIRED[family] if not hasattr(module, name)]:
        raise ValueError(f"objectives/{family}/{kind}.py lacks {', '.join(missing)}; see the head of objectives/points.py.")
    if family == "image" and (unknown := set(module.NEEDS) - set(points.NEEDS)):
        raise ValueError(f"objectives/image/{kind}.py: NEEDS names {sorted(unknown)}; velocities are {', '.join(points.NEEDS)}.")
    return module
