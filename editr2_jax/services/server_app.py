"""A detector or a feature extractor behind HTTP: `python -m editr2_jax serve`. The messages are those of wire.py.

    POST /v1/detect, /v1/embed   what the model says; a pure function of the body, so that asking twice does no harm
    GET /v1/models               the name under which it is asked; the clients' probe
    GET /health                  {"status": "ok"}, for whoever starts and watches processes; needs no token
    GET /metrics                 counts in Prometheus' text form

Whoever can reach the port is a stranger: a request costs bounded memory and time, is checked before it is decoded, and can name no file.
A refusal is JSON, {"error": {"status", "message"}}, that says what is wrong, where, and what to do. Who comes when the house is full
is told to come back: 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from editr2_jax.rewards.base import Detector, FeatureExtractor, Features
from editr2_jax.services import wire
from editr2_jax.services.server_line import Line
from editr2_jax.services.wire import JSON, MSGPACK, Form

_FORMS = {"application/json": JSON, "application/msgpack": MSGPACK, "application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}
_RETRY_AFTER_S = 1
_COMPLAIN_S = 10.0
_DROP_S = 10.0  # that the rest of a refused body is waited for
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost. At worst max_requests x max(9 max_body_bytes, 2 max_body_bytes + 10 max_pixels) bytes are held beside the
    model and the answers: 4.8 GB; the first is JSON in letters of four bytes, the second a picture while it is decoded."""

    max_body_bytes: int = 32 << 20
    max_pictures: int = 64  # of a request
    max_pixels: int = 16 << 20  # of all pictures of a request together, by their headers, before any is decoded
    max_phrases: int = 64
    max_phrase_chars: int = 200
    max_requests: int = 16  # read, waiting, being answered or not yet taking their answer, at a time
    body_s: float = 60.0  # from the first to the last byte of a body
    batch: int = 1  # pictures of waiting requests that are embedded in one call; above 1 last bits may depend on who else waits

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"the limit {field.name} is {getattr(self, field.name)}; give a positive number.")


