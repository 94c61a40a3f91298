"""The pool: what is tried again, what is not, who is asked, and what never leaves the machine."""

import socket
import threading
import time

import pytest
from judge_server import JudgeServer, pool

from editr2_jax.rewards.base import ServiceError
from editr2_jax.services.endpoints import Endpoints, EndpointsConfig
from editr2_jax.services.health import Health


def ask(endpoints, key="k", read=lambda answer: answer["choices"][0]["message"]["content"]):
    body = {"messages": [{"role": "user", "content": [PIXEL, {"type": "text", "text": "?"}]}]}
    return endpoints.post("/chat/completions", body, key=key, read=read)


PIXEL = {  # a black picture of 1 x 1: even, so the answer is yes
    "type": "image_url",
    "image_url": {
        "url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgYGAAAAAEAAEo5Bh2AAAAAElFTkSuQmCC"
    },
}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *(("error", "server_error"), ("reset", "connection"), ("malformed", "malformed"), ("deep", "malformed")),
        *(("schemaless", "malformed"), ("null", "malformed"), ("busy", "busy")),
    ],
)
def test_what_may_pass_is_tried_again_under_the_same_key(server, fault, kind):
    server.control(script=[fault, fault])
    with pool(server) as endpoints:
        assert ask(endpoints, read=text_of) == "yes"
        counts = endpoints.counters()
    assert counts["requests"] == 3 and counts[f"failures_{kind}"] == 2 and counts["answers"] == 1 and counts["answer_seconds"] > 0
    assert counts.get("retries", 0) == (0 if kind == "busy" else 2) and counts.get("rests", 0) == (2 if kind == "busy" else 0)
    assert [question["key"] for question in server.questions()] == ["k"] * 3


def text_of(answer):
    text = answer["choices"][0]["message"]["content"] if "choices" in answer else None
    if not isinstance(text, str):
        raise ValueError("no text")
    return text


def test_a_timeout_is_tried_again(server):
    server.control(script=["hang"])
    with pool(server, timeout_s=1.0) as endpoints:
        assert ask(endpoints) == "yes" and endpoints.counters()["failures_timeout"] == 1


def test_a_host_that_does_not_take_the_connection_is_given_up_soon():
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for one in (first, second):  # nobody accepts them, so that the queue is full
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        settings = EndpointsConfig(urls=(url,), connect_s=0.3, timeout_s=600.0, retries=0)
        with Endpoints(settings) as endpoints, pytest.raises(ServiceError, match="no connection within 0.3 s"):
            ask(endpoints)


def test_waits_grow_up_to_a_cap_and_are_drawn_from_a_seed():
    waits = lambda seed: [Endpoints(EndpointsConfig(backoff_max_s=3.0, jitter_seed=seed))._backoff(n) for n in range(6)]  # noqa: E731
    assert waits(0) == waits(0) != waits(1)
    assert all(top / 2 <= wait <= top for wait, top in zip(waits(0), (0.5, 1.0, 2.0, 3.0, 3.0, 3.0), strict=True))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuse", r"status 401: .*no such token: .* token_env"),
        ("endless", "longer than max_response_bytes=100000; lower max_tokens"),
        ("compressed", "the answer is compressed"),
        ("redirect", "status 307"),
    ],
)
def test_what_would_be_refused_again_is_an_error_at_once(server, fault, message):
    server.control(script=[fault])
    with pool(server, max_response_bytes=100_000) as endpoints:
        with pytest.raises(ServiceError, match=message):
            ask(endpoints)
        assert endpoints.counters()["requests"] == 1 and len(server.questions()) == 1
        assert ask(endpoints) == "yes", "the endpoint itself is well"


def test_tries_end(server):
    server.control(shares={"error": 1.0})
    with (
        pool(server, retries=2, breaker_failures=9) as endpoints,
        pytest.raises(ServiceError, match="no answer after 3 tries; .*out of memory"),
    ):
        ask(endpoints)
    assert len(server.questions()) == 3


def test_a_server_that_stays_busy_is_an_error_in_the_end(server):
    server.control(shares={"busy": 1.0})
    with pool(server, outage_s=0.5) as endpoints, pytest.raises(ServiceError, match="busy for more than 0.5 s: status 429"):
        ask(endpoints)


