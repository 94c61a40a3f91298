"""Compiled programs on disk: on the machine's own, filled from a shared folder at the start and given back to it after the first step.

jax writes its cache from process 0 alone, so on several hosts the local folders of the others stay empty; with a shared folder (local or
gs://) they find at the next start what process 0 compiled at this one. Entries are never changed, only added; each is copied beside its
place and then renamed, so that a reader sees it whole or not at all. Whatever goes wrong with a copy is told and the run compiles instead.
(On CPUs a program's key also tells which process runs it, so there other processes than 0 always compile.)

    with compile_cache.counted() as compiling:
        cache = CompileCache(config.compile_cache, say=say)
        cache.fetch()                                   # before anything is compiled
        ...                                             # the first step
        cache.publish(); say(compiling.line())          # compile cache: 23 hits, 4 misses, 12.3 s compiling
        compiling.settled()                             # from here on, what is compiled again is told
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

_ENTRY = "-cache"  # how jax ends the name of an entry; beside it lie times of use, which are of one machine
_LONG_S = 1.0  # compiling again for less is not worth a word
# as jax 0.10 to 0.12 names them; where they are missing, the counts stay 0
_ASKED, _HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
_READ_S, _COMPILE_S = "/jax/compilation_cache/cache_retrieval_time_sec", "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileCacheConfig:
    """Where compiled programs are kept."""

    folder: str = ""  # on a local disk, a folder below for each jax and backend; empty: as JAX_COMPILATION_CACHE_DIR says
    shared: str = ""  # a folder or gs:// that all hosts see; empty: none
    min_seconds: float = 1.0  # programs that compile faster are not kept

    def __post_init__(self):
        if "://" in self.folder:
            raise ValueError(f"compile_cache.folder is {self.folder!r}; give a local folder, and the bucket as compile_cache.shared.")
        if self.shared and not self.folder:
            raise ValueError("compile_cache.shared needs compile_cache.folder, a local folder to read it into.")


class CompileCache:
    """The cache of this process; making it switches jax's cache to its folder. Any device may have been used before."""

    def __init__(self, config: CompileCacheConfig, *, say: Callable[[str], None] = lambda text: None):
        self._say, self.folder, self._shared = say, None, None
        if not config.folder:
            return
        name = f"jax-{jax.__version__}-{jax.default_backend()}"
        self.folder = Path(config.folder).expanduser().absolute() / name
        self._shared = _path(config.shared) / name if config.shared else None
        self.folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", str(self.folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", config.min_seconds)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        # XLA's own caches lie below the folder, whose name then counts in every entry's key: another host's folder would never serve
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()  # or a process that has compiled something stays with what it found then

    def fetch(self) -> int:
        """Copies the shared folder's entries that are not here yet; how many. Every process calls it."""
        return 0 if self._shared is None else self._copy(self._shared, self.folder)

    def publish(self) -> int:
        """Copies the entries that the shared folder does not have yet; how many. Process 0 alone has new ones."""
        return 0 if self._shared is None or jax.process_index() else self._copy(self.folder, self._shared)

    def _copy(self, source: Any, target: Any) -> int:
        """Folders are Path or epath.Path."""
        copied = 0
        try:
            target.mkdir(parents=True, exist_ok=True)
            there = {path.name for path in target.iterdir()}
            for path in source.iterdir() if source.exists() else ():
                if path.name.endswith(_ENTRY) and path.name not in there:
                    beside = target / f".{path.name}.{os.getpid()}"
                    beside.write_bytes(path.read_bytes())
                    beside.replace(target / path.name)
                    copied += 1
        except Exception as error:  # file systems raise what they like; a program can always be compiled
            self._say(f"compile cache: {source} was not copied to {target} ({type(error).__name__}: {error}); the run goes on.")
        return copied


def _path(name: str) -> Any:
    """A local folder, or one in a bucket."""
    if "://" not in name:
        return Path(name).expanduser().absolute()
    from etils import epath  # imports what reads buckets

    return epath.Path(name)


class Compiling:
    """What this process compiled and what it found in the cache. Made by `counted`; compilations may come from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._asked = self._hits = 0
        self._seconds = self._read = 0.0
        self._known: set[str] = set()
        self._settled = False
        self._again: dict[str, float] = {}

    @property
    def misses(self) -> int:
        return self._asked - self._hits

    @property
    def hits(self) -> int:
        return self._hits

    @property
    def seconds(self) -> float:
        """Spent compiling; reading the cache is not."""
        return max(self._seconds - self._read, 0.0)

    def line(self) -> str:
        if not self._asked:
            return f"compile cache: off, {self.seconds:.1f} s compiling"
        return f"compile cache: {self.hits} hits, {self.misses} misses, {self.seconds:.1f} s compiling"

    def metrics(self) -> dict[str, float]:
        """Since the process began."""
        return {"compile/hits": float(self.hits), "compile/misses": float(self.misses), "compile/seconds": self.seconds}

    def settled(self) -> None:
        """All phases have run: from now on a program of a known name that takes long to compile is one that should not be new."""
        self._settled = True

    def again(self) -> str:
        """A warning that names what was compiled again since the last call; "" for nothing."""
        with self._lock:
            found, self._again = self._again, {}
        if not found:
            return ""
        named = ", ".join(f"{name} ({seconds:.1f} s)" for name, seconds in found.items())
        return f"compiled again: {named}; an argument's shape or place on the devices is new (JAX_EXPLAIN_CACHE_MISSES=1 says which)."

    def on_event(self, event: str, **_: Any) -> None:
        with self._lock:
            self._asked += event == _ASKED
            self._hits += event == _HIT

    def on_duration(self, event: str, seconds: float, **told: Any) -> None:
        """jax.monitoring's listener for durations in seconds: what reading a program back, or compiling it, took; others are let pass."""
        if event not in (_READ_S, _COMPILE_S):
            return
        with self._lock:
            if event == _READ_S:
                self._read += seconds
                return
            self._seconds += seconds
            name = str(told.get("fun_name", ""))
            if self._settled and name in self._known and seconds >= _LONG_S:
                self._again[name] = self._again.get(name, 0.0) + seconds
            self._known.add(name)


@contextlib.contextmanager
def counted() -> Iterator[Compiling]:
    """Within the block jax tells what it compiles."""
    from jax import monitoring

    compiling = Compiling()
    monitoring.register_event_listener(compiling.on_event)
    monitoring.register_event_duration_secs_listener(compiling.on_duration)
    try:
        yield compiling
    finally:
        monitoring.unregister_event_listener(compiling.on_event)
        monitoring.unregister_event_duration_listener(compiling.on_duration)
