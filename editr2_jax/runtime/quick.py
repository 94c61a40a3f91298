"""Programs that run a few times: compiled in a fraction of the time, to slower code with the same meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_jit = jax.jit  # as it was on import: the tests put this module in its place


@functools.cache
def options() -> dict[str, Any] | None:
    """OPTIONS; or None where this jax or its device names them differently: slower, not wrong. Compiles something small to find out."""
    try:
        _jit(lambda x: x + 1, compiler_options=OPTIONS)(0)
    except jax.errors.JaxRuntimeError:
        return None
    return OPTIONS


def flags() -> str:
    """The same for the XLA_FLAGS of a process that is yet to start on this machine; empty where they are not known."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in (options() or {}).items())


def jit(function: Callable, **more: Any) -> Callable:
    """`jax.jit(function, **more)` with these options; nothing happens before the first call. Not for use inside another jit."""
    made = functools.cache(lambda: _jit(function, compiler_options=options(), **more))
    return functools.wraps(function)(lambda *args, **given: made()(*args, **given))
