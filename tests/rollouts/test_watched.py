"""A followed player plays the same, and every kind of program has its seconds."""

import pytest
import tiny_world

from editr2_jax.rollouts import watched
from editr2_jax.runtime.clock import Clock


@pytest.mark.slow
def test_a_followed_player_plays_the_same():
    clock = Clock()
    followed = tiny_world.play(by=watched.player(tiny_world.player(), clock))
    tiny_world.assert_close(followed.played, tiny_world.rollout().played, atol=0, rtol=0)
    told = clock.metrics()
    assert told.keys() == {f"time/{phase}_s" for phase in (watched.CONTEXT, watched.INTENT, watched.DENOISE, watched.DECODE)}
    assert min(told.values()) > 0
