"""What a server of detections or features and its clients say to each other: small maps in msgpack or JSON, pictures as PNG files.

    POST /v1/detect   {picture: PNG, phrases: [text, ...]}  ->  {model, detections: [{box: [x1, y1, x2, y2], score, phrase}, ...]}
    POST /v1/embed    {pictures: [PNG, ...]}                ->  {model, cls: ARRAY, patches: ARRAY}
    ARRAY             {dtype: "<f4", shape: [...], data: bytes}

JSON has bytes as base64. Boxes and scores travel as doubles and features as raw float32: whoever decodes them has the very bits. A request
can say nothing else: there is no field for a file, an address or an object, and what is not in the table is refused. Answers are read as
strictly: a server that went astray, or that somebody else stands for, cannot make a client take more than a few times an answer's size.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from editr2_jax.rewards.base import Detection, Features

Kind = type | list | tuple | Mapping[str, Any]  # float: an int as well; [kind]: any number of it; (kind, ...): so many; a map: its fields
DETECT: Mapping[str, Kind] = {"picture": bytes, "phrases": [str]}
EMBED: Mapping[str, Kind] = {"pictures": [bytes]}
ANSWER: Mapping[str, Kind] = {  # of a server, to either
    "model": str,
    "detections": [{"box": (float,) * 4, "score": float, "phrase": str}],
    "cls": {"dtype": str, "shape": (int,) * 2, "data": bytes},
    "patches": {"dtype": str, "shape": (int,) * 4, "data": bytes},
}
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # length of the data, name; behind the data stands a checksum of four bytes
_HEADER = struct.Struct(">I4sIIBBBBB")  # IHDR, always the first chunk: length, name, width, height, depth, colour, and three more
_PACKED, _MOST_PACKED = (b"zTXt", b"iTXt", b"iCCP"), 4  # Pillow unpacks 1 MB of each; letters may take four bytes
_MOST_CHUNKS = 1 << 16  # at libpng's 8 KB of pixels each, half a gigabyte
_MARKS = 100_000  # brackets, commas and colons of a JSON message: each may become an object of 60 bytes
_MOST_FOUND = 100_000  # detections of an answer, half a kilobyte each; Grounding DINO has 900 boxes for each of 64 phrases
_FLOATS = "<f4"
_FILE = "send the bytes of a PNG file: names, paths and addresses are not looked up"


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to write messages."""

    media_type: str
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]  # an answer from a server that we chose; raises ValueError

    def array(self, values: Float[np.ndarray, "..."]) -> dict[str, Any]:
        """A float32 array as an ARRAY. Raises ValueError for another type: nothing is rounded on the way."""
        if values.dtype != np.float32:
            raise ValueError(f"an array is {values.dtype}, not float32")
        data = np.ascontiguousarray(values, _FLOATS).tobytes()
        return {"dtype": _FLOATS, "shape": list(values.shape), "data": data if self is MSGPACK else base64.b64encode(data).decode()}


def _read_msgpack(body: bytes) -> dict[str, Any]:
    """Those fields of an answer that are there, each of its kind."""
    try:
        return _Heads(body, _MOST_FOUND).whole(ANSWER)
    except ValueError as error:
        raise ValueError(f"no msgpack of an answer ({error})") from error


def _read_json(body: bytes) -> Any:
    _refuse_marks(body)
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("lists in lists in lists") from error


JSON = Form("application/json", lambda message: json.dumps(message).encode(), _read_json)
MSGPACK = Form("application/msgpack", lambda message: msgpack.packb(message, use_bin_type=True), _read_msgpack)


# Messages of strangers: nothing in them is believed ----------------------------------------------------------------------------------


def read_request(body: bytes, form: Form, fields: Mapping[str, Kind], *, most: int) -> dict[str, Any]:
    """The fields of a request, each of them there and of its type, in lists of at most `most`. Raises ValueError saying what is wrong.

    A body costs no more memory than a small multiple of its size, whatever it says.
    """
    return (_msgpack_request if form is MSGPACK else _json_request)(body, fields, most)


def _msgpack_request(body: bytes, fields: Mapping[str, Kind], most: int) -> dict[str, Any]:
    return _complete(_Heads(body, most, hint=f"; {_FILE}").whole(fields), fields)