class Refused(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, {name.replace("_", "-"): value for name, value in headers.items()}


@dataclasses.dataclass(frozen=True)
class _Service:
    """One kind of model: its route, what is asked of it and how it answers."""

    route: str
    fields: Mapping[str, Any]
    call: Callable[[Sequence[Any]], Sequence[Any]]
    message: Callable[[Any, Form], dict[str, Any]]
    most: int  # pictures of one call


def detector_app(detector: Detector, *, name: str, token: str = "", limits: Limits = Limits()) -> Starlette:
    """The server of a detector. token: that every request but /health must bear; empty: none is asked for."""
    call = lambda asked: [detector.detect(pictures[0], phrases) for pictures, phrases in asked]  # noqa: E731
    message = lambda found, form: {"detections": wire.detections_message(found)}  # noqa: E731
    return _App(_Service("detect", wire.DETECT, call, message, 1), name, token, limits).starlette()


def features_app(features: FeatureExtractor, *, name: str, token: str = "", limits: Limits = Limits()) -> Starlette:
    """The server of a feature extractor; as detector_app."""
    message = lambda told, form: {"cls": form.array(told.cls), "patches": form.array(told.patches)}  # noqa: E731
    call = lambda asked: _embed(features, [pictures for pictures, _ in asked])  # noqa: E731
    return _App(_Service("embed", wire.EMBED, call, message, limits.batch), name, token, limits).starlette()


def _embed(features: FeatureExtractor, asked: Sequence[Sequence[np.ndarray]]) -> list[Features]:
    """The features of several requests from one call."""
    pictures = [picture for pictures in asked for picture in pictures]
    told = features.embed(pictures)
    if not len(told.cls) == len(told.patches) == len(pictures):
        raise RuntimeError(f"features of {len(told.cls)} and {len(told.patches)} of {len(pictures)} pictures")
    ends = np.cumsum([len(pictures) for pictures in asked])[:-1]
    parts = zip(np.split(told.cls, ends), np.split(told.patches, ends), strict=True)
    return [Features(cls=cls, patches=patches) for cls, patches in parts]


class _App:
    def __init__(self, service: _Service, name: str, token: str, limits: Limits):
        self._service, self._name, self._limits = service, name, limits
        self._token = hashlib.sha256(token.encode()).digest() if token else b""
        self._line = Line(service.call, most=service.most)
        self._requests: collections.Counter[tuple[str, int]] = collections.Counter()  # (route, status)
        self._counts: collections.Counter[str] = collections.Counter()
        self._inside, self._complain_at = 0, 0.0

    def starlette(self) -> Starlette:
        """The application."""
        routes = [
            self._route(f"/v1/{self._service.route}", "POST", self._answer),
            self._route("/v1/models", "GET", self._models),
            self._route("/health", "GET", self._health, guarded=False),
            self._route("/metrics", "GET", self._metrics),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._elsewhere}, lifespan=self._lifespan)
        app.router.redirect_slashes = False  # to wherever the header Host says
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self._line.close()

    def _route(self, path: str, method: str, answer: Callable, *, guarded: bool = True) -> Route:
        """A path whose refusals are JSON and which is counted; guarded: by the token."""

        async def endpoint(request: Request) -> Response:
            body = _Body(request)
            try:
                self._refuse_stranger(request, guarded)
                response = await answer(request, body)
            except Refused as refused:
                response = await self._refusal(refused, body)
            except ClientDisconnect:
                response = Response(status_code=499)  # nginx's number for who hung up; nobody reads it
            except Exception as error:
                self._complain("a request failed")
                response = await self._refusal(Refused(500, f"The server failed ({type(error).__name__}); its log says where."), body)
            self._requests[path, response.status_code] += 1
            return response

        return Route(path, endpoint, methods=[method])

    async def _elsewhere(self, request: Request, error: HTTPException) -> Response:
        """Paths and methods that are not there."""
        here = f"POST /v1/{self._service.route}, GET /v1/models, /health and /metrics"
        said = f"{wire.short(request.method)} {wire.short(request.url.path)} is not there; this server answers {here}."
        self._requests["other", error.status_code] += 1
        return await self._refusal(Refused(error.status_code, said, **(error.headers or {})), _Body(request))

    async def _refusal(self, refused: Refused, body: _Body) -> Response:
        """What a request gets instead of an answer. The connection ends with it where the body was too long to be read and dropped."""
        content = JSON.write({"error": {"status": refused.status, "message": refused.message}})
        whole = await body.drop(self._limits.max_body_bytes, min(self._limits.body_s, _DROP_S))
        headers = refused.headers if whole else {"Connection": "close", **refused.headers}
        return Response(content, status_code=refused.status, media_type=JSON.media_type, headers=headers)

    def _refuse_stranger(self, request: Request, guarded: bool) -> None:
        if "origin" in request.headers:  # whatever page a browser on this machine shows could otherwise ask
            raise Refused(403, "Requests from web pages (header Origin) are not answered; ask from a program.")
        if not guarded or not self._token:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(hashlib.sha256(given.strip().encode("latin-1")).digest(), self._token)
        if scheme.lower() != "bearer" or not right:
            said = "The token is missing or wrong; send the header Authorization: Bearer TOKEN (clients: token_env)."
            raise Refused(401, said, WWW_Authenticate="Bearer")

    def _complain(self, what: str) -> None:
        """Tells the log of the exception at hand, now and then: who can make a model fail should not fill the disk as well."""
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_S
            _log.exception("%s (more of these are not told for %g s)", what, _COMPLAIN_S)

    # The routes ----------------------------------------------------------------------------------------------------------------------

    async def _health(self, *_: Any) -> Response:
        return _json({"status": "ok"})

    async def _models(self, *_: Any) -> Response:
        return _json({"object": "list", "data": [{"id": self._name, "object": "model", "owned_by": "editr2_jax"}]})

    async def _metrics(self, *_: Any) -> Response:
        lines = ["# TYPE editr2_requests_total counter"]
        lines += [f'editr2_requests_total{{path="{path}",status="{status}"}} {n}' for (path, status), n in sorted(self._requests.items())]
        counted = {"pictures": self._counts["pictures"], "body_bytes": self._counts["body_bytes"]}
        counted |= {"model_calls": self._line.calls, "model_seconds": round(self._line.seconds, 6)}
        for name, count in counted.items():
            lines += [f"# TYPE editr2_{name}_total counter", f"editr2_{name}_total {count}"]
        lines += ["# TYPE editr2_requests_inside gauge", f"editr2_requests_inside {self._inside}", ""]
        return Response("\n".join(lines), media_type="text/plain; version=0.0.4")

    async def _answer(self, request: Request, body: _Body) -> Response:
        form = _form_of(request)
        if self._inside >= self._limits.max_requests:
            said = f"{self._inside} requests are being answered, which is all that this server takes (--max-requests); come back later."
            raise Refused(503, said, Retry_After=str(_RETRY_AFTER_S))
        self._inside += 1
        try:
            content = await body.whole(self._limits)
            self._counts["body_bytes"] += len(content)
            asked = await run_in_threadpool(self._read, content, form)
            self._counts["pictures"] += len(asked[0])
            content = b""  # not held while the model is waited for
            told = await self._told(request, asked)
            answer = _answer_form(request)
            content = await run_in_threadpool(self._write, told, answer)
        except BaseException:
            self._leave()
            raise
        return _Answer(content, answer.media_type, self._leave)

    def _leave(self) -> None:
        self._inside -= 1

    def _read(self, body: bytes, form: Form) -> tuple[list[np.ndarray], list[str]]:
        """(pictures, phrases) of a body, decoded after everything else was checked."""
        limits = self._limits
        try:
            said = wire.read_request(body, form, self._service.fields, most=max(limits.max_pictures, limits.max_phrases))
        except ValueError as error:
            raise Refused(400, f"{error}.") from error
        files = [said["picture"]] if "picture" in said else said["pictures"]
        _refuse_phrases(said.get("phrases", []), limits)
        if not 0 < len(files) <= limits.max_pictures:
            raise Refused(400, f"pictures: {len(files)} of them; send 1 to {limits.max_pictures} in a request (--max-pictures).")
        _refuse_pixels(files, limits)
        pictures = []
        for index, data in enumerate(files):
            try:
                pictures.append(wire.from_png(data))
            except ValueError as error:
                raise Refused(400, f"pictures[{index}]: {error}.") from error
        return pictures, said.get("phrases", [])

    async def _told(self, request: Request, asked: tuple[list[np.ndarray], list[str]]) -> Any:
        """What the model says; given up where the client hangs up before its turn has come."""
        waiting = asyncio.ensure_future(self._line.ask(asked, size=len(asked[0])))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            return waiting.result()
        except ValueError as error:  # the model's own words on what it was asked
            raise Refused(422, f"The {self._service.route} model does not take this: {wire.short(error)}") from error
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            self._complain("the model failed")
            raise Refused(500, f"The model failed ({type(error).__name__}); the server's log says where.") from error
        finally:
            waiting.cancel()
            gone.cancel()

    def _write(self, told: Any, form: Form) -> bytes:
        try:
            return form.write({"model": self._name, **self._service.message(told, form)})
        except ValueError as error:
            self._complain("the model's answer cannot be sent")
            raise Refused(500, f"The model's answer cannot be sent: {wire.short(error)}.") from error


