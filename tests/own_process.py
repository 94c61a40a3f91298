"""The command line as tests that end it run it: `python tests/own_process.py VERB ARGUMENTS...`.

Two things are added. Every call of a reward is written into the file that EDITR2_BILL names, as a judge keeps its own books, which no kill
touches. And every host keeps what it compiles: jax lets only the first do so, and on CPUs the others' programs are not the first's, so that
each start of a run would compile them again.
"""

import hashlib
import os
import sys
import types
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # as `python -m editr2_jax` has it


def bill(path: str) -> None:
    """Has every verdict that is asked for written down: the reward, the session, the turn, and what was looked at."""
    from editr2_jax.rewards import suite

    books, real = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), suite.verdict_of

    def billed(reward, episode):
        seen = hashlib.sha256(b"".join(picture.tobytes() for picture in episode.pictures)).hexdigest()[:16]
        os.write(books, f"{reward.name} {episode.session.id} {episode.turn} {seen}\n".encode())
        return real(reward, episode)

    suite.verdict_of = billed


def keep_compiled() -> None:
    """jax's own writer of its compilation cache, told that this is the first process. Where a jax has no such function, nothing changes."""
    from jax._src import compiler

    real = getattr(compiler, "_cache_write", None)
    if isinstance(real, types.FunctionType) and hasattr(compiler, "distributed"):
        first = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0))
        compiler._cache_write = types.FunctionType(real.__code__, real.__globals__ | {"distributed": first})


if __name__ == "__main__":  # worker processes import this file again
    from editr2_jax.cli.main import main

    keep_compiled()
    if "EDITR2_BILL" in os.environ:
        bill(os.environ["EDITR2_BILL"])
    sys.exit(main())
