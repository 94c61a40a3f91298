"""How far a stream of bytes is: done, of how many, how fast, how much longer."""

from __future__ import annotations

import time
from collections.abc import Callable

from editr2_jax.runtime.progress import clock_face

_EVERY = 2.0  # seconds between two lines


class Meter:
    """Is told of every piece that is done, and says a line about it now and then, and at the end."""

    def __init__(self, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        """total: bytes. say: takes a line."""
        self._total, self._say, self._clock = total, say, clock
        self._done, self._begun = 0, clock()
        self._said = self._begun

    def __call__(self, name: str, size: int) -> None:
        """`size` bytes more are done, of what is called `name`."""
        self._done += size
        now = self._clock()
        if now - self._said < _EVERY and self._done < self._total:
            return
        self._said, rate = now, self._done / max(now - self._begun, 1e-6)
        share = self._done / max(self._total, 1)
        left = clock_face((self._total - self._done) / max(rate, 1e-6))
        self._say(f"  {gigabytes(self._done)} of {gigabytes(self._total)}  {share:4.0%}  {rate / 1e9:.2f} GB/s  eta {left}  {name}")


def gigabytes(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
