"""TensorBoard event files without TensorFlow: scalars only.

A file is a sequence of TFRecord frames, length (8 bytes) | masked crc of it | data | masked crc of it, around Event messages. Field
numbers are those of tensorboard/compat/proto/{event,summary}.proto; the crc is Castagnoli's (RFC 3720), masked as in
tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_files = itertools.count()  # tells apart the event files of one process


class EventFile:
    """One event file in `directory`.

    Opened at a step, it asks TensorBoard to forget what earlier files say about that step and later ones.
    """

    def __init__(self, directory: Path, *, start: int = 0):
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_files)}"
        self._file = open(directory / name, "xb")
        self._put(_bytes(3, b"brain.Event:2"))
        if start:
            self._put(_varint_field(2, start) + _bytes(7, _varint_field(1, 1)))  # session_log { status: START }

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one event with the scalars of a step, and hand it to the operating system."""
        values = b"".join(_bytes(1, _bytes(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, value)) for tag, value in scalars.items())
        self._put(_varint_field(2, step) + _bytes(5, values))

    def close(self) -> None:
        self._file.close()

    def _put(self, event: bytes) -> None:
        self._file.write(_frame(struct.pack("<Bd", 1 << 3 | 1, time.time()) + event))
        self._file.flush()


def _frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
