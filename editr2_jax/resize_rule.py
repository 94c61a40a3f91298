"""The size at which BAGEL works on a picture: one rule for the pipeline, the autoencoder and the vision encoder."""

from __future__ import annotations

import dataclasses

MAX_PIXELS = 14 * 14 * 9 * 1024  # BAGEL's limit for one resized picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeRule:
    """Sizes a picture may take: longest side at most max_size, shortest at least min_size, both multiples of stride. Pixels."""

    max_size: int
    min_size: int
    stride: int

    def shape(self, width: int, height: int, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
        """The (width, height) of a picture that has this size: MaxLongEdgeMinShortEdgeResize of the official code.

        Where both limits cannot hold, the long side's does. Python's rounding (half to even) and the missing square root in the max_pixels
        correction are BAGEL's, kept on purpose. Raises ValueError for an empty picture.
        """
        if width < 1 or height < 1:
            raise ValueError(f"A picture of {width}x{height} pixels cannot be resized; both sides must be at least 1.")

        def scaled(scale: float) -> tuple[int, int]:
            return tuple(max(self.stride, int(round(round(side * scale) / self.stride) * self.stride)) for side in (width, height))

        width, height = scaled(max(min(self.max_size / max(width, height), 1.0), self.min_size / min(width, height)))
        if width * height > max_pixels:
            width, height = scaled(max_pixels / (width * height))
        if max(width, height) > self.max_size:
            width, height = scaled(self.max_size / max(width, height))
        return width, height