class _Body:
    """A body as it comes. It is counted: the length that it says is only a reason to refuse it sooner."""

    def __init__(self, request: Request):
        self._receive, self._ended = request.receive, False
        told = request.headers.get("content-length", "0")
        self.told = int(told) if told.isdecimal() and len(told) < 20 else math.inf

    async def parts(self) -> AsyncIterator[bytes]:
        """What comes, piece by piece. Raises ClientDisconnect."""
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._ended = not message.get("more_body", False)
            yield message.get("body", b"")

    async def whole(self, limits: Limits) -> bytes:
        """All of it. Raises Refused for one that is too long or too slow."""
        most = limits.max_body_bytes
        too_long = Refused(413, f"The body is longer than {most} bytes (--max-body-bytes); send fewer or smaller pictures in a request.")
        if self.told > most:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_s):
                async for part in self.parts():
                    body += part
                    if len(body) > most:
                        raise too_long
        except TimeoutError:
            raise Refused(408, f"The body did not come within {limits.body_s:g} s (--body-s); send less at a time.") from None
        return bytes(body)

    async def drop(self, most: int, seconds: float) -> bool:
        """Reads on, keeping nothing: who is still sending would not see why it is refused. Returns whether the end came in time."""
        if self.told > 2 * most:
            return False
        size = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(seconds):
                async for part in self.parts():
                    size += len(part)
                    if size > 2 * most:
                        break
        return self._ended


