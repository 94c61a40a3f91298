"""What travels, to the bit; and what a request may not say."""

import io
import json
import struct
import tracemalloc
import zlib

import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image

from editr2_jax.rewards.base import Detection, Features
from editr2_jax.services import wire
from editr2_jax.services.wire import DETECT, EMBED, JSON, MSGPACK

PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(width, height, depth=8, colour=2):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(width, height, *, data=b"", **told):
    """A file that says to be so large, whatever is in it."""
    return b"\x89PNG\r\n\x1a\n" + header(width, height, **told) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@given(PICTURES)
def test_pictures_come_back_as_they_are(picture):
    data = wire.to_png(picture)
    assert wire.size_of_png(data) == picture.shape[:2]
    np.testing.assert_array_equal(wire.from_png(data), picture)


@given(st.sampled_from([JSON, MSGPACK]), st.data())
def test_features_come_back_to_the_bit(form, data):
    cls = data.draw(arrays.arrays(np.float32, (2, 3), elements=FLOATS))
    patches = data.draw(arrays.arrays(np.float32, (2, 2, 1, 3), elements=FLOATS))
    told = form.read(form.write({"cls": form.array(cls), "patches": form.array(patches[::-1])}))
    back = wire.read_features(told["cls"], told["patches"], 2)
    assert back.cls.tobytes() == cls.tobytes() and back.patches.tobytes() == patches[::-1].tobytes()
    assert back.cls.dtype == np.float32 and back.cls.flags.writeable


@given(st.sampled_from([JSON, MSGPACK]), SHARES, SHARES, SHARES)
def test_detections_come_back_to_the_bit(form, score, x, y):
    found = [Detection(box=(min(x, y), 0.0, max(x, y), 1.0), score=np.float32(score).item(), phrase="red box, left")] * 2
    told = form.read(form.write({"model": "m", "detections": wire.detections_message(found)}))
    assert wire.read_detections(told["detections"], ["red box, left"]) == found


@given(st.lists(st.binary(max_size=40), max_size=4), st.lists(st.text(max_size=10), max_size=4))
def test_requests_are_read_alike_in_both_forms(files, phrases):
    encoded = JSON.write({"pictures": [wire.base64.b64encode(data).decode() for data in files]})
    for form, body in ((MSGPACK, MSGPACK.write({"pictures": files})), (JSON, encoded)):
        assert wire.read_request(body, form, EMBED, most=4) == {"pictures": files}
    for form, body in (
        (MSGPACK, MSGPACK.write({"phrases": phrases, "picture": b"x"})),
        (JSON, JSON.write({"picture": "eA==", "phrases": phrases})),
    ):
        assert wire.read_request(body, form, DETECT, most=4) == {"picture": b"x", "phrases": phrases}