class _Heads:
    """A msgpack body, read head by head by what a table says comes next: nothing is built before it is known what it is, and how many.

    A value that is a list or a map where the table has none, or an extension, has no room at all.
    """

    def __init__(self, body: bytes, most: int, *, hint: str = ""):
        """most: items of a list. hint: what an error adds where bytes were wanted."""
        room = {"max_array_len": 0, "max_map_len": 0, "max_ext_len": 0}
        self._reader = msgpack.Unpacker(max_buffer_size=len(body) + 1, raw=False, strict_map_key=True, **room)
        self._reader.feed(body)
        self._size, self._most, self._hint, self._place = len(body), most, hint, "the body"

    def whole(self, fields: Mapping[str, Kind]) -> dict[str, Any]:
        """The body as a map of some of the fields. Raises ValueError saying where it is something else."""
        try:
            said = self._map(fields)
            if self._reader.tell() != self._size:
                raise ValueError(f"{self._size - self._reader.tell()} bytes follow the map")
        except msgpack.OutOfData as error:
            raise ValueError(f"{self._place}: it ends too early") from error
        except (msgpack.UnpackException, ValueError) as error:
            raise ValueError(f"{self._place}: {short(error)}") from error
        return said

    def _map(self, fields: Mapping[str, Kind]) -> dict[str, Any]:
        place, said = self._place, {}
        count = self._reader.read_map_header()
        if count > len(fields):
            raise ValueError(f"a map of {count} fields; {_wanted(fields)}")
        for _ in range(count):
            name = _known(self._reader.unpack(), fields, said)
            self._place = name
            said[name] = self._value(fields[name])
            self._place = place
        return said

    def _value(self, kind: Kind) -> Any:
        if isinstance(kind, Mapping):
            return self._map(kind)
        if not isinstance(kind, (list, tuple)):
            return _typed(self._reader.unpack(), kind, hint=self._hint)
        length = self._reader.read_array_header()
        if isinstance(kind, tuple) and length != len(kind):
            raise ValueError(f"{length} numbers where {len(kind)} were wanted")
        _refuse_many(length, self._most)
        return [self._value(one) for one in (kind if isinstance(kind, tuple) else kind * length)]


def _json_request(body: bytes, fields: Mapping[str, Kind], most: int) -> dict[str, Any]:
    try:
        _refuse_marks(body)
    except ValueError as error:
        raise ValueError(f"the body: {error}") from error
    try:
        told = json.loads(body.decode("utf-8"), object_pairs_hook=list, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body: no JSON ({short(error)})") from error
    if not body.lstrip()[:1] == b"{":
        raise ValueError(f"the body: no object; {_wanted(fields)}")
    said: dict[str, Any] = {}
    for key, value in told:
        name = _known(key, fields, said)
        kind = fields[name]
        try:
            if isinstance(kind, list):
                if not isinstance(value, list):
                    raise ValueError(f"{type(value).__name__} where a list was wanted")
                _refuse_many(len(value), most)
                said[name] = [_from_json(item, kind[0]) for item in value]
            else:
                said[name] = _from_json(value, kind)
        except ValueError as error:
            raise ValueError(f"{name}: {short(error)}") from error
    return _complete(said, fields)


def _from_json(value: Any, kind: type) -> Any:
    _typed(value, str)
    if kind is str:
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"no base64 ({short(error)}); {_FILE}") from error


def _refuse_marks(body: bytes) -> None:
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b":")) > _MARKS:
        raise ValueError(f"more than {_MARKS} brackets, commas and colons")


def _typed(value: Any, kind: type, *, hint: str = "") -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{type(value).__name__} where {kind.__name__} was wanted{hint if kind is bytes else ''}")
    return value


def _known(key: Any, fields: Mapping[str, Kind], said: Mapping[str, Any]) -> str:
    if not isinstance(key, str) or key not in fields:
        raise ValueError(f"there is no field {short(repr(key))}; {_wanted(fields)}")
    if key in said:
        raise ValueError(f"the field {key!r} comes twice")
    return key


def _complete(said: dict[str, Any], fields: Mapping[str, Kind]) -> dict[str, Any]:
    if lost := [name for name in fields if name not in said]:
        raise ValueError(f"the body: {lost[0]!r} is not there; {_wanted(fields)}")
    return said


def _refuse_many(count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"{count} of them, at most {most} are taken; send several requests")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _wanted(fields: Mapping[str, Kind]) -> str:
    return f"give {' and '.join(fields)}, nothing else"


