"""CC in three arithmetics: registers and grids right in ours and as wrong as published in theirs, and what is not defined."""

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import content_consistency as cc
from editr2_jax.rewards import suite
from editr2_jax.rewards.base import ServiceError, TokenExtractor, Tokens
from editr2_jax.rewards.compat import consistency as compat

REGISTERS = 4
LEFT, RIGHT, WHOLE = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)
POINT = (0.1, 0.1, 0.1001, 0.1001)
NAMES = {"unchanged_objects": ("box",), "all_objects": ("box",)}


class ColourTokens:
    """A class token, registers that tell the picture's mean, and the mean colour of every patch, all minus grey."""

    def __init__(self, side, patch=16):
        self.side, self.patch = side, patch

    def tokens(self, pictures):
        made = []
        for pixels in pictures:
            small = cc.at_size(pixels, (self.side, self.side)).astype(np.float32) / 255 - 0.5
            count = self.side // self.patch
            patches = small.reshape(count, self.patch, count, self.patch, 3).mean(axis=(1, 3)).reshape(-1, 3)
            mean = patches.mean(axis=0)
            made.append(np.stack([mean, *[np.roll(mean, turn) * (1 + turn) for turn in range(REGISTERS)], *patches]))
        grid = (self.side // self.patch,) * 2
        return Tokens(tokens=np.stack(made), registers=REGISTERS, grid=grid, size=(self.side, self.side))

    def embed(self, pictures):
        return self.tokens(pictures).features()


def noise(seed=0):
    """Blocks of colour, large enough to survive every size; the first tells the picture's number."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    blocks[0, 0] = 10 * (1 + seed)
    return np.kron(blocks, np.ones((32, 32, 1), np.uint8))


def everywhere(found):
    return fakes.Detector(dict.fromkeys(range(256), found))


REWARDS = {
    "fixed": lambda side, detector: cc.ContentConsistency(ColourTokens(side), detector),
    "edit_r2": lambda side, detector: compat.EditR2Consistency(ColourTokens(side), detector),
    "edival": lambda side, detector: compat.EdivalConsistency(ColourTokens(side), detector),
}


def judge(name, pictures, found, side=256, **turn):
    return suite.verdict_of(REWARDS[name](side, everywhere(found)), fakes.episode([fakes.turn(**turn)], pictures))


def test_the_fake_is_a_token_extractor():
    assert isinstance(ColourTokens(256), TokenExtractor) and not isinstance(fakes.ColourFeatures(), TokenExtractor)


@pytest.mark.parametrize("side", [224, 256])
def test_features_are_the_tokens_without_registers_on_the_known_grid(side):
    tokens = ColourTokens(side).tokens([noise(), noise(1)])
    features = tokens.features()
    count = side // 16
    assert tokens.tokens.shape[1] == 1 + REGISTERS + count**2 and features.patches.shape == (2, count, count, 3)
    np.testing.assert_array_equal(features.cls, tokens.tokens[:, 0])
    np.testing.assert_array_equal(features.patches[1, 0, 1], tokens.tokens[1, 1 + REGISTERS + 1])
    np.testing.assert_array_equal(features.patches[0, -1, -1], tokens.tokens[0, -1])
    with pytest.raises(ServiceError, match=f"{count} x {count} patches"):
        Tokens(tokens=tokens.tokens[:, 1:], registers=REGISTERS, grid=tokens.grid, size=tokens.size).features()


@pytest.mark.parametrize(("side", "grid"), [(256, (13, 20)), (224, (10, 20))])
def test_the_published_grids_are_guessed_as_wrong_as_they_were(side, grid):
    patches = (side // 16) ** 2
    assert compat.guessed_grid(REGISTERS + patches, (side, side)) == grid
    assert compat.guessed_grid(patches, (side, side)) == (side // 16, side // 16), "without registers the guess is right"


@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("name", REWARDS)
def test_the_same_picture_is_one(name, side):
    verdict = judge(name, [noise(), noise()], {"box": [(LEFT, 0.9)]}, side, **NAMES)
    assert verdict.detail["object"] == pytest.approx(1, abs=1e-5) and verdict.detail["background"] == pytest.approx(1, abs=1e-5)
    assert abs(verdict.value - 1) < 1e-5


def recoloured(box):
    """The picture with other colours inside a box."""
    pixels = noise()
    inside = np.s_[int(box[1] * 512) : int(box[3] * 512), int(box[0] * 512) : int(box[2] * 512)]
    pixels[inside] = 255 - pixels[inside]
    return pixels


@pytest.mark.parametrize("side", [224, 256])
def test_a_masked_change_is_invisible_to_us_and_not_to_them(side):
    """Their mask lies on other patches, and registers, which know the whole picture, count as background."""
    box = (0.5, 0.5, 1.0, 1.0)
    pictures, found, names = [noise(), recoloured(box)], {"box": [(box, 0.9)]}, {"all_objects": ("box",), "unchanged_objects": ("cat",)}
    assert judge("fixed", pictures, found, side, **names).value == pytest.approx(1, abs=1e-5)
    for name in ("edit_r2", "edival"):
        assert judge(name, pictures, found, side, **names).detail["background"] < 0.995


@pytest.mark.parametrize("side", [224, 256])
def test_a_change_outside_the_mask_is_seen_by_all(side):
    found, names = {"box": [(RIGHT, 0.9)]}, {"all_objects": ("box",), "unchanged_objects": ("cat",)}
    for name in REWARDS:
        assert judge(name, [noise(), recoloured(LEFT)], found, side, **names).detail["background"] < 0.9


def test_a_change_of_registers_alone_is_seen_by_them_alone():
    class Drifts(ColourTokens):
        def tokens(self, pictures):
            tokens = super().tokens(pictures)
            tokens.tokens[1::2, 1 : 1 + REGISTERS] += 3.0
            return tokens

    episode, detector = fakes.episode([fakes.turn(**NAMES)], [noise(), noise()]), everywhere({"box": [(RIGHT, 0.9)]})
    assert cc.ContentConsistency(Drifts(256), detector).score(episode).value == pytest.approx(1, abs=1e-5)
    for reward in (compat.EditR2Consistency, compat.EdivalConsistency):
        detail = reward(Drifts(256), detector).score(episode).detail
        assert detail["object"] < 0.99 and detail["background"] < 0.99


def test_weights_of_a_grid_that_does_not_divide_the_picture():
    free = compat.free_pixels([LEFT], (256, 256))
    weights = compat.patch_weights(free, (256, 256), (13, 20))
    assert weights.shape == (13, 20)
    np.testing.assert_array_equal(weights[:, :10], 0)  # columns of 12.8 pixels: the tenth ends at 128, and so does the box
    np.testing.assert_allclose(weights[:, 10:], [[12 / 13] + [1] * 9] * 13)  # the box ends with pixel 128, the eleventh starts with it
    assert compat.patch_weights(~free, (256, 256), (13, 20))[:, :10].min() > 0.9


def test_edges_of_a_box_belong_to_it():
    free = compat.free_pixels([(0.25, 0.5, 0.5, 0.75)], (8, 8))
    assert (~free).sum() == 9 and not free[4:7, 2:5].any()
    assert compat.free_pixels([], (8, 8)).all() and not compat.free_pixels([WHOLE], (8, 8)).any()


BOTH, NONE = {"box": [(LEFT, 0.9)], "cat": [(LEFT, 0.9)]}, {}
COVERED = {"box": [(LEFT, 0.9)], "cat": [(WHOLE, 0.9)]}
UNDEFINED = [  # case, found, turn, what each defines: a value, or the parts and no value
    ("all is there", BOTH, {}, "object background", "object background", "object background"),
    ("no unchanged object", BOTH, {"unchanged_objects": ()}, "background", 0.5, "background"),
    ("no object named", BOTH, {"all_objects": ()}, "object background", 0.5, "object"),
    ("neither", BOTH, {"all_objects": (), "unchanged_objects": ()}, "background", 0.5, Status.UNMEASURABLE),
    ("no unchanged one found", {"cat": [(LEFT, 0.9)]}, {}, "background", "background", {"object": 0.0, "background": 1.0}),
    ("nothing found", NONE, {}, "background", 0.5, {"object": 0.0, "background": 1.0}),
    ("found with 0.35", {"box": [(LEFT, 0.35)]}, {}, "object background", 0.5, {"object": 0.0, "background": 1.0}),
    ("objects cover the picture", COVERED, {}, "object", "object", {"object": 1.0, "background": 0.0}),
    ("the background may change", BOTH, {"bg_consistency": False}, "object", "object", Status.NOT_APPLICABLE),
    ("and nothing is found", NONE, {"bg_consistency": False}, Status.UNMEASURABLE, 0.5, Status.NOT_APPLICABLE),
    ("a box of no pixel", {"box": [(POINT, 0.9)]}, {}, "object background", "background", {"object": 0.0, "background": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("found", "turn", "wanted"), [row[1:3] + (row[3:],) for row in UNDEFINED], ids=[row[0] for row in UNDEFINED])
def test_what_is_not_defined(found, turn, wanted):
    names = {"unchanged_objects": ("box",), "all_objects": ("box", "cat")} | turn
    for name, want in zip(REWARDS, wanted, strict=True):
        verdict = judge(name, [noise(), noise()], found, **names)
        parts = {part: verdict.detail[part] for part in ("object", "background") if part in verdict.detail}
        if isinstance(want, Status):
            assert verdict.status is want, name
        elif isinstance(want, str):
            assert set(parts) == set(want.split()) and verdict.value == pytest.approx(1, abs=1e-5), name
        elif isinstance(want, dict):
            assert parts == pytest.approx(want, abs=1e-5) and verdict.value == pytest.approx(np.mean(list(want.values())), abs=1e-5), name
        else:
            assert (verdict.value, parts) == (want, {}), name


@pytest.mark.parametrize("name", ["edit_r2", "edival"])
def test_an_outage_is_never_a_score(name):
    """Edit-R2 made 0.5 of it."""

    class Broken(ColourTokens):
        def tokens(self, pictures):
            raise TimeoutError("no answer")

    class Forgetful(ColourTokens):
        def tokens(self, pictures):
            return super().tokens(pictures[:-1])

    reward, episode = type(REWARDS[name](256, None)), fakes.episode([fakes.turn(**NAMES)], [noise(), noise()])
    assert suite.verdict_of(reward(ColourTokens(256), fakes.BrokenDetector()), episode).status is Status.SERVICE_ERROR
    for extractor in (Broken(256), Forgetful(256)):
        assert suite.verdict_of(reward(extractor, everywhere(BOTH)), episode).status is Status.SERVICE_ERROR


def test_edit_r2_compares_at_the_source_s_size_and_edival_at_512():
    smooth = np.full((96, 64, 3), 200, np.uint8)
    for name in ("edit_r2", "edival"):
        assert judge(name, [smooth, np.full((32, 64, 3), 200, np.uint8)], BOTH, **NAMES).value == pytest.approx(1, abs=1e-5)