class _Answer(Response):
    """What the model says. The request is inside until its client has taken it: features are large, and wait in memory."""

    def __init__(self, content: bytes, media_type: str, leave: Callable[[], None]):
        super().__init__(content, media_type=media_type)
        self._leave = leave

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Sends it; the server waits with the last message for room in the connection's buffer."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            content, self.body = self.body, b""
            await send({"type": "http.response.body", "body": content, "more_body": True})
            content = b""
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._leave()


def _json(message: Any) -> Response:
    return Response(JSON.write(message), media_type=JSON.media_type)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _form_of(request: Request) -> Form:
    """How the body is written, by its headers. Raises Refused for what is no msgpack or JSON, or packed."""
    headers = request.headers
    kind = _media_type(headers.get("content-type", ""))
    if kind not in _FORMS:
        said = f"Content-Type is {wire.short(kind) if kind else 'not given'}; send application/msgpack or application/json (never pickles)."
        raise Refused(415, said)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "Content-Encoding: packed bodies are not taken, as a small one can unpack to any size; send it as it is.")
    if "content-length" in headers and "transfer-encoding" in headers:
        raise Refused(400, "Content-Length and Transfer-Encoding contradict each other; send one of them.")
    return _FORMS[kind]


def _answer_form(request: Request) -> Form:
    """The first form that the header Accept names; JSON where it names none."""
    accepted = [_media_type(part) for part in request.headers.get("accept", "").split(",")]
    return next((_FORMS[kind] for kind in accepted if kind in _FORMS), JSON)


def _refuse_phrases(phrases: Sequence[str], limits: Limits) -> None:
    if len(phrases) > limits.max_phrases:
        raise Refused(400, f"phrases: {len(phrases)} of them; send at most {limits.max_phrases} (--max-phrases).")
    for index, phrase in enumerate(phrases):
        if not phrase.strip() or len(phrase) > limits.max_phrase_chars or not phrase.isprintable():
            said = f"give 1 to {limits.max_phrase_chars} printable characters (--max-phrase-chars)."
            raise Refused(400, f"phrases[{index}]: {wire.short(phrase)!r} of {len(phrase)} characters; {said}")


def _refuse_pixels(files: Sequence[bytes], limits: Limits) -> None:
    """Looks at the headers alone: a picture of any size may hide in a few bytes."""
    pixels = 0
    for index, data in enumerate(files):
        try:
            height, width = wire.size_of_png(data)
        except ValueError as error:
            raise Refused(400, f"pictures[{index}]: {error}.") from error
        pixels += height * width
        if pixels > limits.max_pixels:
            said = f"with {width}x{height} pixels the request has {pixels}, more than {limits.max_pixels} (--max-pixels)"
            raise Refused(413, f"pictures[{index}]: {said}; send smaller or fewer pictures.")


async def _gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