def short(said: object) -> str:
    """Words in one short line of printable characters: errors, and those of strangers."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(said)[:160]) or type(said).__name__


# Pictures ----------------------------------------------------------------------------------------------------------------------------


def to_png(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The file of a picture; the pixels come back as they are."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)  # lossless at every level; this one is fast
    return buffer.getvalue()


def size_of_png(data: bytes) -> tuple[int, int]:
    """(height, width) by the file's first bytes; nothing is decoded. Raises ValueError for anything but a PNG of 8-bit RGB."""
    if len(data) < len(_PNG) + _HEADER.size or not data.startswith(_PNG):
        raise ValueError(f"no PNG file; {_FILE}")
    length, name, width, height, depth, colour, *_ = _HEADER.unpack_from(data, len(_PNG))
    if (length, name) != (13, b"IHDR") or not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise ValueError("a PNG file without a sound header")
    if (depth, colour) != (8, 2):
        raise ValueError(f"a PNG of {depth} bits and colour type {colour}; convert it to 8-bit RGB, colour type 2")
    return height, width


def from_png(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels. Ask for the size first: memory is taken for as many as the header says. Raises ValueError for a damaged file."""
    height, width = size_of_png(data)
    _refuse_chunks(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.size != (width, height) or picture.mode != "RGB":  # a second header would be believed by Pillow
                raise ValueError(f"a file of two sizes, {width}x{height} and {picture.size[0]}x{picture.size[1]} pixels")
            return np.array(picture)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they come across: SyntaxError, struct.error, zlib.error, EOFError, ...
        raise ValueError(f"a damaged PNG file ({short(error)})") from error


def _refuse_chunks(data: bytes) -> None:
    """Counts what a decoder would unpack or keep beside the pixels: a few kilobytes of packed texts become hundreds of megabytes."""
    chunks, packed, place = 0, 0, len(_PNG)
    while place + _CHUNK.size <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        chunks, packed, place = chunks + 1, packed + (name in _PACKED), place + _CHUNK.size + length + 4
        if chunks > _MOST_CHUNKS or packed > _MOST_PACKED:
            raise ValueError(f"a PNG file of more than {_MOST_CHUNKS} chunks, or {_MOST_PACKED} texts and profiles; save the pixels alone")


# Answers -----------------------------------------------------------------------------------------------------------------------------


def detections_message(detections: Sequence[Detection]) -> list[dict[str, Any]]:
    """Detections as an answer has them."""
    return [{"box": [float(side) for side in d.box], "score": float(d.score), "phrase": d.phrase} for d in detections]


def read_detections(told: Any, phrases: Sequence[str]) -> list[Detection]:
    """The detections of an answer. Raises ValueError unless each has a box in the picture, a score in [0, 1] and an asked phrase."""
    if not isinstance(told, list):
        raise ValueError("detections that are no list")
    asked, found = set(phrases), []
    for index, one in enumerate(told):
        if not isinstance(one, dict) or set(one) != {"box", "score", "phrase"}:
            raise ValueError(f"detections[{index}] has not the fields box, score and phrase")
        box, score, phrase = one["box"], one["score"], one["phrase"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_share(side) for side in (*box, score)):
            raise ValueError(f"detections[{index}]: box {box!r:.100} and score {score!r:.30} are not five numbers in [0, 1]")
        if box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"detections[{index}]: the box {box} ends before it begins")
        if not isinstance(phrase, str) or phrase not in asked:
            raise ValueError(f"detections[{index}]: nobody asked for {phrase!r:.100}")
        found.append(Detection(box=tuple(float(side) for side in box), score=float(score), phrase=phrase))
    return found


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def read_features(cls: Any, patches: Any, count: int) -> Features:
    """The features of `count` pictures. Raises ValueError unless both arrays are whole, finite and belong together."""
    cls, patches = _read_array("cls", cls, 2), _read_array("patches", patches, 4)
    if len(cls) != count or len(patches) != count:
        raise ValueError(f"features of {len(cls)} and {len(patches)} pictures, {count} were sent")
    if cls.shape[1] != patches.shape[3]:
        raise ValueError(f"cls is {cls.shape[1]} wide, patches are {patches.shape[3]}")
    return Features(cls=cls, patches=patches)


def _read_array(name: str, told: Any, axes: int) -> Float[np.ndarray, "..."]:
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data"} or told["dtype"] != _FLOATS:
        raise ValueError(f"{name} is no array of {_FLOATS}")
    shape, data = told["shape"], told["data"]
    if not isinstance(shape, list) or len(shape) != axes or not all(type(side) is int and 0 < side < 1 << 31 for side in shape):
        raise ValueError(f"{name} has the shape {shape!r:.60}")
    data = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    if not isinstance(data, bytes) or len(data) != 4 * math.prod(shape):
        raise ValueError(f"{name} has not the bytes of its shape {shape}")
    array = np.frombuffer(data, _FLOATS).reshape(shape).astype(np.float32)  # a copy of one's own, to be written to
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return array
