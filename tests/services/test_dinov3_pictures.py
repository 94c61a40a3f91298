import json

import dinov3_cases
import numpy as np
import pytest

from editr2_jax.services import dinov3_pictures
from editr2_jax.services.dinov3_pictures import PictureRule


@pytest.mark.golden
@pytest.mark.parametrize("name", dinov3_cases.NAMES)
def test_pixels_match_transformers_processor(name):
    case = dinov3_cases.case(name)
    pixels = dinov3_pictures.prepare(case.pictures, dinov3_pictures.read_rule(case.folder))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, case.pixels, atol=1e-5)


def test_resizing_by_hand():
    """Halving takes four neighbours, 1 3 3 1 eighths; the edge is what is inside. Doubling lies between two."""
    row = np.zeros((1, 6, 3), np.float32)
    row[0, 2] = 8
    np.testing.assert_allclose(dinov3_pictures.resize(row, 1, 3)[0, :, 0], [8 / 7, 3, 0], atol=1e-6)
    np.testing.assert_allclose(dinov3_pictures.resize(row, 1, 12)[0, :, 0], [0, 0, 0, 2, 6, 6, 2, 0, 0, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (50, 3)])
def test_a_plain_picture_stays_plain(height, width):
    rule = PictureRule(height=8, width=4, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0))
    pixels = dinov3_pictures.prepare([np.full((height, width, 3), 255, np.uint8)], rule)
    np.testing.assert_allclose(pixels, np.broadcast_to([1.0, 1.0, 0.0], (1, 8, 4, 3)), atol=1e-6)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ValueError, match="wants uint8 pictures"):
        dinov3_pictures.prepare([picture], PictureRule())


@pytest.mark.parametrize("shape", [(1, 1 << 15, 3), (1 << 15, 1, 3)])
def test_a_thin_picture_of_any_length_is_refused(shape):
    """A file of a few kilobytes, whose weights and half-resized pixels would be gigabytes."""
    with pytest.raises(ValueError, match="up to 16384 pixels a side, got .*cut it first"):
        dinov3_pictures.prepare([np.zeros(shape, np.uint8)], PictureRule())
    longest = np.full((1, 1 << 14, 3), 255, np.uint8)
    np.testing.assert_allclose(dinov3_pictures.prepare([longest], PictureRule(mean=(0, 0, 0), std=(1, 1, 1))), 1.0, atol=1e-5)


def test_weights_are_kept_while_they_are_small():
    dinov3_pictures.resize(np.zeros((31, 3000, 3), np.float32), 224, 224)
    before = dinov3_pictures._kept.cache_info()
    dinov3_pictures.resize(np.zeros((31, 3000, 3), np.float32), 224, 224)
    after = dinov3_pictures._kept.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)  # the rows', not the columns'


def test_the_grid_follows_from_the_size_alone():
    assert PictureRule().grid(16) == (14, 14) and PictureRule().at(256).grid(16) == (16, 16)
    assert PictureRule().at(None) == PictureRule()
    with pytest.raises(ValueError, match="224x250; give multiples of 16, such as 224x256"):
        PictureRule(width=250).grid(16)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps({"resample": 3}), "resample is 3; only 2"),
        (json.dumps({"do_center_crop": True}), "do_center_crop is True"),
        (json.dumps({"do_normalize": False}), "do_normalize is False"),
        (json.dumps({"size": {"shortest_edge": 224}}), "size"),
        (json.dumps({"image_std": [1, 0, 1]}), "std above 0"),
        (json.dumps({"image_mean": [1, 0]}), "three numbers"),
    ],
)
def test_another_treatment_of_pictures_is_refused_by_file(tmp_path, text, told):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ValueError, match=f"preprocessor_config.json: .*{told}"):
        dinov3_pictures.read_rule(tmp_path)


def test_a_missing_file_is_named_and_an_empty_one_means_the_released_rule(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json: no such file"):
        dinov3_pictures.read_rule(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert dinov3_pictures.read_rule(tmp_path) == PictureRule()


@pytest.mark.parity
@pytest.mark.parametrize("size", [(512, 512), (300, 777), (64, 48), (1000, 17), (1, 1)])
def test_resizing_matches_pytorch(size):
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32) / 255
    theirs = torch.nn.functional.interpolate(torch.from_numpy(picture).permute(2, 0, 1)[None], (224, 224), mode="bilinear", antialias=True)
    np.testing.assert_allclose(dinov3_pictures.resize(picture, 224, 224), theirs[0].permute(1, 2, 0).numpy(), atol=2e-6)