MSGPACK_BODIES = {  # what is wrong -> (the body, a word of the error)
    "nothing": (b"", "ends too early"),
    "no map": (b"\x93\x01\x02\x03", "the body"),
    "no map, text": (b"\xa1a", "the body"),
    "cut": (msgpack.packb({"picture": b"x" * 50, "phrases": []})[:30], "ends too early"),
    "more behind it": (msgpack.packb({"picture": b"", "phrases": []}) + b"\x00", "1 bytes follow"),
    "a file's name": (msgpack.packb({"picture": "../../etc/passwd", "phrases": []}), "paths and addresses are not looked up"),
    "a field for paths": (msgpack.packb({"path": "/etc/passwd", "phrases": []}), "there is no field"),
    "one field more": (msgpack.packb({"picture": b"", "phrases": [], "name": "../x"}), "a map of 3 fields"),
    "a field twice": (b"\x82\xa7picture\xc4\x00\xa7picture\xc4\x00", "comes twice"),
    "a field missing": (msgpack.packb({"picture": b""}), "'phrases' is not there"),
    "a list for a picture": (msgpack.packb({"picture": [b""], "phrases": []}), "picture: 1 exceeds"),
    "a map for phrases": (msgpack.packb({"picture": b"", "phrases": {"a": 1}}), "phrases"),
    "a list in the list": (msgpack.packb({"picture": b"", "phrases": [["a"]]}), "phrases: 1 exceeds"),
    "a number for a phrase": (msgpack.packb({"picture": b"", "phrases": [3]}), "int where str was wanted"),
    "an extension": (msgpack.packb({"picture": msgpack.ExtType(3, b"x"), "phrases": []}), "exceeds max_ext_len"),
    "a time": (b"\x82\xa7picture\xd6\xff\x00\x00\x00\x01\xa7phrases\x90", "exceeds max_ext_len"),
    "no UTF-8": (b"\x82\xa7picture\xc4\x00\xa7phrases\x91\xa2\xff\xfe", "phrases"),
    "more phrases than it has bytes": (b"\x82\xa7picture\xc4\x00\xa7phrases\xdd\xff\xff\xff\xff", "4294967295 of them, at most 4"),
    "more bytes than it has": (b"\x82\xa7picture\xc6\xff\xff\xff\xff", "picture"),
    "a map of many": (b"\xdf\xff\xff\xff\xff", "a map of 4294967295 fields"),
    "a pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.", "follow the map"),
    "a key that is no text": (msgpack.packb({1: b"", "phrases": []}), "there is no field 1"),
}


@pytest.mark.parametrize("wrong", MSGPACK_BODIES)
def test_a_msgpack_body_says_nothing_but_what_is_in_the_table(wrong):
    body, word = MSGPACK_BODIES[wrong]
    with pytest.raises(ValueError, match="(?s)" + word.replace(".", r"\.")):
        wire.read_request(body, MSGPACK, DETECT, most=4)


JSON_BODIES = {
    "nothing": (b"", "no JSON"),
    "no object": (b"[1, 2]", "no object"),
    "text": (b'"picture"', "no object"),
    "cut": (b'{"picture": "', "no JSON"),
    "a file's name": (b'{"picture": "../../etc/passwd", "phrases": []}', "paths and addresses are not looked up"),
    "an address": (b'{"picture": "data:image/png;base64,eA==", "phrases": []}', "paths and addresses are not looked up"),
    "another field": (b'{"file": "x", "phrases": []}', "there is no field 'file'"),
    "a field twice": (b'{"picture": "", "picture": "", "phrases": []}', "comes twice"),
    "an object for a list": (b'{"picture": "", "phrases": {"a": 1}}', "tuple where str was wanted"),
    "an object for a picture": (b'{"picture": {"__class__": "os.system"}, "phrases": []}', "list where str was wanted"),
    "a number": (b'{"picture": "", "phrases": [1]}', "int where str was wanted"),
    "no number": (b'{"picture": NaN, "phrases": []}', "NaN is no number"),
    "a number without end": (b'{"picture": ' + b"9" * 10_000 + b"}", "no JSON"),
    "too many": (b'{"picture": "", "phrases": ["a","a","a","a","a"]}', "5 of them, at most 4"),
    "deep": (b'{"picture": ' + b"[" * 90_000, "no JSON"),
    "a million lists": (b"[" + b"[]," * 1_000_000 + b"[]]", "brackets, commas and colons"),
    "another alphabet": ('{"picture": "", "phrases": []}'.encode("utf-16"), "no JSON"),
}


@pytest.mark.parametrize("wrong", JSON_BODIES)
def test_a_json_body_says_nothing_but_what_is_in_the_table(wrong):
    body, word = JSON_BODIES[wrong]
    with pytest.raises(ValueError, match=word):
        wire.read_request(body, JSON, DETECT, most=4)


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "no PNG"),
        (b"/etc/passwd", "no PNG"),
        (jpeg(), "no PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "without a sound header"),
        (png(0, 4), "without a sound header"),
        (png(4, 4, depth=16), "16 bits"),
        (png(4, 4, colour=6), "colour type 6"),
        (png(4, 4, colour=3), "colour type 3"),
    ],
)
def test_the_head_of_a_picture_is_enough_to_refuse_it(data, word):
    with pytest.raises(ValueError, match=word):
        wire.size_of_png(data)


