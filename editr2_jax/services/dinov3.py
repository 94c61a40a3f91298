"""DINOv3 in JAX as the rewards' feature extractor: exact against PyTorch, which is not needed.

Tokens come as CLS, registers, patches row by row; features leave the registers out, and the grid is known from the size of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from editr2_jax.models.dinov3 import vit
from editr2_jax.rewards.base import Features, Tokens
from editr2_jax.services import dinov3_pictures
from editr2_jax.services.dinov3_pictures import PictureRule

_AT_ONCE = 16  # pictures in one pass at most: bounds the memory, and with powers of two below it the programs, five


class JaxDinoV3:
    """Embeds pictures; the same pictures in the same call give the same numbers. Thread-safe."""

    def __init__(self, model: vit.DinoV3, rule: PictureRule):
        self.grid = rule.grid(model.config.patch)
        self._config, self._rule = model.config, rule
        graph, self._state = nnx.split(model)
        self._tokens = jax.jit(lambda state, pixels: nnx.merge(graph, state).tokens(pixels))

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Embeddings of uint8 [H, W, 3] pictures of any sizes, in order."""
        return self.tokens(pictures).features()

    def tokens(self, pictures: Sequence[np.ndarray]) -> Tokens:
        """All tokens of uint8 [H, W, 3] pictures of any sizes, in order."""
        pixels, config = dinov3_pictures.prepare(pictures, self._rule), self._config
        parts = [np.zeros((0, 1 + config.registers + self.grid[0] * self.grid[1], config.width), np.float32)]
        parts += [self._pass(pixels[begin : begin + _AT_ONCE]) for begin in range(0, len(pixels), _AT_ONCE)]
        return Tokens(tokens=np.concatenate(parts), registers=config.registers, grid=self.grid, size=(self._rule.height, self._rule.width))

    def _pass(self, pixels: np.ndarray) -> np.ndarray:
        rows = 1 << (len(pixels) - 1).bit_length()
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], rows - len(pixels), axis=0)])
        with jax.default_matmul_precision("highest"):  # of this thread; TPUs would multiply in bfloat16
            tokens = self._tokens(self._state, padded)
        return np.asarray(tokens, np.float32)[: len(pixels)]