def test_a_busy_server_is_not_asked_without_a_pause_whatever_it_says(server):
    server.control(shares={"busy": 1.0}, retry_after=0)
    with pool(server, outage_s=1.0, backoff_s=0.2) as endpoints, pytest.raises(ServiceError, match="busy for more than 1 s"):
        ask(endpoints)
    assert len(server.questions()) <= 12


@pytest.mark.parametrize(("asked", "cap", "least", "most"), [(1, 30.0, 1.0, 20.0), (3600, 0.3, 0.3, 20.0)])
def test_retry_after_is_obeyed_up_to_a_cap(server, asked, cap, least, most):
    server.control(script=["busy"], retry_after=asked)
    with pool(server, backoff_max_s=cap) as endpoints:
        started = time.monotonic()
        assert ask(endpoints) == "yes"
    assert least <= time.monotonic() - started < most


def test_the_token_goes_to_the_server_and_into_no_message(server, monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "very-hidden")
    server.control(script=["refuse"])
    with pool(server, token_env="JUDGE_TOKEN") as endpoints, pytest.raises(ServiceError) as caught:
        ask(endpoints)
    assert "no such token: Bearer ***" in str(caught.value) and "very-hidden" not in repr(caught.value) + repr(endpoints._config)
    monkeypatch.delenv("JUDGE_TOKEN")
    with pytest.raises(ValueError, match="token_env names 'JUDGE_TOKEN', which is not set"):
        pool(server, token_env="JUDGE_TOKEN")


