import functools

import jax
import numpy as np
import pytest
import tiny_world

from editr2_jax.rollouts import collect
from editr2_jax.rollouts.probe import Probe

pytestmark = pytest.mark.slow  # compiles a dialogue that is read again, and every question
SIZE = (tiny_world.HEIGHT, tiny_world.WIDTH)
SEED = 3


@functools.cache
def probe() -> Probe:
    return tiny_world.quickly(Probe, tiny_world.net(), tiny_world.POLICY)


@functools.cache
def quiet() -> collect.Rollout:
    """The two sessions, played without noise."""
    return tiny_world.play(by=tiny_world.still_player(), seed=SEED)


@functools.cache
def replay():
    return probe().read(tiny_world.moved(), quiet().played)


def _shares(looks: np.ndarray) -> dict[tuple[str, int | None], float]:
    """The largest share that any token gives to all of a piece of the dialogue."""
    layout = tiny_world.SLOTS.layout(tiny_world.world_model().config, turns=tiny_world.TURNS, height=SIZE[0], width=SIZE[1])
    return {(piece.kind, piece.turn): float(looks[..., piece.start : piece.stop].sum(axis=-1).max(initial=0)) for piece in layout}


def test_words_look_at_the_dialogue_before_their_turn_at_the_question_and_back():
    looks = np.asarray(probe().writing(tiny_world.moved(), quiet().played, replay(), 1))
    tokens = tiny_world.SLOTS.intent
    assert looks.shape[:4] == (2, 4, 4, tokens)  # layers, rows, heads
    np.testing.assert_allclose(looks.sum(axis=-1), 1.0, atol=1e-5)
    shares = _shares(looks[..., :-tokens])
    assert shares.pop(("instruction", 1)) == 0 and min(shares.values()) > 0, "the instruction of its own turn is in the question alone"
    written = np.asarray(quiet().played.intent_count)[:, 1]
    for row, count in enumerate(written):
        own = looks[:, row, :, :count, -tokens:]
        assert np.all(own[..., np.triu(np.ones((count, tokens), bool), 1)] == 0) and np.all(np.diagonal(own, axis1=2, axis2=3) > 0)
    slots = tiny_world.SLOTS.layout(tiny_world.world_model().config, turns=2, height=SIZE[0], width=SIZE[1])
    first = next(piece for piece in slots if piece.kind == "instruction")
    for row, count in enumerate(np.asarray(quiet().played.script.instruction_count)[:, 0]):
        assert np.all(looks[:, row, :, :, first.start + count : first.stop] == 0), "nothing looks at padding"


@pytest.mark.parametrize("turn", [0, 1])
def test_latents_look_at_the_dialogue_so_far_and_at_each_other(turn):
    played = quiet().played
    looks = np.asarray(probe().drawing(tiny_world.moved(), played, replay(), turn, played.clean[:, turn], np.full(4, 0.5, np.float32)))
    latents = played.clean.shape[2]
    assert looks.shape[:4] == (2, 4, 4, latents)
    np.testing.assert_allclose(looks.sum(axis=-1), 1.0, atol=1e-5)
    assert np.all(looks[..., -latents - 2 :] > 0)
    for (kind, of), share in _shares(looks[..., : -latents - 2]).items():
        assert (share > 0) == (of is not None and of <= turn), (kind, of)


@pytest.mark.parametrize("turn", [0, 1])
def test_the_way_from_the_noise_of_play_ends_at_the_picture_of_play(turn):
    keys = collect.noise_keys(tiny_world.still_player(), tiny_world.samples(), key=jax.random.key(SEED))(turn)
    walk = probe().walk(tiny_world.moved(), quiet().played, replay(), turn, keys)
    steps = tiny_world.POLICY.flow.steps
    assert walk.x.shape == walk.v.shape == (steps, *quiet().played.clean[:, turn].shape)
    np.testing.assert_allclose(walk.latent, quiet().played.clean[:, turn], atol=1e-4)
    pictures = np.asarray(probe().decode(tiny_world.moved(), walk.latent, size=SIZE), np.int16)
    assert np.abs(pictures - quiet().pictures[:, turn]).max() <= 1
