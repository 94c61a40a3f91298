"""Pictures: the same bytes each time, objects apart, untouched objects untouched."""

import dataclasses
import itertools

import numpy as np
import pytest

from editr2_jax.tabletop import render, scene


def pixels_of(picture, item, grid):
    """Crops of all copies, one pixel wider than their boxes."""
    height, width = picture.shape[:2]
    return [
        picture[int(y1 * height) - 1 : int(y2 * height) + 2, int(x1 * width) - 1 : int(x2 * width) + 2]
        for x1, y1, x2, y2 in render.boxes(item, grid, (height, width))
    ]


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (97, 61), (256, 256)])
def test_any_size_is_drawn_and_always_the_same(size):
    drawn = scene.sample(np.random.default_rng(3), grid=scene.grid_for(size))
    first = render.render(drawn, size)
    assert first.shape == (*size, 3) and first.dtype == np.uint8
    render.copy_patch.cache_clear()
    render.background.cache_clear()
    np.testing.assert_array_equal(first, render.render(drawn, size))


def test_the_middle_of_an_object_has_its_colour_and_the_table_its_own():
    for colour, background in itertools.product(scene.COLOURS, scene.BACKGROUNDS):
        ball = scene.Item(kind="ball", name="ball", places=(scene.Place(1, 1),), colour=colour)
        picture = render.render(scene.Scene(background=background, items=(ball,))).astype(int)
        np.testing.assert_allclose(picture[30:34, 30:34].mean((0, 1)), render.COLOUR_RGB[colour], atol=1)
        table = np.median(picture[:18].reshape(-1, 3), axis=0)
        np.testing.assert_allclose(table, render.BACKGROUND_RGB[background], atol=12)


def test_a_box_holds_its_object_and_boxes_stay_two_pixels_apart():
    rng = np.random.default_rng(0)
    for kind in (*scene.OBJECT_KINDS, scene.SIGN):
        glyph = "K" if kind == scene.SIGN else ""
        cells = [(row, column) for row in range(3) for column in range(3)]
        places = tuple(scene.jittered(cell, rng, plate=bool(glyph)) for cell in cells)
        item = scene.Item(kind=kind, name=kind, places=places, colour="red", glyph=glyph, scale=scene.SCALES[1])
        full = scene.Scene(background="sky", items=(item,))
        empty = dataclasses.replace(full, items=())
        changed = (render.render(full) != render.render(empty)).any(-1)
        allowed = np.zeros((64, 64), bool)
        boxes = [np.array(box) * 64 for box in render.boxes(item, full.grid)]
        for x1, y1, x2, y2 in boxes:
            allowed[int(y1 - 0.5) : int(np.ceil(y2 + 0.5)), int(x1 - 0.5) : int(np.ceil(x2 + 0.5))] = True
        assert not (changed & ~allowed).any(), kind
        for a, b in itertools.combinations(boxes, 2):
            gap = max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])
            assert gap >= 2.0, (kind, gap)


def test_what_is_not_touched_is_pixel_identical():
    for seed in range(50):
        drawn = scene.sample(np.random.default_rng(seed))
        before = render.render(drawn)
        for gone in drawn.items:
            after = render.render(dataclasses.replace(drawn, items=tuple(item for item in drawn.items if item is not gone)))
            for item in drawn.items:
                if item is not gone:
                    for a, b in zip(pixels_of(before, item, drawn.grid), pixels_of(after, item, drawn.grid), strict=True):
                        np.testing.assert_array_equal(a, b)


def test_materials_glyphs_and_kinds_look_different():
    place = (scene.Place(0, 0),)
    looks = [
        scene.Item(kind=kind, name="x", places=place, colour="blue", material=material)
        for kind in scene.OBJECT_KINDS
        for material in scene.MATERIALS
    ]
    looks += [scene.Item(kind=kind, name="x", places=place, glyph=glyph) for kind in (scene.SIGN, scene.TEXT) for glyph in scene.GLYPHS]
    pictures = [render.render(scene.Scene(background="snow", items=(item,), grid=(1, 1)), (24, 24)).astype(float) for item in looks]
    for a, b in itertools.combinations(pictures, 2):
        assert np.abs(a - b).max() > 60 and np.abs(a - b).mean() > 1.5
    for a, b in itertools.combinations(scene.GLYPHS, 2):
        assert np.abs(render.glyph_bitmap(a) - render.glyph_bitmap(b)).sum() >= 6


def test_backgrounds_are_cached_and_cannot_be_spoiled():
    bare = render.background("sand", (64, 64), phase=0, unit=21.3)
    with pytest.raises(ValueError, match="read-only"):
        bare[0] = 0
