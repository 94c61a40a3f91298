import bagel_cases as golden
import numpy as np
import pytest
from PIL import Image

from editr2_jax.models.bagel import pixels, positions
from editr2_jax.resize_rule import ResizeRule

SIZES = [
    ((37, 52), (32, 48)),
    ((60, 30), (21, 25)),  # rows first, but for the second
    ((64, 64), (70, 70)),
    ((90, 61), (56, 42)),
    ((50, 40), (50, 80)),
    ((13, 200), (111, 31)),
    ((7, 5), (64, 64)),
    ((48, 64), (42, 70)),
    ((48, 64), (20, 50)),
    ((48, 64), (20, 51)),
]


@pytest.mark.parametrize(("size", "new"), [*SIZES[:2], *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in SIZES[2:])])
def test_resize_equals_pillow(size, new):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture[: size[0] // 2] = np.where(picture[: size[0] // 2] > 127, 255, 0)  # extremes, so that clipping matters
    expected = np.asarray(Image.fromarray(picture).resize(new[::-1], Image.BICUBIC))
    np.testing.assert_array_equal(pixels.resize(picture[None], height=new[0], width=new[1])[0], expected)


def test_resize_to_the_same_size_changes_nothing():
    picture = np.random.default_rng(1).integers(0, 256, (2, 9, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels.resize(picture, height=9, width=8), picture)


def test_resize_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        pixels.resize(np.zeros((1, 4, 4, 3), np.float32), height=8, width=8)


@pytest.mark.parametrize(("index", "setting"), [(0, (48, 32, 16)), (1, (56, 28, 14))])
def test_a_picture_is_transformed_as_recorded(index, setting):
    picture = golden.get(f"j.image_{index}")
    rule = ResizeRule(max_size=setting[0], min_size=setting[1], stride=setting[2])
    width, height = rule.shape(picture.shape[1], picture.shape[0])
    resized = pixels.resize(picture[None], height=height, width=width)[0]
    golden.check(resized, f"j.resized_u8_{index}")
    golden.check(np.moveaxis(np.asarray(pixels.normalise(resized)), -1, 0), f"j.pixels_{index}")


def test_every_uint8_value_survives_the_float_picture():
    golden.check(pixels.unit_to_uint8(pixels.to_unit(np.arange(256, dtype=np.uint8))), "j.u8_roundtrip")


def test_a_drawn_picture_is_clipped_and_truncated():
    np.testing.assert_array_equal(pixels.to_uint8(np.array([-1.5, -1.0, 0.0, 0.999, 1.0, 2.0])), [0, 0, 127, 254, 255, 255])


def test_patchify_matches_and_unpatchify_undoes_it():
    picture = golden.image_last(golden.get("k.patchify_in"))
    tokens = pixels.patchify(picture, 2)
    golden.check(tokens, "k.patchify_out")
    np.testing.assert_array_equal(pixels.unpatchify(tokens, rows=2, columns=3, patch=2), picture)
    with pytest.raises(ValueError, match="cut into patches"):
        pixels.patchify(picture, 5)


def test_position_ids_and_tables_match():
    for index, (height, width) in enumerate([(48, 64), (64, 48), (128, 128)]):
        golden.check(positions.flattened_ids(height // 16, width // 16, 8), f"k.extrapolate_{index}")
    golden.check(positions.sincos_table(64, 8), "k.latent_pos_embed")
    with pytest.raises(ValueError, match="does not fit"):
        positions.flattened_ids(9, 2, 8)


def test_timestep_features_match():
    golden.check(positions.timestep_features(golden.get("k.timesteps")), "k.timestep_sinusoid")
