"""What the verbs share: flags, config files and their overrides, and the claim on a workdir.

A config file is Python with `get_config(variant)` returning an ml_collections.ConfigDict that has every key. `--config.a.b=VALUE`
replaces a value that is there by one of the same type; anything else is refused. (ml_collections' own flags answer a misspelt key with a
traceback.)
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editr2_jax.runtime import workdir as workdirs

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_OVERRIDE = re.compile(r"--config\.([^=]+)(?:=(.*))?", re.DOTALL)
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class Parser(argparse.ArgumentParser):
    """argparse with our manners: a mistake is a ValueError, and an unknown flag is refused naming the nearest one."""

    def __init__(self, verb: str, about: str | None, *, config: bool = False, workdir: bool = False):
        """verb: as typed, e.g. "data make". config, workdir: whether it must be given --config and --workdir."""
        super().__init__(
            prog=f"python -m editr2_jax {verb}", description=about, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.takes_config = config
        if config:
            self.add_argument(
                "--config", required=True, metavar="FILE.py[:VARIANT]", help="the run; --config.a.b=VALUE overrides a value of it"
            )
        if workdir:
            self.add_argument("--workdir", required=True, metavar="DIR", help="the folder of the run")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags; where the verb takes a config, `.config` is the loaded, overridden and locked ConfigDict. Raises ValueError."""
        overrides, rest = split_overrides(argv)
        if overrides and not self.takes_config:
            self.error(f"--config.{overrides[0][0]} has nothing to override here")
        known = [option for action in self._actions for option in action.option_strings]
        for flag in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
            if flag not in known:  # before argparse complains that the right spelling is missing
                self.error(f"unknown flag {flag}{_nearest(flag, known)}")
        args = self.parse_args(rest)
        if self.takes_config:
            args.config = load_config(args.config, overrides)
        return args

    def error(self, message: str) -> None:
        raise ValueError(f"{message}; see {self.prog} --help.")


def add_hosts(parser: Parser) -> None:
    """The flags that say which processes make one run."""
    parser.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0, where several processes make one run")
    parser.add_argument("--processes", default="1", metavar="N|auto", help="how many there are; auto where the platform tells")
    parser.add_argument("--process", type=int, default=0, metavar="I", help="which of them this is, from 0")


def which_host(args: argparse.Namespace) -> dict[str, Any]:
    """What those flags say, as settings of runtime/hosts.HostsConfig. Raises ValueError for a count that is no number."""
    if args.processes != "auto" and not args.processes.isdecimal():
        raise ValueError(f"--processes={args.processes}: give how many there are, or auto where the platform tells.")
    count = -1 if args.processes == "auto" else int(args.processes)
    return {"coordinator": args.coordinator, "processes": count, "process": args.process}


def add_at(parser: Parser) -> None:
    """The flag that chooses a checkpoint of a run."""
    parser.add_argument(
        "--at",
        metavar="latest|best|healthy|STEP",
        help="which checkpoint of the run (latest); best: of those that the run evaluated, by held-out reward",
    )


def which_checkpoint(args: argparse.Namespace, *, run: str) -> int | str:
    """What --at says: a step, or a name that the run's checkpoints know. Raises ValueError where the flag `run`, of which, is not given."""
    if args.at is not None and getattr(args, run) is None:
        raise ValueError(f"--at={args.at} chooses a checkpoint of a run; give --{run}=DIR, or leave --at out.")
    at = args.at or "latest"
    return int(at) if at.isdecimal() else at


