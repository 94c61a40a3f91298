"""One pool of endpoints, OpenAI's protocol or that of wire.py: a question goes to the least busy one that is well, until one answers it.

    what happened                                  what follows
    timeout, connection lost, 5xx, unreadable      tried again elsewhere or later, `retries` times; counts against the endpoint
    429, and 503 with Retry-After                  the endpoint rests for as long as it says, `backoff_s` at least; costs no try, but ends
                                                   after `outage_s`
    any other 4xx, a redirect, too long an answer,
    a server of another model                      an error at once: the same request would be refused again
    all endpoints down for `outage_s`              an error at once, until one of them answers a probe; after a while without
                                                   questions, as soon as the probe has failed
Whatever ends without an answer raises ServiceError. Requests run on one asyncio loop in a thread of its own; callers are threads and wait.
Pictures leave the machine and a token goes with them, so hosts other than this one must be allowed by name of the setting `remote`.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import math
import os
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from editr2_jax.rewards.base import ServiceError
from editr2_jax.services.health import Health
from editr2_jax.services.wire import JSON, Form

T = TypeVar("T")
_SHOWN = 300  # characters of a server's words that an error repeats
_PROBE_S = 10.0  # an endpoint that cannot list its models by then is not well


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointsConfig:
    """Where the servers are and how patiently they are asked. None of it decides an answer, so a resumed run may change it."""

    urls: tuple[str, ...] = ("http://127.0.0.1:8000/v1",)  # as the server prints them, up to and with /v1
    remote: bool = False  # whether a URL may name another machine
    token_env: str = ""  # name of the environment variable that holds the bearer token; empty: none is sent
    concurrency: int = 8  # requests at a time, per endpoint
    connect_s: float = 5.0
    timeout_s: float = 120.0  # of one request, from first to last byte
    retries: int = 4  # after the first try
    backoff_s: float = 0.5  # before the first retry; doubled each time, and drawn from half of it to all of it
    backoff_max_s: float = 30.0  # also the longest that a Retry-After is obeyed
    breaker_failures: int = 3  # in a row, until an endpoint is left alone; above `retries` a slow start is not waited for
    breaker_s: float = 5.0  # until it is probed
    outage_s: float = 300.0  # without any endpoint that a question waits for; loading a large model takes minutes
    max_response_bytes: int = 1_000_000
    jitter_seed: int = 0

    def __post_init__(self):
        if not self.urls:
            raise ValueError("EndpointsConfig.urls is empty; give at least one, such as http://127.0.0.1:8000/v1.")
        for url in self.urls:
            _refuse_url(url, remote=self.remote)
        for name in ("concurrency", "breaker_failures", "max_response_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"EndpointsConfig.{name} is {getattr(self, name)}; give at least 1.")
        for name in ("connect_s", "timeout_s", "backoff_s", "backoff_max_s", "breaker_s", "outage_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"EndpointsConfig.{name} is {getattr(self, name)}; give a positive number of seconds.")
        if self.retries < 0:
            raise ValueError(f"EndpointsConfig.retries is {self.retries}; give 0 or more.")


class WrongServer(ValueError):
    """An answer that shows another server than the one that is asked for; to ask it again changes nothing."""


class _Failed(Exception):
    """One request without an answer."""

    def __init__(self, kind: str, why: str, *, rest_s: float | None = None):
        super().__init__(why)
        self.kind, self.rest_s = kind, rest_s


@dataclasses.dataclass(frozen=True)
class _Question:
    """A request as it is sent, every time that it is."""

    path: str
    body: bytes
    key: str
    form: Form
    read: Callable[[Any], Any]


class Endpoints:
    """The pool. Safe to use from many threads; starts its own with the first request. Close it, or use it as a context manager."""

    def __init__(self, config: EndpointsConfig):
        """Raises ValueError where `token_env` names a variable that is not set."""
        self._config, self._token = config, _token(config.token_env)
        self._health = [Health(url.rstrip("/"), config.concurrency, config.breaker_failures, config.breaker_s) for url in config.urls]
        self._chance = random.Random(config.jitter_seed)
        self._waiting: collections.deque[asyncio.Future[Health]] = collections.deque()  # questions, first come first served
        self._down_since: float | None = None  # no circuit is closed
        self._probes: set[asyncio.Task] = set()  # the loop itself holds tasks by weak references alone
        self._alarm: asyncio.TimerHandle | None = None
        self._counts: collections.Counter[str] = collections.Counter()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    def __enter__(self) -> Endpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, path: str, body: Mapping[str, Any], *, key: str, read: Callable[[Any], T], form: Form = JSON) -> T:
        """Sends a body to `path` below an endpoint's URL and waits for what `read` makes of the message that comes back.

        Args:
            key: names the request, the same at every try, so that a server or a gateway can tell a repetition (Idempotency-Key).
            read: raises ValueError for a message that is no answer; that is tried again like a broken one, unless it is WrongServer.
            form: how both are written.
        Raises ServiceError when no endpoint answers.
        """
        question = _Question(path, form.write(body), key, form, read)
        with self._starting:  # nobody can close the loop between the check and the sending
            loop = self._running()
            sent = asyncio.run_coroutine_threadsafe(self._answer(question), loop)
        try:
            return sent.result()
        except concurrent.futures.CancelledError:
            raise ServiceError("The pool of endpoints was closed before the answer came.") from None

    def counters(self) -> dict[str, float]:
        """Counts since the start: requests, answers, retries, rests, probes, failures by class, circuits opened, seconds of answers."""
        opened = sum(health.opened for health in self._health)
        return {name: float(count) for name, count in self._counts.copy().items()} | ({"circuits_opened": float(opened)} if opened else {})

    def close(self) -> None:
        """Ends the loop; whoever still waits gets a ServiceError."""
        with self._starting:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    # In the loop ---------------------------------------------------------------------------------------------------------------------

    async def _answer(self, question: _Question) -> Any:
        tries, busy_since = 0, None
        while True:
            health = await self._place()
            try:
                return await self._counted(health, question)
            except _Failed as failed:
                failure = failed
            finally:
                health.in_flight -= 1
                self._dispatch()
            if failure.rest_s is not None:  # it is well but busy
                busy_since = self._now() if busy_since is None else busy_since
                if self._now() - busy_since > self._config.outage_s:
                    raise ServiceError(f"{health.url} has been busy for more than {self._config.outage_s:g} s: {failure}")
                continue
            tries += 1
            if failure.kind in ("refused", "too_large"):
                raise ServiceError(f"{health.url}{question.path}: {failure}")
            if tries > self._config.retries:
                raise ServiceError(f"{health.url}{question.path}: no answer after {tries} tries; the last one: {failure}")
            self._counts["retries"] += 1
            await asyncio.sleep(self._backoff(tries - 1))

    async def _counted(self, health: Health, question: _Question) -> Any:
        """One request, and what it tells about the endpoint."""
        self._counts["requests"] += 1
        started = self._now()
        try:
            answer = await self._once(health.url + question.path, question)
        except _Failed as failure:
            self._counts[f"failures_{failure.kind}"] += 1
            if failure.rest_s is not None:
                self._counts["rests"] += 1
                health.answered()
                health.rest(self._now() + failure.rest_s)
            elif failure.kind in ("refused", "too_large"):
                health.answered()
            else:
                health.failed(self._now(), str(failure))
            raise
        health.answered()
        self._counts["answers"] += 1
        self._counts["answer_seconds"] += self._now() - started
        return answer

    async def _once(self, url: str, question: _Question) -> Any:
        form = question.form.media_type
        headers = {"Content-Type": form, "Accept": form, "Idempotency-Key": question.key, **self._headers()}
        request = {"content": question.body, "headers": headers}
        try:
            async with asyncio.timeout(self._config.timeout_s), self._client.stream("POST", url, **request) as response:
                content = await self._content(response)
        except httpx2.ConnectTimeout as error:
            raise _Failed("connection", f"no connection within {self._config.connect_s:g} s") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Failed("timeout", f"no answer within {self._config.timeout_s:g} s ({type(error).__name__})") from error
        except httpx2.HTTPError as error:
            raise _Failed("connection", f"connection lost or refused ({type(error).__name__}: {self._short(str(error))})") from error
        self._refuse_status(response, content)
        try:
            return question.read(question.form.read(content))
        except WrongServer as error:
            raise _Failed("refused", str(error)) from error
        except (ValueError, RecursionError) as error:
            raise _Failed("malformed", f"the answer cannot be read ({self._short(str(error))})") from error

    async def _content(self, response: httpx2.Response) -> bytes:
        limit = self._config.max_response_bytes
        if response.headers.get("Content-Encoding", "identity") != "identity":  # it was told not to: a small body could unpack to anything
            raise _Failed("refused", "the answer is compressed although plain bytes were asked for; turn compression off in the server")
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > limit:
                raise _Failed(
                    "too_large", f"the answer is longer than max_response_bytes={limit}; lower max_tokens (of a judge), or raise the limit"
                )
        return bytes(content)

    def _refuse_status(self, response: httpx2.Response, content: bytes) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        said = f"status {status}: {self._short(content.decode(errors='replace'))}"
        rest = _retry_after(response)
        if status == 429 or (status == 503 and rest is not None):
            wait = (
                self._backoff(self._chance.randint(0, 2)) if rest is None else min(max(rest, self._backoff(0)), self._config.backoff_max_s)
            )
            raise _Failed("busy", said, rest_s=wait)
        if status == 408 or status >= 500:
            raise _Failed("timeout" if status == 408 else "server_error", said)
        if status in (401, 403):
            said += " Name the environment variable that holds the server's token in token_env."
        raise _Failed("refused", said)

    async def _place(self) -> Health:
        """An endpoint that takes one more request. Raises ServiceError when there has been none for `outage_s`."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._dispatch()
        return await waiting

    def _dispatch(self) -> None:
        """Gives places to those that wait; probes what may have come back; sets the alarm for what comes next."""
        now = self._now()
        while self._waiting and (ready := [health for health in self._health if health.has_place(now)]):
            question = self._waiting.popleft()
            if not question.done():
                health = min(ready, key=lambda health: health.in_flight)
                health.in_flight += 1
                question.set_result(health)
        for health in self._health:
            if self._waiting and health.due_for_probe(now):
                health.probing = True
                probe = asyncio.get_running_loop().create_task(self._probe(health))
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
        self._note_outage(now)
        if self._alarm is not None:
            self._alarm.cancel()
        moments = [health.rest_until if health.closed else health.open_until for health in self._health]
        moments += [] if self._down_since is None else [self._down_since + self._config.outage_s]
        if self._waiting and (later := [moment for moment in moments if moment > now]):
            self._alarm = asyncio.get_running_loop().call_at(min(later) + 1e-3, self._dispatch)  # past the clock's own grain

    def _note_outage(self, now: float) -> None:
        if any(health.closed for health in self._health):
            self._down_since = None
            return
        self._down_since = now if self._down_since is None else self._down_since
        if any(health.probing and now > health.open_until + _PROBE_S for health in self._health):
            return  # nobody has asked for a while: it may be back, and is being asked
        if now - self._down_since >= self._config.outage_s:
            last = "; ".join(f"{health.url}: {health.last_failure}" for health in self._health)
            while self._waiting:
                question = self._waiting.popleft()
                if not question.done():
                    self._counts["failures_outage"] += 1
                    question.set_exception(ServiceError(f"No endpoint has answered for {self._config.outage_s:g} s ({last})."))

    async def _probe(self, health: Health) -> None:
        """A light request, before questions with pictures are sent again."""
        self._counts["probes"] += 1
        try:
            async with asyncio.timeout(min(_PROBE_S, self._config.timeout_s)):
                async with self._client.stream("GET", f"{health.url}/models", headers=self._headers()) as response:
                    status = response.status_code
            if status >= 500:
                raise _Failed("server_error", f"status {status} to a probe")
            health.revived()
        except (TimeoutError, httpx2.HTTPError, _Failed) as error:
            health.not_revived(self._now(), f"{type(error).__name__}: {self._short(str(error))}")
        self._dispatch()

    # Around it -----------------------------------------------------------------------------------------------------------------------

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, started by the first who needs it."""
        if self._closed:
            raise ServiceError("The pool of endpoints is closed.")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._config.timeout_s, connect=self._config.connect_s, pool=None),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self._config.concurrency * len(self._health)),
                headers={"Accept-Encoding": "identity", "User-Agent": "editr2_jax"},
                follow_redirects=False,  # a redirect would take pictures and token to another host
                trust_env=False,  # a proxy of the environment would see them
            )
            self._thread = threading.Thread(target=self._loop.run_forever, name="endpoints", daemon=True)
            self._thread.start()
        return self._loop

    async def _end(self) -> None:
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(httpx2.HTTPError):
            await self._client.aclose()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _backoff(self, number: int) -> float:
        """Seconds before retry `number`, counted from 0; seeded, and never in step with the others'."""
        return min(self._config.backoff_s * 2**number, self._config.backoff_max_s) * self._chance.uniform(0.5, 1.0)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _short(self, text: str) -> str:
        """A server's words in one line, cut, and without the token should it repeat it."""
        text = " ".join((text.replace(self._token, "***") if self._token else text).split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _refuse_url(url: str, *, remote: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"EndpointsConfig.urls has {url!r}; give http://HOST:PORT/v1 or https://HOST/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.hostname}"
        raise ValueError(
            f"EndpointsConfig.urls: the URL of {shown} carries a user, a password, a query or a fragment; put the token into token_env."
        )
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"EndpointsConfig.urls has {url!r}: {error}; give http://HOST:PORT/v1 or https://HOST/v1.") from error
    if not remote and not _is_here(parts.hostname):
        raise ValueError(
            f"EndpointsConfig.urls has {url!r}, which is another machine: pictures and token would go there. If they may, set remote=True."
        )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(name: str) -> str:
    if not name:
        return ""
    token = os.environ.get(name, "").strip()
    if not token:
        raise ValueError(f"EndpointsConfig.token_env names {name!r}, which is not set in the environment; export it before the start.")
    if not token.isascii() or not token.isprintable() or " " in token:  # no header holds it, and whoever says so would repeat it
        raise ValueError(f"EndpointsConfig.token_env: the token in {name!r} is not printable ASCII without spaces; correct the variable.")
    return token


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to be left alone; None where it does not say (a date is not read: clocks differ)."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