@pytest.mark.parametrize("token", ["line\nand-line", "tokenw\u00f6rd", "two words"])
def test_a_token_that_no_header_holds_is_refused_and_not_repeated(server, monkeypatch, token):
    """The error of whoever builds the header would show it, and an error is written into the records of a run."""
    monkeypatch.setenv("JUDGE_TOKEN", token)
    with pytest.raises(ValueError, match="the token in 'JUDGE_TOKEN' is not printable ASCII without spaces") as caught:
        with pool(server, token_env="JUDGE_TOKEN") as endpoints:
            ask(endpoints)
    assert not any(part in repr(caught.value) for part in ("and-line", "tokenw", "two words"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": ()}, "urls is empty"),
        ({"urls": ("127.0.0.1:8000",)}, "give http://HOST:PORT/v1"),
        ({"urls": ("http://judge.example/v1",)}, "another machine: .* set remote=True"),
        ({"urls": ("http://10.0.0.7:8000/v1",)}, "another machine"),
        ({"urls": ("http://me:pass@localhost:8000/v1",)}, "put the token into token_env"),
        ({"urls": ("http://localhost:8000/v1#judge",)}, "a query or a fragment"),
        ({"urls": ("http://localhost:80000/v1",)}, "80000/v1': Port out of range 0-65535; give http://HOST:PORT/v1"),
        ({"urls": ("http://localhost:none/v1",)}, "Port could not be cast.*; give http://HOST:PORT/v1"),
        ({"concurrency": 0}, "concurrency is 0; give at least 1"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0; give a positive number of seconds"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_settings_that_mean_nothing_or_leave_the_machine_unasked_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        EndpointsConfig(**settings)
    assert "me:pass" not in str(caught.value)


def test_this_machine_and_allowed_others_are_not_refused():
    EndpointsConfig(urls=("http://localhost:1/v1", "http://[::1]:1/v1", "http://127.3.0.1/v1"))
    EndpointsConfig(urls=("https://judge.example/v1",), remote=True)


def test_no_more_than_its_places_at_a_time_and_nobody_is_left_out(server):
    server.control(delay_s=0.05, capacity=3)
    with pool(server, concurrency=3) as endpoints:
        answers = together(lambda number: ask(endpoints, key=str(number)), 24)
        assert answers == ["yes"] * 24 and "failures_busy" not in endpoints.counters()
    assert len({question["key"] for question in server.questions()}) == len(server.questions()) == 24


def test_the_least_busy_endpoint_that_is_well_is_asked(server, tmp_path):
    with JudgeServer(tmp_path / "other.jsonl") as other:
        server.control(delay_s=0.3)
        with pool(server, other, concurrency=2) as endpoints:
            assert together(lambda number: ask(endpoints, key=str(number)), 24) == ["yes"] * 24
        assert 0 < len(server.questions()) < len(other.questions())


def test_what_one_endpoint_cannot_answer_another_does(server, tmp_path):
    with JudgeServer(tmp_path / "other.jsonl") as other:
        server.control(shares={"error": 1.0})
        with pool(server, other, breaker_s=60.0) as endpoints:
            assert together(lambda number: ask(endpoints, key=str(number)), 40) == ["yes"] * 40
            assert endpoints.counters()["circuits_opened"] == 1
        assert len(server.questions()) < 20 and len(other.questions()) == 40


def test_while_all_are_down_questions_wait_and_then_fail_fast_until_one_is_back(server):
    with pool(server, outage_s=3.0, breaker_failures=1) as endpoints:
        assert ask(endpoints) == "yes"
        server.kill()
        with pytest.raises(ServiceError, match=r"No endpoint has answered for 3 s \(http://127.0.0.1:\d+/v1: "):
            ask(endpoints)
        started = time.monotonic()
        with pytest.raises(ServiceError, match="No endpoint has answered"):
            ask(endpoints)
        assert time.monotonic() - started < 2.7, "it does not wait again"
        server.start()
        for _ in range(100):  # each of them may start a probe
            try:
                assert ask(endpoints) == "yes"
                break
            except ServiceError:
                time.sleep(0.1)
        else:
            raise AssertionError("the server is back, and nobody notices")
        counts = endpoints.counters()
    assert counts["failures_outage"] >= 2 and counts["probes"] >= 2 and counts["circuits_opened"] == 1


def test_after_a_while_without_questions_the_first_one_waits_for_the_probe(server):
    """Between two steps a judge may have been started again: who comes first is not told of an outage that is over."""
    with pool(server, outage_s=0.5, breaker_failures=1) as endpoints:
        server.kill()
        with pytest.raises(ServiceError, match="No endpoint has answered for 0.5 s"):
            ask(endpoints)
        server.start()
        (health,) = endpoints._health
        health.open_until, endpoints._down_since = health.open_until - 600, endpoints._down_since - 600
        assert ask(endpoints) == "yes"


def test_closing_ends_what_waits(server):
    server.control(shares={"hang": 1.0})
    endpoints, caught = pool(server), []

    def wait():
        try:
            ask(endpoints)
        except ServiceError as error:
            caught.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while not server.questions():
        time.sleep(0.02)
    endpoints.close()
    thread.join(timeout=30)
    assert caught == ["The pool of endpoints was closed before the answer came."]
    with pytest.raises(ServiceError, match="is closed"):
        ask(endpoints)
    endpoints.close()  # twice is once


def test_an_unused_pool_starts_nothing():
    before = set(threading.enumerate())
    with Endpoints(EndpointsConfig()):
        assert set(threading.enumerate()) <= before, "threads of other tests may end meanwhile"


def test_a_circuit_by_hand():
    health = Health("u", places=1, breaker_failures=2, breaker_s=10.0)
    health.failed(0.0, "a")
    health.answered()
    health.failed(1.0, "b")
    assert health.closed and health.has_place(1.0), "not in a row"
    health.failed(2.0, "c")
    assert not health.closed and not health.has_place(99.0) and not health.due_for_probe(11.0) and health.due_for_probe(12.0)
    health.probing = True
    health.failed(12.0, "late")  # of a request that was under way: no business of the probe
    assert health.probing and health.opened == 1
    health.not_revived(13.0, "d")
    assert not health.due_for_probe(22.0) and health.due_for_probe(23.0)
    health.revived()
    assert health.has_place(23.0)
    health.failed(24.0, "e")
    assert not health.closed and health.opened == 2, "one more failure is enough"
    health.revived()
    health.rest(30.0)
    health.rest(29.0)
    assert not health.has_place(29.5) and health.has_place(30.0)
    health.in_flight = 1
    assert not health.has_place(30.0)


def together(call, count):
    """What `count` threads at once get, in order."""
    results = [None] * count

    def run(number):
        results[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