def test_the_size_is_told_without_decoding():
    assert wire.size_of_png(png(1 << 30, 1 << 30)) == (1 << 30, 1 << 30)


@pytest.mark.parametrize(
    "data, word",
    [
        (png(4, 4), "damaged"),
        (png(4, 4, data=b"\0" * 20), "damaged"),
        (wire.to_png(np.zeros((40, 40, 3), np.uint8))[:80], "damaged"),
        (png(4, 4)[:33] + header(5000, 5000) + png(4, 4)[33:], "two sizes"),
        (png(4, 4)[:33] + header(4, 4, colour=0) + png(4, 4)[33:], "two sizes|damaged"),
    ],
)
def test_a_damaged_picture_is_an_error_of_ours(data, word):
    with pytest.raises(ValueError, match=word):
        wire.from_png(data)


def with_chunks(*chunks):
    """A picture of one pixel, and what stands beside it in its file."""
    sound = wire.to_png(np.full((1, 1, 3), 7, np.uint8))
    return sound[:33] + b"".join(chunks) + sound[33:]


PACKED = zlib.compress(("a" * 1_000_000 + "\U0001f600").encode())  # 1 kB; 4 MB as a text in memory
TEXTS = [
    chunk(b"iTXt", b"note\0\1\0\0\0" + PACKED),
    chunk(b"zTXt", b"note\0\0" + zlib.compress(b"a" * 1000)),
    chunk(b"iCCP", b"profile\0\0" + PACKED),
]


def test_a_picture_may_have_a_few_texts_and_not_many():
    """Sixty texts of a kilobyte would be a quarter of a gigabyte once they are unpacked."""
    assert wire.from_png(with_chunks(*TEXTS, chunk(b"tEXt", b"note\0text"))).tolist() == [[[7, 7, 7]]]
    for name in range(3):
        with pytest.raises(ValueError, match="more than 65536 chunks, or 4 texts and profiles; save the pixels alone"):
            wire.from_png(with_chunks(*TEXTS, *[TEXTS[name]] * 2))
    many = [chunk(b"prVt", b"")]
    assert wire.from_png(with_chunks(*many * 60_000)).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="more than 65536 chunks"):
        wire.from_png(with_chunks(*many * 66_000))


GOOD = {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.5, "phrase": "ball"}


@pytest.mark.parametrize(
    "told, word",
    [
        (None, "no list"),
        ([3], "has not the fields"),
        ([{"box": [0, 0, 1, 1], "score": 1}], "has not the fields"),
        ([GOOD | {"box": [0.1, 0.2, 0.3]}], "five numbers"),
        ([GOOD | {"box": [0.1, 0.2, 0.3, 1.5]}], "five numbers"),
        ([GOOD | {"box": [0.1, 0.2, 0.3, float("nan")]}], "five numbers"),
        ([GOOD | {"box": [0.1, 0.2, 0.3, True]}], "five numbers"),
        ([GOOD | {"box": [0.5, 0.2, 0.3, 0.4]}], "ends before it begins"),
        ([GOOD | {"score": 1.5}], "five numbers"),
        ([GOOD | {"score": "high"}], "five numbers"),
        ([GOOD, GOOD | {"phrase": "box"}], r"detections\[1\]: nobody asked"),
        ([GOOD | {"phrase": None}], "nobody asked"),
        ([GOOD | {"phrase": ["ball"]}], "nobody asked"),
    ],
)
def test_detections_that_are_none(told, word):
    assert wire.read_detections([GOOD], ["ball"])[0].score == 0.5
    with pytest.raises(ValueError, match=word):
        wire.read_detections(told, ["ball"])


def features(cls=(2, 3), patches=(2, 2, 2, 3)):
    return {"cls": MSGPACK.array(np.ones(cls, np.float32)), "patches": MSGPACK.array(np.ones(patches, np.float32))}


