"""DINOv3 in JAX as the rewards' feature extractor: exact against PyTorch, which is not needed.

Tokens come as CLS, registers, patches row by row; the registers are dropped and the grid is known from the size of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from editr2_jax.models.dinov3 import vit
from editr2_jax.rewards.base import Features
from editr2_jax.services import dinov3_pictures
from editr2_jax.services.dinov3_pictures import PictureRule

_AT_ONCE = 16  # pictures in one pass at most: bounds the memory, and with powers of two below it the programs, five


class JaxDinoV3:
    """Embeds pictures; the same pictures in the same call give the same numbers. Thread-safe."""

    def __init__(self, model: vit.DinoV3, rule: PictureRule):
        self.grid = rule.grid(model.config.patch)
        self._config, self._rule = model.config, rule
        graph, self._state = nnx.split(model)
        self._features = jax.jit(lambda state, pixels: nnx.merge(graph, state).features(pixels))

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Embeddings of uint8 [H, W, 3] pictures of any sizes, in order."""
        pixels, width = dinov3_pictures.prepare(pictures, self._rule), self._config.width
        parts = [(np.zeros((0, width), np.float32), np.zeros((0, *self.grid, width), np.float32))]
        parts += [self._pass(pixels[begin : begin + _AT_ONCE]) for begin in range(0, len(pixels), _AT_ONCE)]
        cls, patches = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Features(cls=cls, patches=patches)

    def _pass(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = 1 << (len(pixels) - 1).bit_length()
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], rows - len(pixels), axis=0)])
        with jax.default_matmul_precision("highest"):  # of this thread; TPUs would multiply in bfloat16
            cls, patches = self._features(self._state, padded)
        return np.asarray(cls, np.float32)[: len(pixels)], np.asarray(patches, np.float32)[: len(pixels)]
