"""The detector and the feature extractor that stand behind `python -m editr2_jax serve`, on this machine or on another.

What comes back is what the model gives in process, bit for bit, or a ServiceError: an answer that is not whole, not finite, of another
number of pictures, with a box outside the picture or from another model is no answer. Pictures travel as lossless PNG. With a cache nothing
is asked twice: detections are found by picture and phrases, features by their picture alone, so that a source picture and its crops are
embedded once for all rollouts and turns.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from editr2_jax.rewards.base import Detection, Features, ServiceError
from editr2_jax.services import answer_cache, wire
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.client import Client
from editr2_jax.services.endpoints import Endpoints, WrongServer
from editr2_jax.services.wire import MSGPACK

_MOST_BYTES = 30 << 20  # of the files of one request: noise takes three bytes a pixel, and a server refuses bodies above 32 MiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteDetectorConfig:
    """Which detector is asked."""

    model: str = ""  # as the server names it (URL/models); an endpoint that serves another one is an error

    def __post_init__(self):
        if not self.model:
            raise ValueError(f"{type(self).__name__}.model is empty; give the name that `editr2_jax serve` printed (see URL/models).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteFeaturesConfig(RemoteDetectorConfig):
    """Which feature extractor is asked, and how many pictures at a time: at most what the server takes."""

    max_pictures: int = 64
    max_pixels: int = 16 << 20  # together; a larger picture goes alone

    def __post_init__(self):
        super().__post_init__()
        if min(self.max_pictures, self.max_pixels) < 1:
            raise ValueError(f"RemoteFeaturesConfig: max_pictures={self.max_pictures}, max_pixels={self.max_pixels}; give at least 1.")


class _Remote(Client):
    """A model behind a pool."""

    def __init__(self, config: RemoteDetectorConfig, endpoints: Endpoints, *, cache: AnswerCache | None = None):
        super().__init__(endpoints, cache)
        self._config = config

    def _post(self, path: str, body: Mapping[str, Any], key: str, read: Callable[[Mapping[str, Any]], Any]) -> Any:
        return self._endpoints.post(path, body, key=key, read=lambda told: read(self._mine(told)), form=MSGPACK)

    def _mine(self, told: Any) -> Mapping[str, Any]:
        """An answer, if it is the model's."""
        if not isinstance(told, dict) or not isinstance(told.get("model"), str):
            raise ValueError("no answer of `editr2_jax serve`")
        if told["model"] != self._config.model:
            raise WrongServer(f"this endpoint serves {told['model']!r}, and {self._config.model!r} is asked for; correct model, or urls.")
        return told

    def _known(self, key: str, read: Callable[[Any], Any]) -> Any:
        """What the cache has; None where it has nothing. Raises ServiceError for what cannot be read, and in replay for what is missing."""
        kept = self._kept(key, f"what {self._config.model!r} was asked")
        try:
            return None if kept is None else read(kept)
        except ValueError as error:
            raise ServiceError(f"The answer cache holds what is no answer ({error}; key {key[:12]}); remove the file.") from error


class RemoteDetector(_Remote):
    """A detector behind HTTP."""

    def detect(self, picture: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        """All instances of all phrases. Raises ServiceError, saying why, when there is no answer."""
        about = {"model": self._config.model, "phrases": list(phrases)}
        key = answer_cache.key_of({"kind": "detect", **about}, [picture])
        return list(self._shared([key], lambda _: {key: self._found(picture, phrases, about, key)})[key])

    def _found(self, picture: np.ndarray, phrases: Sequence[str], about: Mapping[str, Any], key: str) -> list[Detection]:
        known = self._known(key, lambda kept: wire.read_detections(json.loads(kept), phrases))
        if known is not None:
            return known
        body = {"picture": wire.to_png(picture), "phrases": list(phrases)}
        found = self._post("/detect", body, key, lambda told: wire.read_detections(told.get("detections"), phrases))
        if self._cache is not None:
            self._cache.put(key, json.dumps(wire.detections_message(found)), about=about)
        return found


class RemoteFeatures(_Remote):
    """A feature extractor behind HTTP."""

    _config: RemoteFeaturesConfig

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Embeddings in order. Raises ServiceError, saying why, when there is no answer to one of them; ValueError for no picture."""
        if not pictures:
            raise ValueError("RemoteFeatures.embed wants at least one picture.")
        if self._cache is None:
            return self._asked(pictures)
        keys = [self._key([picture]) for picture in pictures]
        shown = dict(zip(keys, pictures, strict=True))
        known = self._shared(list(shown), lambda mine: self._found({key: shown[key] for key in mine}))
        return _joined([known[key] for key in keys])

    def _found(self, shown: Mapping[str, np.ndarray]) -> dict[str, Features]:
        """Features of each picture, from the cache or else from the server, and then kept."""
        known = {key: self._known(key, _unpacked) for key in shown}
        fresh = {key: picture for key, picture in shown.items() if known[key] is None}
        if fresh:
            told = self._asked(list(fresh.values()))
            for row, key in enumerate(fresh):
                known[key] = _unpacked(self._cache.put(key, _packed(told, row), about={"model": self._config.model}))
        return known

    def _asked(self, pictures: Sequence[np.ndarray]) -> Features:
        """From the server; small requests go as one, as they would in process."""
        return _joined([self._request(*chunk) for chunk in self._chunks(pictures)])

    def _request(self, pictures: Sequence[np.ndarray], files: Sequence[bytes]) -> Features:
        read = lambda told: wire.read_features(told.get("cls"), told.get("patches"), len(pictures))  # noqa: E731
        return self._post("/embed", {"pictures": files}, self._key(pictures), read)

    def _key(self, pictures: Sequence[np.ndarray]) -> str:
        return answer_cache.key_of({"kind": "embed", "model": self._config.model}, pictures)

    def _chunks(self, pictures: Sequence[np.ndarray]) -> Iterator[tuple[list[np.ndarray], list[bytes]]]:
        """The pictures in order and their files, in lists that a request may have."""
        chunk, files, pixels, size = [], [], 0, 0
        for picture in pictures:
            file, area = wire.to_png(picture), picture.shape[0] * picture.shape[1]
            full = len(chunk) == self._config.max_pictures or pixels + area > self._config.max_pixels or size + len(file) > _MOST_BYTES
            if chunk and full:
                yield chunk, files
                chunk, files, pixels, size = [], [], 0, 0
            chunk.append(picture)
            files.append(file)
            pixels, size = pixels + area, size + len(file)
        yield chunk, files


def _joined(parts: Sequence[Features]) -> Features:
    if len(shapes := {part.patches.shape[1:] for part in parts}) > 1:
        raise ServiceError(f"The feature extractor answers in several shapes, {sorted(shapes)}; let one name stand for one model.")
    return Features(cls=np.concatenate([part.cls for part in parts]), patches=np.concatenate([part.patches for part in parts]))


def _packed(features: Features, row: int) -> bytes:
    """One picture's features as the cache keeps them."""
    return MSGPACK.write({name: MSGPACK.array(getattr(features, name)[row : row + 1]) for name in ("cls", "patches")})


def _unpacked(kept: bytes) -> Features:
    told = MSGPACK.read(kept)
    if not isinstance(told, dict):
        raise ValueError("no features")
    return wire.read_features(told.get("cls"), told.get("patches"), 1)
