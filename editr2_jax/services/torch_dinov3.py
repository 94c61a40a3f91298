"""DINOv3 in PyTorch, through transformers, as the rewards' feature extractor; `dinov3.JaxDinoV3` is the same model in JAX.

Tokens come as CLS, registers, patches row by row; the registers are dropped and the grid is known from the size of the pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from editr2_jax.rewards.base import Features
from editr2_jax.services import dinov3_pictures, torch_models

_AT_ONCE = 16  # pictures in one pass: bounds the memory, whatever is asked


class TorchDinoV3:
    """Embeds pictures; the same pictures in the same call give the same numbers. Thread-safe: one pass at a time."""

    def __init__(self, folder: str | Path, *, device: str = "cpu", size: int | None = None):
        """
        Args:
            folder: config.json, preprocessor_config.json and safetensors, as Hugging Face publishes them.
            device: as PyTorch names it: cpu, cuda, cuda:1.
            size: side of the square that pictures are resized to; None: as preprocessor_config.json says (224).
        """
        self._torch, _ = torch_models.libraries()
        self._model = torch_models.load("DINOv3ViTModel", folder, model_type="dinov3_vit", device=device)
        self._rule = dinov3_pictures.read_rule(folder).at(size)
        self.grid = self._rule.grid(self._model.config.patch_size)
        self._lock = threading.Lock()

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Embeddings of uint8 [H, W, 3] pictures of any sizes, in order."""
        pixels = dinov3_pictures.prepare(pictures, self._rule).transpose(0, 3, 1, 2)
        config = self._model.config
        tokens = [np.zeros((0, 1 + config.num_register_tokens + self.grid[0] * self.grid[1], config.hidden_size), np.float32)]
        with self._lock, self._torch.inference_mode():
            for begin in range(0, len(pixels), _AT_ONCE):
                part = self._torch.from_numpy(np.ascontiguousarray(pixels[begin : begin + _AT_ONCE])).to(self._model.device)
                tokens.append(self._model(pixel_values=part).last_hidden_state.cpu().numpy())
        whole = np.concatenate(tokens)  # [N, 1 + registers + h w, D]
        patches = whole[:, 1 + config.num_register_tokens :]
        return Features(cls=whole[:, 0], patches=patches.reshape(len(whole), *self.grid, config.hidden_size))
