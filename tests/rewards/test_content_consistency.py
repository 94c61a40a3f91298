"""CC: one for the same picture, blind to what may change, and undefined rather than made up."""

import math

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import content_consistency as cc

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
NAMES = {"unchanged_objects": ("box",), "all_objects": ("box",)}


def noise(seed=0, size=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    pixels[0, 0] = seed
    return pixels


def everywhere(found):
    """The same detections in every picture."""
    return fakes.Detector(dict.fromkeys(range(256), found))


def judge(pictures, found=None, **turn):
    detector = None if found is None else everywhere(found)
    return cc.ContentConsistency(fakes.ColourFeatures(), detector).score(fakes.episode([fakes.turn(**turn)], pictures))


def test_the_same_picture_is_one():
    verdict = judge([noise(), noise()], {"box": [(LEFT, 0.9)]}, **NAMES)
    assert abs(verdict.value - 1) < 1e-5 and set(verdict.detail) == {"object", "background", "unchanged_boxes"}


def test_a_change_inside_the_mask_is_invisible():
    changed = noise()
    changed[:, 9:] = 255 - changed[:, 9:]
    found = {"box": [(LEFT, 0.9)], "ball": [(RIGHT, 0.9)]}
    verdict = judge([noise(), changed], found, unchanged_objects=("box",), all_objects=("ball",))
    assert verdict.detail["background"] == pytest.approx(1) and verdict.detail["object"] == pytest.approx(1)
    verdict = judge([noise(), changed], found, unchanged_objects=("ball",), all_objects=("ball",))
    assert verdict.detail["object"] < 0.5


def test_a_destroyed_object_counts_even_when_the_detector_loses_it():
    destroyed = noise()
    destroyed[:, :8] = 255 - destroyed[:, :8]
    destroyed[0, 0] = 1
    detector = fakes.Detector({0: {"box": [(LEFT, 0.9)]}})
    verdict = cc.ContentConsistency(fakes.ColourFeatures(), detector).score(fakes.episode([fakes.turn(**NAMES)], [noise(), destroyed]))
    assert verdict.value < 0.6


def test_a_background_that_may_change_does_not_count():
    changed = 255 - noise()
    changed[:, :8], changed[0, 0] = noise()[:, :8], 0
    verdict = judge([noise(), changed], {"box": [(LEFT, 0.9)]}, bg_consistency=False, **NAMES)
    assert "background" not in verdict.detail and verdict.value > 0.99


def test_without_detector_the_whole_picture_is_background():
    assert judge([noise(), noise()]).value == pytest.approx(1)
    assert set(judge([noise(), noise(1)], **NAMES).detail) == {"background", "unchanged_boxes"}


def test_nothing_to_compare_is_no_score():
    assert judge([noise(), noise()], {}, bg_consistency=False).status is Status.NOT_APPLICABLE
    assert judge([noise(), noise()], bg_consistency=False, **NAMES).status is Status.NOT_APPLICABLE
    assert judge([noise(), noise()], {}, bg_consistency=False, **NAMES).status is Status.UNMEASURABLE
    everything = judge([noise(), noise()], {"ball": [((0.0, 0.0, 1.0, 1.0), 0.9)]}, all_objects=("ball",))
    assert everything.status is Status.UNMEASURABLE and math.isnan(everything.value)


def test_an_empty_unchanged_list_still_has_a_background():
    assert judge([noise(), noise()], {"ball": [(LEFT, 0.9)]}, all_objects=("ball",)).value == pytest.approx(1)


def test_unsure_boxes_do_not_count():
    assert judge([noise(), noise()], {"box": [(LEFT, 0.34)]}, bg_consistency=False, **NAMES).status is Status.UNMEASURABLE


def test_another_size_is_brought_to_the_source():
    smooth = np.full((16, 16, 3), 200, np.uint8)
    assert judge([smooth, np.full((32, 24, 3), 200, np.uint8)]).value == pytest.approx(1)


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (3, 5)])
def test_the_mask_lies_on_the_known_grid(grid):
    weights = cc.background_weights([(0.0, 0.0, 0.5, 0.5)], grid, floor=0.5)
    assert weights.shape == grid
    assert weights[0, 0] == 0 and weights[-1, 0] == 1 and weights[0, -1] == 1
    assert ((weights == 0) | (weights >= 0.5)).all()


def test_a_missing_answer_of_the_extractor_is_an_error():
    class Forgetful(fakes.ColourFeatures):
        def embed(self, pictures):
            return super().embed(pictures[:-1])

    with pytest.raises(RuntimeError, match="1 of 2 pictures"):
        cc.ContentConsistency(Forgetful()).score(fakes.episode([fakes.turn()], [noise(), noise()]))


def test_crops_have_at_least_one_pixel():
    assert cc.crop(noise(), (0.99, 0.99, 0.99, 0.99)).shape == (1, 1, 3)
    assert cc.crop(noise(), (0.0, 0.25, 0.5, 1.0)).shape == (12, 8, 3)