def call_subverb(verb: str, argv: Sequence[str], subverbs: Mapping[str, Callable[[list[str]], int]]) -> int:
    """Run `SUBVERB ARGUMENTS...` of a verb such as `data`; each subverb parses its own flags, and its docstring is its line in the help."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, subverbs))
        lines = [f"  {name:<{width}}  {(run.__doc__ or '').partition(chr(10))[0]}" for name, run in subverbs.items()]
        print("\n".join([f"usage: python -m editr2_jax {verb} SUBVERB ...", "", *lines]), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in subverbs:
        raise ValueError(f"{verb} has no subverb {argv[0]!r}{_nearest(argv[0], list(subverbs))}; it has {', '.join(subverbs)}.")
    return subverbs[argv[0]](list(argv[1:]))


def split_overrides(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(`--config.NAME=VALUE` or `--config.NAME VALUE` as pairs, the other arguments); both in their order."""
    overrides, rest, waiting = [], [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
        elif match[2] is not None:
            overrides.append((match[1], match[2]))
        elif waiting and not waiting[0].startswith("--"):
            overrides.append((match[1], waiting.pop(0)))
        else:
            raise ValueError(f"{argument} has no value; write {argument}=VALUE.")
    return overrides, rest


def load_config(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of `FILE.py[:VARIANT]` with overrides applied, locked. Raises ValueError for whatever is wrong with either."""
    file, _, variant = spec.partition(".py:") if ".py:" in spec else (spec, "", "")
    path = Path(file + ".py" if variant else file)
    config = _run(path, variant)
    config.lock()
    for name, text in overrides:
        override(config, name, text)
    return config


def saved_config(workdir: str | Path) -> ConfigDict:
    """The config that a workdir was started with, from its config.json; lists come back as tuples.

    Settings that an earlier version of the package did not have yet are at their defaults. Raises ValueError where there is none.
    """
    from ml_collections import ConfigDict

    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found; give the --workdir of a run that has started.")
    told = workdirs.read_json(path)
    return ConfigDict(_tuples(_completed(told, _defaults(told)))).lock()


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of JSON values, references resolved."""
    return _lists(config.to_dict())


def claim_workdir(workdir: str, config: ConfigDict, *, may_change: Iterable[str] = (), within_s: float = 0.0) -> Path:
    """Make the workdir if needed and write config.json and versions.json, or check that they are of this config; the absolute path.

    may_change: dotted names in which a resumed run may differ. within_s: how long one that writes there is waited for. Raises ValueError
    for a folder that is not writable, belongs to another config, or is being written into.
    """
    path = workdirs.writable(workdir)
    with workdirs.exclusive(path, within_s=within_s):  # another process may be at work here under the config that stands there
        now = plain(config)
        workdirs.claim(path, now, may_change=tuple(may_change), defaults=_defaults(now))
    return path


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every setting of a run is unless a config says otherwise; nothing for a config that is none of a run."""
    if "recipe" not in config:
        return {}
    from editr2_jax import presets

    return plain(presets.edit_r2())


def _completed(told: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is told, and the defaults of what is not."""
    both = {
        name: (told[name], defaults[name]) for name in told if isinstance(told[name], Mapping) and isinstance(defaults.get(name), Mapping)
    }
    return {**defaults, **told, **{name: _completed(mine, usual) for name, (mine, usual) in both.items()}}


def override(config: ConfigDict, name: str, text: str) -> None:
    """Set the dotted `name` to the value that `text` spells, of the type that the present value has.

    Raises ValueError for a name that is not there, naming the nearest, for a group of values, and for text of another type.
    """
    names = _leaves(config)
    if name not in names:
        below = [leaf for leaf in names if leaf.startswith(name + ".")]
        if below:
            raise ValueError(f"--config.{name} is a group, not a value; set one of {', '.join('--config.' + leaf for leaf in below)}.")
        raise ValueError(f"--config.{name}: there is no such key in this config{_nearest(name, names, prefix='--config.')}.")
    *groups, last = name.split(".")
    owner = config
    for group in groups:
        owner = owner[group]
    owner[last] = _value(f"--config.{name}", text, owner[last], owner.get_type(last))


def _run(path: Path, variant: str) -> ConfigDict:
    """What get_config of a config file returns. Its own folder, and the one above, can be imported from while it runs."""
    from ml_collections import ConfigDict

    if not path.is_file():
        there = sorted(str(file) for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: there is no such config file{_nearest(str(path), there)}.")
    search, silent = sys.path, sys.dont_write_bytecode
    sys.path = [str(path.resolve().parent), str(path.resolve().parent.parent), *search]
    sys.dont_write_bytecode = True  # a config is read where it lies, and leaves nothing there
    try:
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it defines no get_config(variant)")
        if variant and not inspect.signature(module.get_config).parameters:
            raise ValueError(f"it has no variants, but {variant!r} was asked for")
        config = module.get_config(variant) if variant else module.get_config()
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{_place(path, error)}: this config does not load: {kind}{error}") from error
    finally:
        sys.path, sys.dont_write_bytecode = search, silent
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{path}: get_config returned {type(config).__name__}; it must return an ml_collections.ConfigDict.")
    return config


def _place(path: Path, error: Exception) -> str:
    """The config file, with the line that was being run when the error came."""
    inside = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else inside[-1] if inside else None
    return str(path) if line is None else f"{path}:{line}"


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all values."""
    found = []
    for name in config:
        value = config[name]
        found += _leaves(value, f"{prefix}{name}.") if hasattr(value, "keys") else [prefix + name]
    return found


def _value(name: str, text: str, present: Any, kind: type) -> Any:
    """`text` as a value like the present one; kind is the declared type, which an empty placeholder has although it holds None."""
    try:
        if kind is bool:
            return _boolean(text)
        if kind in (int, float):
            return kind(text)
        if kind is str:
            return text
        if kind in (tuple, list):
            return kind(_elements(text, present))
        return _literal(text)  # present is None: any value will do
    except ValueError:
        wanted = f"{kind.__name__}, such as {present!r}" if present is not None else kind.__name__
        raise ValueError(f"{name} wants a value of type {wanted}; got {text!r}.") from None


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _elements(text: str, present: Sequence[Any] | None) -> list[Any]:
    """`1,2`, `(1, 2)` or `[1, 2]`; each element of the type of the first one there is now."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    parts = [part.strip() for part in inner.split(",") if part.strip()]
    if not present:
        return [_literal(part) for part in parts]
    first = present[0]
    if isinstance(first, str):
        parts = [part[1:-1] if part[:1] == part[-1:] and part[0] in "'\"" else part for part in parts]
    return [_value("", part, first, type(first)) for part in parts]


def _literal(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """(the nearest is X), or nothing if no known name comes near; of keys, first one with the same last part, for who forgot its group."""
    same_end = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]] if prefix else []
    close = same_end or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (the nearest is {prefix}{close[0]})" if close else ""


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lists(inner) for name, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
