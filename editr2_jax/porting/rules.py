"""Renaming and reshaping by table: PyTorch names and layouts on one side, ours on the other, both ways.

A table is a list of rules; a rule names one kind of parameter twice. `{layer}` in the PyTorch name alone means that ours holds all
layers in one array with a leading layer axis; other numbers in braces stand in both names. Nothing is skipped in silence: what a file
holds and the model lacks, what the model needs and the file lacks, what has another shape, and what is not finite is listed in one error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from editr2_jax.porting import leaves as stored
from editr2_jax.porting.leaves import Leaf, Sharding

# Axes of the PyTorch tensor in our order, and how many axes of length 1 PyTorch has behind them.
_FORMS = {"same": (None, 0), "linear": ((1, 0), 0), "conv": ((2, 3, 1, 0), 0), "pointwise": ((1, 0), 2)}
_ADAPTER = {"lora_a", "lora_b"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of parameter: our dotted path, the PyTorch name, and how the axes change.

    form: same | linear (out, in -> in, out) | conv (OIHW -> HWIO) | pointwise (1x1 convolution -> in, out).
    rebuild: for fixed tables that a file may lack: shape -> array.
    """

    path: str
    key: str
    form: str = "same"
    rebuild: Callable[[tuple[int, ...]], Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One of our parameters and the PyTorch tensors that fill it: one, or one per layer."""

    path: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    stacked: bool
    rule: Rule

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Shape of each PyTorch tensor."""
        ours = self.shape[1:] if self.stacked else self.shape
        axes, tail = _FORMS[self.rule.form]
        theirs = ours if axes is None else tuple(ours[axes.index(axis)] for axis in range(len(axes)))
        return theirs + (1,) * tail


class WeightsError(ValueError):
    """A checkpoint that does not fit the model; `problems` lists every tensor in the way by file and kind of trouble."""

    def __init__(self, problems: Mapping[str, Mapping[str, list[str]]]):
        self.problems = {where: {kind: sorted(names) for kind, names in kinds.items() if names} for where, kinds in problems.items()}
        lines = []
        for where, kinds in self.problems.items():
            count = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())
            lines.append(f"{where}: the weights do not fit the model ({count}); check that the configuration is theirs.")
            lines += [f"  {kind}: {name}" for kind, names in kinds.items() for name in names]
        super().__init__("\n".join(lines))


