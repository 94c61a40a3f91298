"""TensorBoard files, taken apart by a reader of their own and, where it is installed, by TensorBoard's."""

import struct

import pytest

from editr2_jax.runtime import tensorboard
from editr2_jax.runtime.tensorboard import EventFile


def records(path):
    """The payloads of a TFRecord file; checks both checksums of each."""
    data = path.read_bytes()
    while data:
        header, length = data[:8], struct.unpack("<Q", data[:8])[0]
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == tensorboard._masked_crc(header)
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == tensorboard._masked_crc(body)
        yield body
        data = data[16 + length :]


def fields(message):
    """(field number, value) pairs of a protocol buffer."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size, code = {1: (8, "<d"), 5: (4, "<f"), 2: (None, None)}[wire]
        size = varint() if size is None else size
        chunk = message[at : at + size]
        at += size
        yield number, struct.unpack(code, chunk)[0] if code else chunk


def event_file(directory):
    (path,) = directory.iterdir()
    return path


def test_the_checksum_is_castagnolis():
    crc = (tensorboard._masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C, RFC 3720


def test_scalars_come_back(tmp_path):
    file = EventFile(tmp_path)
    file.write(300, {"reward/mean": 0.5, "loss/total": -2.0})
    file.close()
    version, event = map(dict, map(fields, records(event_file(tmp_path))))
    assert version[3] == b"brain.Event:2" and event[2] == 300 and event[1] > 1.7e9
    values = [dict(fields(value)) for _, value in fields(event[5])]
    assert values == [{1: b"reward/mean", 2: 0.5}, {1: b"loss/total", 2: -2.0}]


def test_a_resumed_run_retracts_what_it_plays_again(tmp_path):
    EventFile(tmp_path, start=7).close()
    _, event = map(dict, map(fields, records(event_file(tmp_path))))
    assert event[2] == 7 and dict(fields(event[7])) == {1: 1}


def test_tensorboard_reads_it_and_forgets_retracted_steps(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, steps, value in ((0, range(6), 1.0), (4, range(4, 8), 2.0)):
        file = EventFile(tmp_path, start=start)
        for step in steps:
            file.write(step, {"reward/mean": value})
        file.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(s, 1.0 if s < 4 else 2.0) for s in range(8)]
