import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from editr2_jax.data import images
from editr2_jax.data.images import Buckets

FORMATS = [{"format": name} for name in ("PNG", "JPEG", "WEBP", "BMP")]
sides = st.integers(8, 300)


@given(sides, sides, st.sampled_from([(64, 64), (64, 96), (96, 64), (48, 128)]))
def test_fit_gives_the_bucket_and_never_stretches(height, width, shape):
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack([rows * 255 / (height - 1), columns * 255 / (width - 1), rows * 0], axis=-1).astype(np.uint8)
    out = images.fit(ramp, shape).astype(float)
    assert out.shape == (*shape, 3)
    scale = max(shape[0] / height, shape[1] / width)
    middle = shape[0] // 2, shape[1] // 2
    assert abs(out[middle[0], :, 1].mean() - 127) < 10 and abs(out[:, middle[1], 0].mean() - 127) < 10  # the centre stays the centre
    kept = shape[0] / scale / height, shape[1] / scale / width  # shares of the source that are seen: all of one side
    assert max(kept) == pytest.approx(1)
    span = [np.ptp(out[:, middle[1], 0]) / 255, np.ptp(out[middle[0], :, 1]) / 255]
    np.testing.assert_allclose(span, kept, atol=0.15)


def test_fit_leaves_a_picture_of_the_size_alone():
    picture = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    assert images.fit(picture, (16, 32)) is picture


def test_fit_is_pillows_resize_where_the_shapes_agree():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((30, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(images.fit(picture, (20, 30)), expected)


def test_the_nearest_bucket():
    listed = Buckets(stride=16, shapes=((64, 64), (48, 96), (96, 48), (128, 128)))
    assert listed.choose(100, 100) == (128, 128) and listed.choose(70, 70) == (64, 64)
    assert listed.choose(191, 384) == (48, 96) and listed.choose(512, 320) == (96, 48)
    assert Buckets(max_size=64, min_size=32, stride=16).choose(427, 640) == (48, 64)
    for height, width in ((64, 64), (48, 96)):
        assert listed.choose(height, width) == (height, width)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": ((60, 64),)}, "multiples of the stride 16"),
        ({"min_size": 70, "max_size": 64}, "min_size <= max_size"),
        ({"stride": 0}, "stride"),
    ],
)
def test_bad_buckets(settings, message):
    with pytest.raises(ValueError, match=message):
        Buckets(**settings)


def save(path, mode, array, **options):
    Image.fromarray(array).convert(mode).save(path, **options)
    return path


def test_pictures_of_every_mode_become_rgb(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    colour = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.read_picture(save(tmp_path / "l.png", "L", grey)), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(images.read_picture(save(tmp_path / "rgb.png", "RGB", colour)), colour)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "i16.png")
    np.testing.assert_array_equal(images.read_picture(tmp_path / "i16.png"), np.stack([grey] * 3, -1))
    assert images.read_picture(save(tmp_path / "p.png", "P", colour)).shape == (2, 3, 3)
    assert images.read_picture(save(tmp_path / "cmyk.jpg", "CMYK", colour)).dtype == np.uint8


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 128]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_picture(tmp_path / "a.png")[0, :, 0], [255, 0, 127])


def test_a_photograph_held_sideways_stands_upright(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to view
    Image.fromarray(picture).save(tmp_path / "s.png", exif=exif)
    np.testing.assert_array_equal(images.read_picture(tmp_path / "s.png"), np.rot90(picture, -1))
    assert images.picture_size(tmp_path / "s.png") == (6, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_orientation_stands_as_pillow_turns_it(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "p", format=kind, exif=exif)
    with Image.open(tmp_path / "p") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(images.read_picture(tmp_path / "p"), expected)
    assert images.picture_size(tmp_path / "p") == expected.shape[:2]


def test_an_odd_exif_entry_does_not_spoil_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    odd = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x01\x00\x02")  # the height, as a text: Pillow reads but cannot write it
    assert odd != exif.tobytes()
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "odd.png", exif=odd)
    with pytest.raises(struct.error), Image.open(tmp_path / "odd.png") as opened:
        ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(images.read_picture(tmp_path / "odd.png"), np.rot90(picture, -1))
    images.verify_picture(tmp_path / "odd.png")


@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_a_picture_or_a_complaint(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "p.png"
    save(path, "RGB", np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8), **data.draw(st.sampled_from(FORMATS)))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for function in (images.verify_picture, images.picture_size):
        try:
            function(path)
        except ValueError as error:
            assert str(path) in str(error)


def test_pictures_that_are_none(tmp_path):
    good = save(tmp_path / "good.png", "RGB", np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = good.read_bytes()
    cases = {
        "text.png": (b"hello", "is no picture; give a PNG"),
        "empty.png": (b"", r"is no picture \(the file is empty\)"),
        "half.png": (data[: len(data) // 2], "is damaged or incomplete"),
        "header.png": (data[:20], "is no picture|is damaged or incomplete"),
        "flipped.png": (data[:300] + bytes([data[300] ^ 255]) + data[301:], "is damaged or incomplete"),
        "gif.png": (b"GIF89a" + b"\0" * 30, "is no picture"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        for function in (images.read_picture, images.verify_picture):
            with pytest.raises(ValueError, match=f"{name} {message}"):
                function(tmp_path / name)
    with pytest.raises(ValueError, match=r"none\.png is missing; put the picture there"):
        images.read_picture(tmp_path / "none.png")
    with pytest.raises(ValueError, match="is damaged or incomplete|is no picture"):
        images.read_picture(tmp_path)
    with pytest.raises(ValueError, match=r"good\.png has 40x40 pixels, the limit is 1599"):
        images.read_picture(good, max_pixels=1599)
    assert images.read_picture(good, max_pixels=1600).shape == (40, 40, 3)
