import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.models.bagel.bagel import empty_cache
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.policies import context as contexts
from editr2_jax.policies.context import Slots

pytestmark = pytest.mark.slow

GRID = (2, 3)  # latent tokens of the tiny pictures
ROWS = len(tiny_world.GROUPS) * tiny_world.MEMBERS
NOISE = np.random.default_rng(0).standard_normal((ROWS, 6, 64)).astype(np.float32)


def _branches(model, context):
    """Velocities of the three guidance branches."""
    seen = contexts.sight(context)
    x, t = jnp.repeat(NOISE[:, None], 3, axis=1), jnp.full((ROWS, 3), 0.6)
    return model.velocity(x, t, grid=GRID, start=seen.start, views=contexts.views(context, seen))


@pytest.fixture(scope="module")
def velocities():
    """[B, 3, L, C] at every stage of the dialogue: picture, instruction, picture, instruction."""
    run = tiny_world.compiled(_branches, tiny_world.policy_model())
    return [np.asarray(run(stage)) for stage in tiny_world.stages()]


@pytest.mark.parametrize("turn", [0, 1])
def test_the_branch_without_the_instruction_never_got_it(velocities, turn):
    """Same model, same picture, before the instruction was read and after it, with its slots hidden."""
    before, after = velocities[2 * turn], velocities[2 * turn + 1]
    np.testing.assert_allclose(after[:, 1], before[:, 0], atol=1e-5)
    assert not np.allclose(after[:, 0], before[:, 0], atol=1e-3)  # with it the picture is another


def test_right_after_a_picture_there_is_nothing_to_hide(velocities):
    np.testing.assert_allclose(velocities[2][:, 1], velocities[2][:, 0], atol=1e-6)


def test_the_branch_without_pictures_read_the_instructions_alone(velocities):
    script = tiny_world.rollout().played.script

    def alone(model, script):
        """Instructions one after the other into one cache, a velocity after each."""
        cache, drawn = empty_cache(model.config, rows=ROWS, capacity=20), []
        for t in range(tiny_world.TURNS):
            cache = model.append_text(cache, script.instruction[:, t], script.instruction_count[:, t])
            view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
            drawn.append(model.velocity(NOISE[:, None], jnp.full((ROWS, 1), 0.6), grid=GRID, start=cache.rope[:, None], views=(view,)))
        return drawn

    for drawn, stage in zip(tiny_world.compiled(alone, tiny_world.policy_model())(script), (1, 3), strict=True):
        np.testing.assert_allclose(velocities[stage][:, 2], drawn[:, 0], atol=1e-5)


def test_rotary_positions_of_the_branches():
    """A picture takes two positions, a text one per token; without pictures they are counted from 0."""
    words = np.asarray(tiny_world.rollout().played.script.instruction_count)
    first, second = words[:, 0], words[:, 1]
    zero, two = np.zeros(ROWS), np.full(ROWS, 2)
    expected = [
        [two, two, zero],
        [2 + first, two, first],
        [4 + first, 4 + first, first],
        [4 + first + second, 4 + first, first + second],
    ]
    for stage, start in zip(tiny_world.stages(), expected, strict=True):
        np.testing.assert_array_equal(contexts.sight(stage).start, np.stack(start, axis=1))


def test_the_dialogue_ends_where_the_scratch_slots_begin():
    model = tiny_world.world_model().config
    full, text = tiny_world.SLOTS.capacity(model, turns=tiny_world.TURNS, height=tiny_world.HEIGHT, width=tiny_world.WIDTH)
    opened, *_, last = tiny_world.stages()
    assert int(opened.full.length) == contexts.picture_slots(model, tiny_world.HEIGHT, tiny_world.WIDTH)
    assert (last.full.capacity, last.text.capacity) == (full, text)
    assert (int(last.full.length), int(last.text.length)) == (full - tiny_world.SLOTS.scratch, text)


def test_the_layout_says_what_stands_in_which_slot():
    model, slots = tiny_world.world_model().config, tiny_world.SLOTS
    pieces = slots.layout(model, turns=tiny_world.TURNS, height=tiny_world.HEIGHT, width=tiny_world.WIDTH)
    assert [piece.kind for piece in pieces] == ["latents", "seen", "instruction"] * tiny_world.TURNS + ["system", "question"]
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    capacity, _ = slots.capacity(model, turns=tiny_world.TURNS, height=tiny_world.HEIGHT, width=tiny_world.WIDTH)
    assert pieces[-1].stop == capacity - slots.intent - 1 and pieces[-2].start == capacity - slots.scratch
    counts = np.asarray(tiny_world.rollout().played.script.instruction_count)
    valid = np.asarray(tiny_world.stages()[-1].full.valid)
    for piece in pieces[:-2]:
        real = valid[:, piece.start : piece.stop].sum(axis=1)
        np.testing.assert_array_equal(real, counts[:, piece.turn] if piece.kind == "instruction" else piece.stop - piece.start)


def test_scratch_slots_hold_nothing_to_see():
    stage = tiny_world.stages()[-1]
    seen, scratch = contexts.sight(stage), tiny_world.SLOTS.scratch
    assert not np.asarray(seen.full)[:, -scratch:].any()
    full, text = contexts.views(stage, seen, scratch=scratch)
    keys, values, visible = full.of_layer(full.k[0], full.v[0])
    assert keys.shape[2] == values.shape[2] == visible.shape[2] == stage.full.capacity - scratch
    assert text.visible.shape[1] == 1 and len(contexts.views(stage, seen, branches=2)) == 1
    assert contexts.views(stage, seen, branches=1)[0].visible.shape[1] == 1


def test_repeat_keeps_the_members_of_a_group_together():
    opened = tiny_world.stages()[0]
    twice = contexts.repeat(opened, 2)
    assert twice.rows == 2 * ROWS
    for ours, theirs in ((twice.full, opened.full), (twice.text, opened.text)):
        np.testing.assert_array_equal(ours.k, np.repeat(theirs.k, 2, axis=1))
        np.testing.assert_array_equal(ours.valid, np.repeat(theirs.valid, 2, axis=0))
    tiny_world.assert_close(contexts.sight(twice), jax.tree.map(lambda x: np.repeat(x, 2, axis=0), contexts.sight(opened)))


def test_tokens_are_padded_and_what_has_no_room_is_refused_by_name():
    ids, count = contexts.pad_tokens([[1, 2, 3], [], [4]], 3, what="it")
    np.testing.assert_array_equal(ids, [[1, 2, 3], [0, 0, 0], [4, 0, 0]])
    np.testing.assert_array_equal(count, [3, 0, 1])
    with pytest.raises(ValueError, match="the question before turn 2 takes 3 tokens but has 2 slots; raise rollout.slots"):
        contexts.pad_tokens([[1], [1, 2, 3]], 2, what="the question before turn 2")


def test_turn_0_has_the_most_slots():
    slots = Slots(instruction=9, later=4)
    assert [slots.of_turn(t) for t in range(3)] == [9, 4, 4]
    with pytest.raises(ValueError, match="later turns have 9 slots, turn 0 only 4"):
        Slots(instruction=4, later=9)
