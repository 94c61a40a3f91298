import jax
import numpy as np
import pytest
import tiny_world

from editr2_jax.policies import context as contexts
from editr2_jax.policies import dialogue

pytestmark = pytest.mark.slow

TURNS, SLOTS = tiny_world.TURNS, tiny_world.SLOTS


@pytest.fixture(scope="module")
def replay():
    run = tiny_world.compiled(lambda model, script: dialogue.replay(model, script, SLOTS), tiny_world.policy_model())
    return run(tiny_world.rollout().played.script)


def test_replay_sees_what_play_saw_when_it_drew(replay):
    for t in range(TURNS):
        drew = contexts.sight(tiny_world.stages()[2 * t + 1])
        tiny_world.assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], replay.drawing), drew)


def test_replay_sees_what_play_saw_when_it_wrote(replay):
    for t in range(TURNS):
        before = tiny_world.stages()[2 * t].full
        np.testing.assert_array_equal(replay.thinking_visible[t], before.valid)
        np.testing.assert_array_equal(replay.thinking_rope[t], before.rope)
        ours = replay.thinking(t, SLOTS.scratch)
        np.testing.assert_array_equal(ours.valid, before.valid)
        assert int(ours.length) == ours.capacity - SLOTS.scratch


def test_replay_holds_the_keys_and_values_of_play(replay):
    played = tiny_world.stages()[-1]
    for ours, theirs in ((replay.context.full, played.full), (replay.context.text, played.text)):
        np.testing.assert_array_equal(ours.valid, theirs.valid)
        seen = np.asarray(ours.valid)[None, :, None, :, None]
        for a, b in ((ours.k, theirs.k), (ours.v, theirs.v)):
            np.testing.assert_allclose(np.where(seen, a, 0), np.where(seen, b, 0), atol=1e-5)


def test_a_script_knows_its_turns_and_its_group():
    script = tiny_world.rollout().played.script
    assert (script.turns, script.group) == (TURNS, tiny_world.MEMBERS)