@pytest.mark.parametrize(
    "changed, word",
    [
        ({"cls": None}, "cls is no array"),
        ({"cls": features()["cls"] | {"dtype": "<f8"}}, "cls is no array"),
        ({"cls": features()["cls"] | {"dtype": "O"}}, "cls is no array"),
        ({"cls": features()["cls"] | {"shape": [2, 4]}}, "not the bytes of its shape"),
        ({"cls": features()["cls"] | {"shape": [-2, -3]}}, "has the shape"),
        ({"cls": features()["cls"] | {"shape": [1 << 40, 1 << 40]}}, "has the shape"),
        ({"cls": features()["cls"] | {"shape": "23"}}, "has the shape"),
        ({"cls": features()["cls"] | {"data": [0] * 24}}, "not the bytes"),
        (features(cls=(3, 3), patches=(3, 2, 2, 3)), "features of 3 and 3 pictures, 2 were sent"),
        (features(patches=(1, 2, 2, 3)), "features of 2 and 1 pictures"),
        (features(patches=(2, 2, 2, 4)), "cls is 3 wide, patches are 4"),
        ({"patches": MSGPACK.array(np.full((2, 2, 2, 3), np.inf, np.float32))}, "not finite"),
        ({"patches": MSGPACK.array(np.full((2, 2, 2, 3), np.nan, np.float32))}, "not finite"),
    ],
)
def test_features_that_are_none(changed, word):
    assert isinstance(wire.read_features(**features(), count=2), Features)
    with pytest.raises(ValueError, match=word):
        wire.read_features(**{**features(), **changed}, count=2)


def test_nothing_is_rounded_in_silence():
    with pytest.raises(ValueError, match="float64"):
        MSGPACK.array(np.ones((1, 2)))


def test_an_answer_that_is_no_message_is_a_value_error():
    for body in (b"", b"\x80\x04.", b"\xc1", b"\x91" * 5000, b"\xd6\xff\0\0\0\1", b"\x81\x01\x02"):
        with pytest.raises(ValueError):
            MSGPACK.read(body)
    for body in (b"", b"[" * 90_000, b"\xff\xfe\x00"):
        with pytest.raises(ValueError):
            JSON.read(body)
    assert json.loads(JSON.write({"a": 1})) == {"a": 1}


BOX = {"box": [0, 0.25, 1, 1.0], "score": 1, "phrase": "ball"}
ANSWERS = {  # what is wrong -> (the body, a word of the error)
    "no map": (b"\x93\x01\x02\x03", "the body"),
    "a list of maps": (msgpack.packb([BOX]), "the body"),
    "another field": (msgpack.packb({"model": "m", "extra": 1}), "there is no field 'extra'"),
    "a field twice": (b"\x82\xa5model\xa1m\xa5model\xa1m", "comes twice"),
    "more fields than there are": (b"\xdf\xff\xff\xff\xff", "a map of 4294967295 fields"),
    "more behind it": (msgpack.packb({"model": "m"}) + b"\xc0", "1 bytes follow"),
    "cut": (msgpack.packb({"model": "m", **features()})[:-1], "patches: it ends too early|data: it ends too early"),
    "a name that is a list": (msgpack.packb({"model": []}), "model: list where str was wanted"),
    "detections that are a map": (msgpack.packb({"detections": {}}), "detections"),
    "a detection that is a list": (msgpack.packb({"detections": [[]]}), "detections"),
    "more in a detection": (msgpack.packb({"detections": [BOX | {"mask": b""}]}), "a map of 4 fields"),
    "another thing in a detection": (msgpack.packb({"detections": [{"mask": b""}]}), "there is no field 'mask'"),
    "a box of three": (msgpack.packb({"detections": [BOX | {"box": [0, 0, 1]}]}), "box: 3 numbers where 4 were wanted"),
    "a box of lists": (msgpack.packb({"detections": [BOX | {"box": [[]] * 4}]}), "box: list where float was wanted"),
    "a box of words": (msgpack.packb({"detections": [BOX | {"box": ["0"] * 4}]}), "box: str where float was wanted"),
    "a score that is true": (msgpack.packb({"detections": [BOX | {"score": True}]}), "score: bool where float was wanted"),
    "a phrase in a list": (msgpack.packb({"detections": [BOX | {"phrase": ["ball"]}]}), "phrase: 1 exceeds"),
    "more detections than it has bytes": (b"\x81\xaadetections\xdd\xff\xff\xff\xff", "4294967295 of them, at most 100000"),
    "an array that is a list": (msgpack.packb({"cls": [0.0, 1.0]}), "cls"),
    "an array with more": (msgpack.packb({"cls": features()["cls"] | {"order": "C"}}), "a map of 4 fields"),
    "a shape of three": (msgpack.packb({"cls": {"shape": [1, 1, 1]}}), "shape: 3 numbers where 2 were wanted"),
    "a shape of floats": (msgpack.packb({"patches": {"shape": [1.0] * 4}}), "shape: float where int was wanted"),
    "numbers one by one": (msgpack.packb({"cls": {"data": [0] * 24}}), "data: 24 exceeds"),
    "numbers as text": (msgpack.packb({"cls": {"data": "AAAA"}}), "data: str where bytes was wanted"),
    "an extension": (msgpack.packb({"model": msgpack.ExtType(3, b"x")}), "exceeds max_ext_len"),
}


