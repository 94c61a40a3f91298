"""The entry: finds the verb, runs it, and turns a user's mistake into one message.

A verb is any other file of this folder that defines `main(argv)`. Files are read for the list of verbs, never imported: asking for help
costs no import of jax. Only the chosen verb is loaded.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
import traceback
from pathlib import Path

from editr2_jax.runtime.roll_call import NotAllHere

OK, FAILED, USAGE, AGAIN, INTERRUPTED = 0, 1, 2, 75, 130

_ROOM = Path(__file__).resolve().parent
_PACKAGE = _ROOM.parent


def main(argv: list[str] | None = None) -> int:
    """Run `VERB ARGUMENTS...` and return the exit status.

    0 done; 2 a mistake of the caller, told as `error: ...`; 1 a fault of ours, told with its traceback, or a run that cannot go on; 75
    another host was lost or did not come; 130 interrupted. `--debug` anywhere shows the traceback of a mistake too.
    """
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _dispatch(argv: list[str]) -> int:
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage(), file=sys.stdout if argv else sys.stderr)
        return OK if argv else USAGE
    verb, rest = argv[0], argv[1:]
    if verb not in verbs():
        print(f"error: there is no verb {verb!r}{_nearest(verb)}; the verbs are {', '.join(verbs())}.", file=sys.stderr)
        return USAGE
    return _call(verb, rest, debug)


def verbs() -> dict[str, str]:
    """Name of every verb -> the first line of its file's docstring, in alphabetical order."""
    found = {}
    for path in sorted(_ROOM.glob("*.py")):
        if path.stem in ("__init__", "main", "common"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _call(verb: str, argv: list[str], debug: bool) -> int:
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # a traceback without jax's frames would lay its errors at our door
    try:
        return importlib.import_module(f"editr2_jax.cli.{verb}").main(argv) or OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        status = _status(error)
        if debug or status is None:
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        return FAILED if status is None else status


def _status(error: Exception) -> int | None:
    """The exit status of an error that speaks for itself; None for a fault in the program, which needs its traceback.

    A ValueError raised by a line of ours is a caller's mistake, one from inside a library is a fault; likewise a RuntimeError or
    FloatingPointError of ours says why a run cannot go on; one without a word says nothing. An error of the operating system names its
    file, or is one of ours that does.
    """
    if isinstance(error, NotAllHere):
        return AGAIN
    if isinstance(error, OSError) and error.filename is not None:
        return USAGE
    *_, innermost = traceback.extract_tb(error.__traceback__)
    ours = Path(innermost.filename).resolve().is_relative_to(_PACKAGE) and "raise" in (innermost.line or "").split() and str(error)
    if ours and isinstance(error, (ValueError, OSError)):
        return USAGE
    if ours and isinstance(error, (RuntimeError, FloatingPointError)) and not isinstance(error, (NotImplementedError, RecursionError)):
        return FAILED
    return None


def _usage() -> str:
    listed = verbs()
    width = max(map(len, listed), default=0)
    lines = [f"  {verb:<{width}}  {about}" for verb, about in listed.items()]
    return "\n".join(
        [
            "usage: python -m editr2_jax VERB [--config=FILE.py[:VARIANT]] [--config.a.b=VALUE] [--workdir=DIR] ...",
            "",
            *lines,
            "",
            "VERB --help tells what a verb takes; --debug shows the traceback of an error.",
        ]
    )


def _nearest(verb: str) -> str:
    close = difflib.get_close_matches(verb, verbs(), n=1, cutoff=0.5)
    return f" (the nearest is {close[0]})" if close else ""
