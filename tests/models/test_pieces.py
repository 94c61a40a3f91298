import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.models.bagel import bagel
from editr2_jax.models.pieces import in_pieces


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_pieces_of_any_size_make_the_same_whole(at_once):
    rows = {"x": jnp.arange(10.0).reshape(5, 2), "y": jnp.arange(5.0)}
    made = in_pieces(lambda some: some["x"] * 2 + some["y"][:, None], rows, at_once=at_once)
    np.testing.assert_array_equal(made, rows["x"] * 2 + rows["y"][:, None])


def test_pictures_do_not_depend_on_how_many_are_decoded_at_once(monkeypatch):
    model, latents = tiny_world.world_model(), np.random.default_rng(0).normal(size=(3, 6, 64)).astype(np.float32)
    decoded = []
    for pixels in (1 << 14, 0):
        monkeypatch.setattr(bagel, "_PIXELS_AT_ONCE", pixels)
        decoded.append(tiny_world.compiled(lambda model, x: model.decode(x, 32, 48), model)(latents))
    np.testing.assert_allclose(*decoded, atol=1e-4)
