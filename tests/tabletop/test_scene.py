"""Scenes: names, cells, sampling."""

import numpy as np
import pytest

from editr2_jax.tabletop import scene


def test_cells_are_nearly_square_with_three_on_the_short_side():
    assert scene.grid_for((64, 64)) == (3, 3) and scene.grid_for((64, 128)) == (3, 6) and scene.grid_for((160, 120)) == (4, 3)
    with pytest.raises(ValueError, match="24 pixels"):
        scene.grid_for((16, 64))


@pytest.mark.parametrize("grid", [(3, 3), (3, 5)])
def test_a_sampled_scene_keeps_its_promises(grid):
    for seed in range(200):
        drawn = scene.sample(np.random.default_rng(seed), grid=grid)
        cells = [place.cell for item in drawn.items for place in item.places]
        assert 2 <= len(drawn.items) <= 4 and len(set(cells)) == len(cells)
        assert all(row < grid[0] and column < grid[1] for row, column in cells)
        assert len({item.kind for item in drawn.items}) == len(drawn.items) == len(set(scene.names(drawn)))
        assert len(scene.free_cells(drawn)) == grid[0] * grid[1] - len(cells) >= 3
        for item in drawn.items:
            assert item.name.split()[-1] == item.kind
            assert item.is_plate or item.colour in item.name and (item.material in item.name or item.material == scene.PLAIN_MATERIAL)


def test_a_caption_tells_how_every_cell_looks():
    place = scene.Place
    box = scene.Item(kind="box", name="box", places=(place(0, 1), place(2, 2)), colour="teal", material="wooden")
    sign = scene.Item(kind=scene.SIGN, name="sign", places=(place(1, 0),), glyph="K")
    told = scene.caption(scene.Scene(background="sand", items=(box, sign)))
    assert told == "sand: -, wooden teal box, - / sign K, -, - / -, -, wooden teal box"


def test_a_sign_can_be_asked_for():
    for seed in range(30):
        for wanted in (True, False):
            drawn = scene.sample(np.random.default_rng(seed), with_sign=wanted)
            assert (scene.SIGN in scene.names(drawn)) == wanted


def test_an_unknown_name_is_told_with_the_known_ones():
    drawn = scene.sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match=drawn.items[0].name):
        scene.find(drawn, "dog")
