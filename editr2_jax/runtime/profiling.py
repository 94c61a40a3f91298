"""XProf traces of chosen steps, and names for the phases in them.

    profiler = Profiler(config.profile, workdir, say=say)
    clock = Clock(annotate=profiler.phase)
    for step in ...:
        with profiler.step(step):
            with clock.phase("update"):
                ...

The trace of a step lies in WORKDIR/profile/STEP, of single phases in WORKDIR/profile/STEP/PHASE, and where every process is asked in a
folder process_N below; `xprof --logdir=FOLDER` or TensorBoard's profile plugin shows it. Steps are chosen in the config, or while a run
goes by `touch WORKDIR/profile/request`: the next step is traced and the file goes away. A profiler that fails says so once, and the run
goes on. Outside of a trace this costs nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

FOLDER, REQUEST = "profile", "request"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps are traced, how much of them, and what a share of the peak refers to."""

    steps: tuple[int, ...] = ()  # counted from 0
    phases: tuple[str, ...] = ()  # of these steps, such as ("update",); none: whole steps, whose traces are large
    python: bool = False  # Python calls too: slower, larger
    everyone: bool = False  # every process its own devices and host; else process 0 alone
    peak_tflops: float = 0.0  # bfloat16 TFLOP/s of one device; 0: as runtime/chips.py has it, and no mfu for a device that is not there

    def __post_init__(self):
        if self.peak_tflops < 0:
            raise ValueError(f"profile.peak_tflops is {self.peak_tflops}; give the TFLOP/s of one device, or 0 for those of the table.")
        if wrong := [step for step in self.steps if step < 0]:
            raise ValueError(f"profile.steps holds {wrong[0]}; steps are counted from 0.")


class Profiler:
    """Starts and stops traces around steps and phases. One for a run; used by its main thread."""

    def __init__(self, config: ProfileConfig, workdir: Path, *, say: Callable[[str], None] = lambda text: None):
        self._config, self._folder, self._say = config, workdir / FOLDER, say
        self._first = jax.process_index() == 0
        self._below = f"process_{jax.process_index()}" if config.everyone else ""  # processes of one machine would write the same file
        self._takes_part = self._first or config.everyone
        self._step: int | None = None  # the step whose phases are to be traced
        self._seen: set[str] = set()  # phases of the step under way
        self._tracing = self._failed = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """A training step; XProf groups what happens in it by its number."""
        chosen, requested = step in self._config.steps, self._requested()
        whole = requested or (chosen and not self._config.phases)
        self._step, self._seen = step if chosen and not whole else None, set()
        try:
            with self._trace(self._folder / str(step), whole), jax.profiler.StepTraceAnnotation("step", step_num=step):
                yield
            self._tell_missing(step)
        finally:
            self._step = None
            if requested and self._first:
                (self._folder / REQUEST).unlink(missing_ok=True)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of a step, by the name that the clock has for it."""
        self._seen.add(name)
        asked = self._step is not None and name in self._config.phases
        with self._trace(self._folder / str(self._step) / name, asked), jax.profiler.TraceAnnotation(name):
            yield

    def _tell_missing(self, step: int) -> None:
        """A phase that was to be traced and did not come, which may be misspelt."""
        missing = [name for name in self._config.phases if name not in self._seen]
        if self._step is not None and missing and self._first:
            self._say(f"profile.phases: step {step} has no {', '.join(missing)}; it has {', '.join(sorted(self._seen))}.")

    def _requested(self) -> bool:
        try:
            return self._takes_part and (self._folder / REQUEST).exists()
        except OSError:  # a file system that is away for a moment
            return False

    @contextlib.contextmanager
    def _trace(self, folder: Path, wanted: bool) -> Iterator[None]:
        """Traces the block into the folder where that is wanted, this process takes part, and no trace is under way."""
        folder = folder / self._below
        started = wanted and self._takes_part and not self._tracing and self._try(lambda: self._start(folder))
        self._tracing = self._tracing or started
        try:
            yield
        finally:
            if started:
                self._tracing = False
                if self._try(jax.profiler.stop_trace) and self._first:
                    self._say(f"profile: a trace lies in {folder}")

    def _start(self, folder: Path) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = int(self._config.python)
        jax.profiler.start_trace(folder, profiler_options=options)

    def _try(self, call: Callable[[], None]) -> bool:
        """Whether the call went well; the first that does not is told."""
        try:
            call()
        except Exception as error:  # whatever a backend's profiler raises, it is not worth a run
            if not self._failed:
                self._say(f"profile: no trace ({type(error).__name__}: {error}); the run goes on without.")
            self._failed = True
            return False
        return True