def leaves(tree: Any, *, under: str = "", without: Iterable[str] = ()) -> dict[str, Any]:
    """Dotted path -> array (or shape) for a module, a state, gradients, or nested dicts; adapters are left out.

    Args:
        under: keep this subtree alone, with paths inside it.
        without: first names of subtrees to leave out.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [_name(part) for part in path]
        if isinstance(path[-1], jax.tree_util.GetAttrKey) and names[-1] == "value":
            names.pop()  # the wrapper around the array, no name of ours
        if under and names[0] != under or names[0] in without or names[-1] in _ADAPTER or not hasattr(leaf, "dtype"):
            continue
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found[".".join(names[1:] if under else names)] = leaf
    return found


def plan(ours: Mapping[str, Any], rules: Iterable[Rule]) -> list[Place]:
    """Which PyTorch tensors fill which of our parameters. Raises ValueError for a parameter that no rule names, listing all of them."""
    patterns = [(_pattern(rule.path), rule) for rule in rules]
    places, nameless = [], []
    for path, leaf in ours.items():
        match = next(((m, rule) for pattern, rule in patterns if (m := pattern.fullmatch(path))), None)
        if match is None:
            nameless.append(path)
            continue
        numbers, rule = match[0].groupdict(), match[1]
        stacked = "{layer}" in rule.key and "layer" not in numbers
        keys = [rule.key.format(**numbers, layer=layer) for layer in range(leaf.shape[0])] if stacked else [rule.key.format(**numbers)]
        places.append(Place(path=path, keys=tuple(keys), shape=tuple(leaf.shape), dtype=leaf.dtype, stacked=stacked, rule=rule))
    if nameless:
        raise ValueError(f"no rule names these parameters: {', '.join(sorted(nameless))}; add them to the table in editr2_jax/porting.")
    return places


def opened(
    places: list[Place], tensors: Mapping[str, Any], *, where: str | None = None, unsound: stored.Unsound, own_types: bool = False
) -> dict[str, Leaf]:
    """Our parameters by path, still in the file; nothing is read.

    Args:
        unsound: counts what is not finite when it is read.
        own_types: the file's types instead of ours.

    Raises WeightsError that lists all that is unused, unfilled or misshapen.
    """
    problems = _compare(places, tensors)
    if any(problems.values()):
        raise WeightsError({_told(tensors, where): problems})
    return {place.path: _leaf(place, tensors, unsound, own_types) for place in places}


def read(
    places: list[Place],
    tensors: Mapping[str, Any],
    *,
    where: str | None = None,
    sharding: Sharding | None = None,
    done: Callable[[str, int], None] = lambda path, size: None,
) -> dict[str, Any]:
    """Our arrays by path, in our types, from PyTorch tensors by name.

    With `sharding` this process reads what its own devices hold, and the whole array is never on one machine.

    Args:
        done: is told the path and the bytes of every parameter that is there.

    Raises WeightsError that lists all that is unused, unfilled, misshapen or not finite; then nothing is returned.
    """
    unsound, arrays = stored.Unsound(), {}
    try:
        for path, leaf in opened(places, tensors, where=where, unsound=unsound).items():
            arrays[path] = stored.place(leaf, sharding and sharding(path, leaf.shape))
            done(path, arrays[path].nbytes)
        problems = {}
    except WeightsError as error:  # only look for what else is wrong, so that one error tells all
        problems = dict(error.problems[_told(tensors, where)])
        for place in places:
            for key in place.keys:
                if key in tensors and tuple(tensors[key].shape) == place.key_shape:
                    unsound.look(key, np.asarray(tensors[key]))
    problems["not finite"] = unsound.listed()
    if any(problems.values()):
        raise WeightsError({_told(tensors, where): problems})
    return arrays


def load(model: nnx.Module, tensors: Mapping[str, np.ndarray], rules: Iterable[Rule], *, where: str | None = None) -> nnx.Module:
    """The model, abstract or real, with its parameters filled from PyTorch tensors. Adapters stay as they are."""
    return fill(model, read(plan(leaves(model), rules), tensors, where=where))


def fill(model: nnx.Module, arrays: Mapping[str, Any]) -> nnx.Module:
    """A copy of the model with arrays in the given dotted paths."""
    graph, state = nnx.split(model)
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        flat[path] = variable.replace(arrays[name]) if name in arrays else variable
    return nnx.merge(graph, nnx.from_flat_state(flat))


def export(ours: Mapping[str, Any], rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """PyTorch tensors by name from our arrays by path (parameters or their gradients; see leaves), types unchanged."""
    return {key: give() for key, (_, _, give) in export_lazily(ours, rules).items()}


def export_lazily(ours: Mapping[str, Any], rules: Iterable[Rule]) -> dict[str, tuple[tuple[int, ...], Any, Callable[[], np.ndarray]]]:
    """As export, but shape, type and a function that makes the tensor, for files that are written one tensor at a time."""
    found = {}
    for place in plan(ours, rules):
        for index, key in enumerate(place.keys):
            found[key] = (place.key_shape, np.dtype(place.dtype), _Exported(ours[place.path], place, index))
    return found


@dataclasses.dataclass(frozen=True)
class _Exported:
    leaf: Any
    place: Place
    index: int

    def __call__(self) -> np.ndarray:
        array = self._ours()
        axes, _ = _FORMS[self.place.rule.form]
        if axes is None:
            return np.ascontiguousarray(array).reshape(self.place.key_shape)
        turned = array.transpose([axes.index(axis) for axis in range(len(axes))])
        out = np.empty(turned.shape, turned.dtype)
        stored.copy(turned, out)
        return out.reshape(self.place.key_shape)

    def _ours(self) -> np.ndarray:
        """The leaf, or its layer, in our axis order."""
        if not hasattr(self.leaf, "blocks"):
            return np.asarray(self.leaf[self.index] if self.place.stacked else self.leaf)
        every = [slice(0, length) for length in self.leaf.shape]
        if self.place.stacked:
            every[0] = slice(self.index, self.index + 1)
        (block,) = self.leaf.blocks([tuple(every)])
        return block[0] if self.place.stacked else block


def _compare(places: list[Place], tensors: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    wanted = {key: place for place in places for key in place.keys}
    unfilled = [key for key, place in wanted.items() if key not in tensors and place.rule.rebuild is None]
    misshapen = [
        f"{key} (file {tuple(tensors[key].shape)}, model {place.key_shape})"
        for key, place in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != place.key_shape
    ]
    return {"unused": [key for key in tensors if key not in wanted], "unfilled": unfilled, "misshapen": misshapen}


def _leaf(place: Place, tensors: Mapping[str, Any], unsound: stored.Unsound, own_types: bool) -> Leaf:
    here = [key for key in place.keys if key in tensors]
    if not here:  # a table that can be made again
        return stored.Made(place.rule.rebuild(place.shape), place.dtype)
    dtype = np.result_type(*{tensors[key].dtype for key in here}) if own_types else place.dtype
    axes, _ = _FORMS[place.rule.form]
    return stored.Turned(place.keys, tensors, place.shape, dtype, axes=axes, stacked=place.stacked, unsound=unsound)


def _told(tensors: Mapping[str, Any], where: str | None) -> str:
    """What an error calls the file."""
    return where or ("weights" if isinstance(tensors, dict) else str(tensors))


def _pattern(path: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", path)
    return re.compile("".join(rf"(?P<{piece}>\d+)" if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces)))


def _name(part: Any) -> str:
    return str(next(getattr(part, name) for name in ("key", "name", "idx") if hasattr(part, name)))
