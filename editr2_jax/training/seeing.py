"""What a run tells about itself while it goes: times and shares of its phases, traces on request, compilations, devices that stand still.

    with Seeing.of(profile, compile_cache, workdir, devices=mesh_devices, say=say) as seeing:
        for step in ...:
            with seeing.step(step):
                with seeing.phase("data"):
                    sessions = next(stream)
                player = seeing.player(player)             # its programs are followed one by one
                with seeing.phase("update"):
                    ...
                metrics |= seeing.times(useful_flops)      # at the end of the step, when its last result is here
            metrics |= seeing.after(step, metrics, seconds=..., say=out.say)

The blocks of a step are data, rollout, recall, reward_wait, update; save and evaluation come between steps and are told with the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from editr2_jax.rollouts import watched
from editr2_jax.rollouts.player import Player
from editr2_jax.runtime import chips, compile_cache, idle
from editr2_jax.runtime.clock import Clock
from editr2_jax.runtime.compile_cache import CompileCache, CompileCacheConfig, Compiling
from editr2_jax.runtime.profiling import ProfileConfig, Profiler

Say = Callable[[str], None]
_SETTLED = 2  # steps after which every phase has been compiled


class Seeing:
    """One for a run. Made bare it keeps the time and nothing else."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        profiler: Profiler | None = None,
        compiling: Compiling | None = None,
        cache: CompileCache | None = None,
        peak: float | None = None,
    ):
        """peak: FLOP/s of all devices of the run; None where it is not known. `clock` is one that annotates by `profiler`."""
        self._clock, self._profiler, self._compiling, self._cache = clock or Clock(), profiler, compiling, cache
        self._peak, self._streaks, self._done = peak, idle.Streaks(), 0

    @classmethod
    @contextlib.contextmanager
    def of(cls, profile: ProfileConfig, cache: CompileCacheConfig, workdir: Path, *, devices: Sequence[Any] | None = None, say: Say):
        """Everything, for a run in `workdir` on `devices` (all there are). Enter it before anything large is compiled."""
        with compile_cache.counted() as compiling:
            profiler, kept = Profiler(profile, workdir, say=say), CompileCache(cache, say=say)
            kept.fetch()
            peak = chips.peak(jax.devices() if devices is None else devices, peak_tflops=profile.peak_tflops)
            yield cls(clock=Clock(annotate=profiler.phase), profiler=profiler, compiling=compiling, cache=kept, peak=peak)
            kept.publish()  # what evaluations compiled

    def step(self, step: int) -> contextlib.AbstractContextManager[None]:
        return self._profiler.step(step) if self._profiler else contextlib.nullcontext()

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A block at whose end the host has waited for its results; see Clock.phase."""
        return self._clock.phase(name)

    def player(self, plain: Player) -> Player:
        """The same player, its programs followed: time/rollout/context_s, and intent, denoise and decode."""
        return watched.player(plain, self._clock)

    def follow(self, name: str, started: float, outputs: Any) -> None:
        """A program of which the host does not wait; see Clock.follow."""
        self._clock.follow(name, started, outputs)

    def now(self) -> float:
        return self._clock.now()

    def times(self, flops: Mapping[str, float] | None = None) -> dict[str, float]:
        """time/*_s, mfu/* and memory/* of the phases so far; see Clock.metrics."""
        return self._clock.metrics(flops=flops, peak=self._peak)

    def after(self, step: int, metrics: Mapping[str, Any], *, seconds: float, say: Say) -> dict[str, float]:
        """More metrics of a step that is over: times not among `metrics` yet, idle shares, compilations. Says what to look into."""
        told = self.times() | {"time/step_s": seconds}
        shares = idle.shares({**metrics, **told})
        self._streaks, lines = self._streaks.after(shares)
        self._done += 1
        for line in [*lines, *self._compilations()]:
            say(f"step {step}: {line}")
        return told | shares | (self._compiling.metrics() if self._compiling else {})

    def _compilations(self) -> list[str]:
        if self._compiling is None:
            return []
        if self._done == 1:
            if self._cache:
                self._cache.publish()
            return [self._compiling.line()]
        again = self._compiling.again()
        if self._done == _SETTLED:
            self._compiling.settled()
        return [again] if again else []