@pytest.mark.parametrize("wrong", ANSWERS)
def test_an_answer_says_nothing_but_what_is_in_the_table(wrong):
    body, word = ANSWERS[wrong]
    with pytest.raises(ValueError, match="(?s)no msgpack of an answer .*(" + word.replace(".", r"\.") + r")") as told:
        MSGPACK.read(body)
    assert "PNG" not in str(told.value)


def test_a_good_answer_is_what_msgpack_makes_of_it():
    for answer in (
        {"model": "m", "detections": []},
        {"detections": [BOX, BOX | {"score": 2**64 - 1, "box": [float("nan"), -1, 0, 0.1 + 0.2]}], "model": "é"},
        {"model": "m", **features()},
        {**features(cls=(0, 3)), "model": ""},
        features(),
    ):
        body = MSGPACK.write(answer)
        assert repr(MSGPACK.read(body)) == repr(msgpack.unpackb(body))  # types, too, and the order


BOMBS = {  # a body of 4 MiB that would become a hundred times as much
    "msgpack, maps": (MSGPACK, b"\xdd\x00\x40\x00\x00" + b"\x80" * (1 << 22)),
    "msgpack, maps for detections": (MSGPACK, b"\x81\xaadetections\xdd\x00\x40\x00\x00" + b"\x80" * (1 << 22)),
    "msgpack, lists for an array": (MSGPACK, b"\x81\xa3cls\xdd\x00\x40\x00\x00" + b"\x90" * (1 << 22)),
    "msgpack, a map of many": (MSGPACK, b"\xdf\x00\x40\x00\x00" + b"\x01\x80" * (1 << 21)),
    "msgpack, numbers for bytes": (MSGPACK, b"\x81\xa3cls\x81\xa4data\xdd\x00\x40\x00\x00" + b"\xca" * (1 << 22)),
    "JSON, maps": (JSON, b"[" + b"{}," * (1 << 22) + b"{}]"),
    "JSON, lists": (JSON, b'{"choices": [' + b"[]," * (1 << 21) + b"[]]}"),
    "JSON, maps in maps": (JSON, b'{"a":' * (1 << 20)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_answer_that_would_be_blown_up_costs_no_memory(name):
    form, body = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            form.read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)


def test_an_answer_of_features_costs_little_more_than_its_size():
    body = MSGPACK.write(
        {"model": "m", "cls": MSGPACK.array(np.ones((1, 1024), np.float32))}
        | {"patches": MSGPACK.array(np.ones((1, 32, 32, 1024), np.float32))}
    )
    tracemalloc.start()
    try:
        told = MSGPACK.read(body)
        wire.read_features(told["cls"], told["patches"], 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * len(body)
