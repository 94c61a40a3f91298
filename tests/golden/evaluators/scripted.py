"""What stands around the rules in a recorded case, for those who record it and those who test against it. numpy and Pillow alone."""

import numpy as np
from PIL import Image

from editr2_jax.rewards import base

SIDE = 512


def number_of(pixels):
    """Which picture of the case: its first pixel tells, whatever size it was brought to."""
    return int(pixels[0, 0, 0] > 100)


def flat(number):
    """A picture of one colour."""
    return np.full((SIDE, SIDE, 3), 200 * number, np.uint8)


def read(case, pixels):
    """The text that is read in a whole picture, or in a piece of one."""
    return case["text"][int(pixels.shape[:2] != (SIDE, SIDE))]


def noun(name):
    return name.rsplit(" ", 1)[-1]


def at_side(pixels, side):
    """A square picture, by area, which is the same everywhere."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))


def pictures(case):
    """Source and output: soft colours, half of them moved, and a corner that tells which is which."""
    rng, (height, width) = np.random.default_rng(case["seed"]), case["size"]
    colours = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    one, two = (np.array(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in colours)
    two = (one // 5 * 3 + two // 5 * 2).astype(np.uint8)
    one[:64, :64], two[:64, :64] = 10, 200
    return one, at_side(two, 256) if case["resized"] else two


class Tokens:
    """A class token, four registers that know the picture, and patches of 16 pixels: sums of colours, and no model."""

    def __init__(self, side):
        self.side = side

    def tokens(self, pictures):
        count = self.side // 16
        small = np.stack([at_side(pixels, self.side) for pixels in pictures]).astype(np.float32) / 255 - 0.5
        patches = small.reshape(-1, count, 16, count, 16, 3).mean(axis=(2, 4)).reshape(-1, count**2, 3)
        mean, spread = patches.mean(axis=1, keepdims=True), patches.std(axis=1, keepdims=True)
        registers = np.concatenate([spread, 2 * mean, -spread, mean[..., ::-1]], axis=1)
        whole = np.concatenate([mean, registers, patches], axis=1)
        return base.Tokens(tokens=whole, registers=4, grid=(count, count), size=(self.side, self.side))
