"""Useful FLOPs of a step follow what was played."""

import types

import numpy as np
import pytest

from editr2_jax.models.bagel import config as configs
from editr2_jax.policies import flops
from editr2_jax.rollouts.player import RolloutConfig
from editr2_jax.training import useful_flops
from editr2_jax.training.useful_flops import Work

ROWS, GROUPS, TURNS, WINDOW = 6, 2, 3, 2


def rollout(intent: int = 7):
    """What is counted of a rollout: shapes, and numbers of tokens."""
    tokens = lambda first, later: np.repeat([[first, later, later]], ROWS, axis=0)  # noqa: E731
    script = types.SimpleNamespace(
        source=np.zeros((GROUPS, 1)),
        instruction_count=tokens(10, 10),
        question=((None, tokens(0, 20)), (None, tokens(0, 30))),
    )
    played = types.SimpleNamespace(script=script, intent_count=tokens(0, intent), step=np.zeros((ROWS, TURNS, WINDOW)))
    return types.SimpleNamespace(samples=[None] * ROWS, played=played, pictures=np.zeros((ROWS, TURNS, 128, 128, 3), np.uint8))


def work(**changes) -> Work:
    return Work(**{"model": configs.mid(), "play": RolloutConfig(), "rank": 4, "reference": True} | changes)


def counted(*rollouts, asks_again: bool = False, **changes) -> dict[str, float]:
    return useful_flops.of_step(work(**changes), rollouts, asks_again=asks_again)


def test_the_mean_session_is_what_was_played():
    d = useful_flops.dialogue(work(), rollout())
    assert (d.turns, d.instruction, d.system, d.question, d.intent, d.window) == (TURNS, 10, 20, 30, 7, WINDOW)
    assert (d.steps, d.branches, d.rank) == (14, 3, 4)


def test_phases_of_play_are_whole_sessions_with_shared_sources():
    found, d = counted(rollout()), useful_flops.dialogue(work(), rollout())
    assert found["rollout"] == sum(value for name, value in found.items() if name.startswith("rollout/"))
    assert found["rollout"] == pytest.approx(ROWS * flops.session(d) - (ROWS - GROUPS) * flops.picture(d, 0))


def test_batches_add_up():
    once, twice = (counted(*[rollout()] * count, asks_again=True) for count in (1, 2))
    assert twice == pytest.approx({name: 2 * value for name, value in once.items()})
    assert once.keys() == {"rollout", "rollout/context", "rollout/denoise", "rollout/decode", "rollout/intent", "recall", "update"}


def test_what_does_not_run_is_not_counted():
    assert "update" not in counted(rollout(), rank=0)
    assert "rollout/intent" not in counted(rollout(intent=0))
    assert "recall" not in counted(rollout())
    with_it, without = (counted(rollout(), reference=flag)["update"] for flag in (True, False))
    d = useful_flops.dialogue(work(), rollout())
    assert with_it - without == pytest.approx(ROWS * WINDOW * sum(flops.denoise(d, turn) for turn in range(TURNS)))
