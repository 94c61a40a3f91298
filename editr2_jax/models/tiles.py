"""Tile sizes of the attention kernels (splash.py), and lengths that they divide.

A kernel goes through queries and keys in tiles; a last tile that is not full is padded. Larger tiles take fewer steps and more of the
chip's vector memory. The bounds below compile for v4, v5e, v5p, v6e and tpu7x; which sizes are fastest is not measured yet.
"""

from __future__ import annotations

LANES = 128  # of a vector register: keys, and queries in the backward kernels, come in multiples of it
_SUBLANES = 16  # of a bfloat16 tile: queries of the forward kernel
_STEP = 64  # tokens' worth of time that a step is taken to cost beside its work
_MOST_QUERIES, _MOST_QUERIES_BACKWARD, _MOST_KEYS = 640, 512, 1024


def tile(length: int, *, unit: int, most: int) -> int:
    """The tile size, a multiple of `unit` and at most `most`, that goes through `length` in the least time, padding and steps counted."""
    sizes = range(unit, min(most, _up(length, unit)) + 1, unit)
    return min(sizes, key=lambda size: (-(-length // size) * (size + _STEP), _up(length, size)))


def queries(length: int, *, backward: bool = False) -> int:
    """Queries of a tile: 7182 (7 query heads of 1026 tokens) become 7296, in tiles of 608, and of 384 backward."""
    return tile(length, unit=LANES, most=_MOST_QUERIES_BACKWARD) if backward else tile(length, unit=_SUBLANES, most=_MOST_QUERIES)


def keys(length: int) -> int:
    """Keys of a tile: 7424 become 7680, in tiles of 768."""
    return tile(length, unit=LANES, most=_MOST_KEYS)


def slots(capacity: int) -> int:
    """The least number of cache slots that holds `capacity` tokens and is not padded: such a cache goes into the kernel as it lies."""
    return _up(capacity, keys(capacity))


def _up(length: int, unit: int) -> int:
    return -(-length // unit) * unit
