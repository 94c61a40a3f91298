"""A player whose programs are followed by a clock: how long contexts, intents, denoising steps and decoding take while play runs ahead.

Play sends a turn's programs off one behind the other and waits only for pictures and words. The clock waits for each program's outputs in a
thread of its own; a context is given away to the next program, so what is waited for there is a copy of one number in it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from editr2_jax.rollouts.player import Player
from editr2_jax.runtime.clock import Clock

CONTEXT, INTENT, DENOISE, DECODE = "rollout/context", "rollout/intent", "rollout/denoise", "rollout/decode"
_copied = jax.jit(jnp.copy)


@dataclasses.dataclass(frozen=True)
class _Program:
    phase: str
    awaited: Callable[[Any], jax.Array]  # an output that the program computes (not one that it hands through), which nobody gives away


_PROGRAMS = {
    "perceive": _Program(CONTEXT, lambda tokens: tokens.latents),
    "begin": _Program(CONTEXT, lambda context: _copied(context.full.length)),
    "instruct": _Program(CONTEXT, lambda context: _copied(context.full.length)),
    "read": _Program(CONTEXT, lambda context: _copied(context.full.length)),
    "think": _Program(INTENT, lambda out: out[1].log_prob),
    "denoise": _Program(DENOISE, lambda drawn: drawn.latent),
    "decode": _Program(DECODE, lambda picture: picture),
}


def player(plain: Player, clock: Clock) -> Player:
    """The same player, followed. What it computes is the same, by the same compiled programs."""
    followed = copy.copy(plain)
    for name, program in _PROGRAMS.items():
        setattr(followed, name, _followed(getattr(plain, name), program, clock))
    return followed


def _followed(call: Callable, program: _Program, clock: Clock) -> Callable:
    def sent(*args: Any, **more: Any) -> Any:
        started = clock.now()
        with jax.profiler.TraceAnnotation(program.phase):
            out = call(*args, **more)
        clock.follow(program.phase, started, program.awaited(out))
        return out

    return sent
