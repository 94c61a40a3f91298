"""The server as processes meet it: what it answers, and what a stranger cannot make it do."""

import base64
import concurrent.futures
import gzip
import http.client
import json
import pickle
import signal
import socket
import time

import eyes_server
import numpy as np
import pytest
from eyes_server import JSON, MSGPACK, EyesServer, error_of
from test_wire import png

from editr2_jax.cli import main as entry
from editr2_jax.services import server_process, wire
from editr2_jax.tabletop import perception, world

pytestmark = pytest.mark.slow

PICTURE = world.make_session("train", 0, 0, turns=1, subset="memory", size=(48, 48))[1]
NAMES = ["orange cross", "stone blue ring", "pink ball", "sign", "no such thing"]
ASK = {"picture": wire.to_png(PICTURE), "phrases": NAMES}
BODY = wire.MSGPACK.write(ASK)
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def detector():
    limits = ("--max-body-bytes=100000", "--max-pixels=10000", "--max-phrases=8", "--max-phrase-chars=40", "--max-connections=16")
    with EyesServer("detector", "--max-requests=4", "--head-s=0.6", "--body-s=2", *limits) as running:
        yield running
        assert found(running) == perception.TabletopDetector().detect(PICTURE, NAMES)  # whatever was done to it


@pytest.fixture(scope="module")
def features():
    with EyesServer("features", "--max-pictures=9") as running:
        yield running


@pytest.fixture(scope="module")
def guarded():
    with EyesServer("detector", "--token-env=EYES_TOKEN", environment={"EYES_TOKEN": TOKEN}) as running:
        yield running


@pytest.fixture(scope="module")
def faulty():
    with EyesServer("detector", "max_requests=3", kind="faulty") as running:
        yield running


def found(server):
    status, told = server.post("/v1/detect", ASK)
    assert status == 200, told
    return wire.read_detections(told["detections"], NAMES)


# what it answers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [MSGPACK, JSON, "", "text/html, application/msgpack;q=0.9", "*/*"])
@pytest.mark.parametrize("form", [wire.MSGPACK, wire.JSON])
def test_detections_are_those_of_the_detector_to_the_bit(detector, form, accept):
    message = ASK if form is wire.MSGPACK else ASK | {"picture": base64.b64encode(ASK["picture"]).decode()}
    status, headers, content = detector.ask("POST", "/v1/detect", form.write(message), Content_Type=form.media_type, Accept=accept)
    assert status == 200 and headers["content-type"] == (MSGPACK if "msgpack" in accept else JSON)
    told = (wire.MSGPACK if "msgpack" in accept else wire.JSON).read(content)
    assert told["model"] == "tabletop"
    assert wire.read_detections(told["detections"], NAMES) == perception.TabletopDetector().detect(PICTURE, NAMES) != []


@pytest.mark.parametrize("form", [wire.MSGPACK, wire.JSON])
def test_features_are_those_of_the_extractor_to_the_bit(features, form):
    pictures = [PICTURE, PICTURE[:20, :31], 255 - PICTURE, PICTURE]
    message = {"pictures": [form.array(np.zeros(0, np.float32)) and wire.to_png(picture) for picture in pictures]}
    if form is wire.JSON:
        message = {"pictures": [base64.b64encode(data).decode() for data in message["pictures"]]}
    status, told = features.post("/v1/embed", message, form)
    assert status == 200
    there, here = wire.read_features(told["cls"], told["patches"], 4), perception.TabletopFeatures().embed(pictures)
    assert there.cls.tobytes() == here.cls.tobytes() and there.patches.tobytes() == here.patches.tobytes()


def test_what_is_asked_twice_is_answered_alike(detector):
    assert detector.post("/v1/detect", ASK) == detector.post("/v1/detect", ASK, Idempotency_Key="the same")


def test_the_model_is_named_health_is_told_and_counts_add_up(detector):
    assert detector.line == f"tabletop at http://127.0.0.1:{detector.port}/v1"
    assert json.loads(detector.ask("GET", "/v1/models")[2])["data"][0]["id"] == "tabletop"
    assert json.loads(detector.ask("GET", "/health")[2]) == {"status": "ok"}
    before = detector.counted()
    found(detector)
    detector.post("/v1/detect", b"")
    after = detector.counted()
    since = {name: after[name] - before.get(name, 0) for name in after}
    assert (
        since['editr2_requests_total{path="/v1/detect",status="200"}']
        == since['editr2_requests_total{path="/v1/detect",status="400"}']
        == 1
    )
    assert since["editr2_model_calls_total"] == since["editr2_pictures_total"] == 1 and since["editr2_body_bytes_total"] == len(BODY)
    assert after["editr2_requests_inside"] == 0


def test_other_paths_and_methods_say_what_is_there(detector):
    for method, path, status in (
        ("GET", "/", 404),
        ("POST", "/v1/embed", 404),
        ("GET", "/v1/detect", 405),
        ("POST", "/v1/detect/", 404),
        ("DELETE", "/health", 405),
    ):
        code, headers, content = detector.ask(method, path, BODY if method == "POST" else None)
        assert code == status and headers["content-type"] == JSON
        assert "this server answers POST /v1/detect, GET /v1/models, /health and /metrics" in error_of(json.loads(content))


# what a request may not say ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, word, message",
    [
        (400, "no PNG file", {"picture": b"BM" + b"\0" * 60}),
        (400, "no PNG file", {"picture": pickle.dumps(PICTURE)}),
        (400, "no PNG file", {"picture": b"../../../../etc/passwd"}),
        (400, "paths and addresses are not looked up", {"picture": "file:///etc/passwd"}),
        (400, "paths and addresses are not looked up", {"picture": "http://169.254.169.254/latest"}),
        (400, "there is no field 'filename'", {"filename": "../../x.png"}),
        (413, "30000x30000 pixels", {"picture": png(30_000, 30_000)}),
        (413, "100x101 pixels the request has 10100, more than 10000", {"picture": png(100, 101)}),
        (400, "pictures[0]: a damaged PNG", {"picture": png(100, 100)}),
        (400, "pictures[0]: a file of two sizes", {"picture": png(4, 4)[:33] + png(5000, 5000)[8:]}),
        (400, "16 bits", {"picture": png(4, 4, depth=16)}),
        (400, "9 of them", {"phrases": ["a"] * 9}),
        (400, "phrases[1]", {"phrases": ["a", "b" * 41]}),
        (400, "phrases[0]", {"phrases": [" "]}),
        (400, "phrases[0]", {"phrases": ["a\nb"]}),
        (400, "phrases[0]", {"phrases": ["\x00"]}),
    ],
)
def test_a_request_that_costs_or_says_too_much_is_refused(detector, status, word, message):
    body = ASK | message if "filename" not in message else message
    code, told = detector.post("/v1/detect", body)
    assert (code, word in error_of(told)) == (status, True), told


def test_a_lone_surrogate_is_no_phrase(detector):
    told = detector.post("/v1/detect", b'{"picture": "", "phrases": ["\\ud800"]}', wire.JSON)
    assert told[0] == 400 and "phrases[0]" in error_of(told[1])


def test_pictures_are_counted(features):
    for count, status in ((0, 400), (9, 200), (10, 400)):
        assert features.post("/v1/embed", {"pictures": [ASK["picture"]] * count})[0] == status


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "application/python-pickle", "application/x-pickle", "multipart/form-data", "text/plain", ""]
)
def test_pickles_and_other_types_are_not_even_read(detector, kind):
    code, told = detector.post("/v1/detect", pickle.dumps(ASK), Content_Type=kind)
    assert code == 415 and f"Content-Type is {kind or 'not given'}; send" in error_of(told) and "never pickles" in error_of(told)


def test_a_pickle_under_another_name_is_no_message(detector):
    for form in (wire.MSGPACK, wire.JSON):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert detector.post("/v1/detect", pickle.dumps(ASK, protocol), form)[0] == 400


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_packed_bodies_are_not_unpacked(detector, coding):
    code, told = detector.post("/v1/detect", gzip.compress(BODY), Content_Encoding=coding)
    assert code == 415 and "packed bodies are not taken" in error_of(told)


def test_web_pages_are_not_answered(detector):
    code, told = detector.post("/v1/detect", ASK, Origin="http://evil.example")
    assert code == 403 and "from a program" in error_of(told)


# how long it may be, whatever it says ----------------------------------------------------------------------------------------------------


def head(*lines, path="/v1/detect"):
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {MSGPACK}", *lines, "", ""]).encode()


def test_a_long_body_is_refused_by_what_it_says(detector):
    answer = detector.raw(head("Content-Length: 100000000000"))
    assert answer.startswith(b"HTTP/1.1 413 ") and "longer than 100000 bytes" in error_of(answer)


def test_a_somewhat_long_body_is_read_to_its_end_so_that_its_sender_sees_why(detector):
    connection = detector.connection()
    status, _, content = detector.ask("POST", "/v1/detect", b"\0" * 150_000, on=connection, Content_Type=MSGPACK)
    assert status == 413 and "longer than 100000 bytes" in error_of(json.loads(content))
    assert detector.ask("POST", "/v1/detect", BODY, on=connection, Content_Type=MSGPACK)[0] == 200  # the connection is still good
    connection.close()


def test_a_body_in_pieces_is_counted_while_it_comes(detector):
    with socket.create_connection(("127.0.0.1", detector.port), timeout=20) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        piece, sent = b"8000\r\n" + b"\0" * 0x8000 + b"\r\n", 0
        try:
            while sent < 50_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent < 50_000_000  # it hung up
    assert found(detector)


def test_a_short_body_in_pieces_is_as_good_as_any(detector):
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i : i + 100]), BODY[i : i + 100]) for i in range(0, len(BODY), 100)) + b"0\r\n\r\n"
    answer = detector.raw(head("Transfer-Encoding: chunked", "Connection: close") + pieces)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_lengths_that_are_lies(detector):
    shorter = detector.raw(head("Content-Length: 10", "Connection: close") + BODY)
    assert shorter.startswith(b"HTTP/1.1 400 ")
    longer = detector.raw(head(f"Content-Length: {len(BODY) + 10}") + BODY)
    assert longer.startswith(b"HTTP/1.1 408 ") and "did not come within 2 s" in error_of(longer)
    both = detector.raw(head(f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked", "Connection: close") + b"0\r\n\r\n")
    assert both.startswith(b"HTTP/1.1 400 ")
    for line in (
        "Content-Length: -1",
        "Content-Length: 1, 2",
        "Content-Length: x",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: pickle",
    ):
        assert detector.raw(head(line) + BODY).split(b" ", 2)[1] in (b"400", b"501"), line
    assert detector.raw(head("Transfer-Encoding: chunked") + b"zz\r\nxx\r\n").startswith(b"HTTP/1.1 400 ")


def test_who_asks_first_is_not_sent_a_body_that_would_be_refused(detector):
    answer = detector.raw(head("Content-Length: 100000000", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


# patience ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"POST /v1/detect HTT", head("Content-Length: 5")[:-2]])
def test_heads_that_do_not_come_are_not_waited_for(detector, sent):
    started = time.monotonic()
    assert detector.raw(sent, timeout=20) == b""
    assert 0.4 < time.monotonic() - started < 10


def test_a_head_that_trickles_is_not_waited_for_either(detector):
    with socket.create_connection(("127.0.0.1", detector.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 15:
                connection.sendall(b"X")
                time.sleep(0.05)
    assert time.monotonic() - started < 10


def test_the_second_head_of_a_connection_is_not_waited_for(detector):
    with socket.create_connection(("127.0.0.1", detector.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'"ok"}'):
            answer += connection.recv(65536)
        time.sleep(1.0)  # between two requests there is more patience
        connection.sendall(b"GET /hea")
        started = time.monotonic()
        assert eyes_server.read_to_end(connection) == b"" and time.monotonic() - started < 10


def test_a_body_that_trickles_is_given_up(detector):
    with socket.create_connection(("127.0.0.1", detector.port), timeout=20) as connection:
        connection.sendall(head(f"Content-Length: {len(BODY)}"))
        started = time.monotonic()
        try:
            for byte in BODY:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
                if time.monotonic() - started > 10:
                    break
        except ConnectionError:
            pass
        answer = eyes_server.read_to_end(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 408 ")
    assert detector.counted()["editr2_requests_inside"] == 0


def test_a_full_house_says_when_to_come_back(detector):
    half = head(f"Content-Length: {len(BODY)}") + BODY[:100]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        inside = [pool.submit(detector.raw, half) for _ in range(4)]  # they never send the rest
        while detector.counted()["editr2_requests_inside"] < 4 and not any(answer.done() for answer in inside):
            time.sleep(0.01)
        status, headers, content = detector.ask("POST", "/v1/detect", BODY, Content_Type=MSGPACK)
        assert status == 503 and headers["retry-after"] == "1" and "come back later" in error_of(json.loads(content))
        assert detector.ask("GET", "/health")[0] == 200
        assert all(answer.result().startswith(b"HTTP/1.1 408 ") for answer in inside)
    assert found(detector)


def test_more_connections_than_it_bears_are_told_so(detector):
    deadline = time.monotonic() + 20
    crowd = [socket.create_connection(("127.0.0.1", detector.port), timeout=20) for _ in range(30)]
    try:
        last = eyes_server.read_to_end(crowd[-1])
        assert last.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in last
    finally:
        for connection in crowd:
            connection.close()
    while time.monotonic() < deadline:
        try:
            assert found(detector)
            return
        except (ConnectionError, http.client.HTTPException, AssertionError):
            time.sleep(0.1)
    pytest.fail("it did not recover")


# who may ask -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff\xfe",
        f"bearer  {TOKEN.upper()}",
    ],
)
@pytest.mark.parametrize("method, path", [("POST", "/v1/detect"), ("GET", "/v1/models"), ("GET", "/metrics")])
def test_without_the_token_nothing_is_answered(guarded, given, method, path):
    headers = {} if given is None else {"Authorization": given}
    status, told, content = guarded.ask(method, path, BODY if method == "POST" else None, Content_Type=MSGPACK, **headers)
    assert status == 401 and told["www-authenticate"] == "Bearer"
    message = error_of(json.loads(content))
    assert "missing or wrong" in message and TOKEN not in message


def test_with_the_token_everything_is_and_health_without(guarded):
    assert guarded.post("/v1/detect", ASK, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded.ask("GET", "/v1/models", Authorization=f"bearer {TOKEN}")[0] == 200
    assert 'editr2_requests_total{path="/v1/models",status="200"}' in guarded.counted(Authorization=f"Bearer {TOKEN}")
    assert guarded.ask("GET", "/health")[0] == 200


def test_a_stranger_cannot_make_it_read(guarded):
    answer = guarded.raw(head("Content-Length: 100000000000"))
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_it_listens_on_this_machine_alone(detector, guarded):
    assert detector.addresses() == guarded.addresses() == {"0100007F"}  # 127.0.0.1


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--host=0.0.0.0"], "is reached from other machines"),
        (["--host=::"], "is reached from other machines"),
        (["--host=0.0.0.0", "--public"], "takes a token"),
        (["--public"], "takes a token"),
        (["--public", "--token-env=EYES_NOT_SET"], "not set in the environment"),
        (["--token-env=EYES_SHORT"], "16 or more printable"),
        (["--token-env=EYES_SPACED"], "16 or more printable"),
        (["--max-requests=0"], "max_requests is 0"),
        (["--head-s=-1"], "head_s is -1"),
        (["--folder=x"], "takes no --folder"),
        (["--threshold=0.7"], "takes no --threshold"),
        (["--kind=grounding_dino"], "wants the --folder"),
        (["--port=1000000"], "--port"),
        (["--prot=1"], "the nearest is --port"),
    ],
)
def test_a_start_that_is_not_meant_is_refused(monkeypatch, capsys, flags, word):
    monkeypatch.setenv("EYES_SHORT", "short")
    monkeypatch.setenv("EYES_SPACED", "a token with spaces in it")
    monkeypatch.setattr(server_process, "run", lambda *_, **__: pytest.fail("it started"))
    assert entry.main(["serve", "detector", "--kind=tabletop", *flags]) == 2
    assert word in capsys.readouterr().err


def test_it_is_public_when_that_is_meant():
    with server_process.bind("0.0.0.0", 0, public=True, token=TOKEN) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"
    with server_process.bind("localhost", 0, public=False, token="") as bound:
        assert bound.getsockname()[0] in ("127.0.0.1", "::1")
        with pytest.raises(ValueError, match="cannot be taken"):
            bound.listen()
            server_process.bind("localhost", bound.getsockname()[1], public=False, token="")


# one model, many who ask -------------------------------------------------------------------------------------------------------------


def test_the_model_is_called_by_one_at_a_time(faulty):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: faulty.post("/v1/detect", ASK | {"phrases": ["sleep 0.2"]}), range(3)))
    assert [status for status, _ in answers] == [200] * 3


def test_who_hangs_up_is_not_answered(faulty):
    calls = faulty.counted()["editr2_model_calls_total"]
    slow = wire.MSGPACK.write(ASK | {"phrases": ["sleep 2.5"]})
    waiting = [socket.create_connection(("127.0.0.1", faulty.port), timeout=20) for _ in range(2)]
    for number, connection in enumerate(waiting, 1):  # the first is with the model, the second in line
        connection.sendall(head(f"Content-Length: {len(slow)}") + slow)
        faulty.wait_until_inside(number)
        time.sleep(0.2)
    for connection in waiting:
        connection.close()
    deadline = time.monotonic() + 20
    while faulty.counted()["editr2_model_calls_total"] == calls and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    counted = faulty.counted()
    assert counted["editr2_model_calls_total"] == calls + 1 and counted["editr2_requests_inside"] == 0
    assert counted['editr2_requests_total{path="/v1/detect",status="499"}'] == 2


def test_what_the_model_does_not_take_is_told_and_where_it_fails_is_not(faulty):
    status, told = faulty.post("/v1/detect", ASK | {"phrases": ["ValueError"]})
    assert status == 422 and "this phrase is not for me" in error_of(told)
    status, told = faulty.post("/v1/detect", ASK | {"phrases": ["RuntimeError"]})
    assert status == 500 and "RuntimeError" in error_of(told) and "secret" not in error_of(told)
    assert faulty.post("/v1/detect", ASK | {"phrases": ["ball"]})[0] == 200


@pytest.mark.parametrize("batch, together", [("batch=1", [2, 2, 2]), ("batch=5", [2, 4, 4])])
def test_waiting_requests_are_embedded_together_where_that_is_wanted(tmp_path, batch, together):
    from faulty_eyes import SLOW

    def embed(server, value, count=1):
        told = server.post("/v1/embed", {"pictures": [wire.to_png(np.full((2, 2, 3), value, np.uint8))] * count})[1]
        return wire.read_features(told["cls"], told["patches"], count).cls

    def wait_for(server, pictures):
        while server.counted()["editr2_pictures_total"] < pictures:
            time.sleep(0.02)

    gate = tmp_path / "gate"
    with (
        EyesServer("features", batch, kind="faulty", environment={"GATE": str(gate)}) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(embed, server, SLOW)
        wait_for(server, 1)
        others = {value: pool.submit(embed, server, value, 2) for value in (20, 30, 40)}
        wait_for(server, 7)
        gate.touch()
        assert first.result()[0, 0] == SLOW
        for value, answer in others.items():
            assert (answer.result()[:, :3] == value).all()  # everyone has one's own
        assert sorted(answer.result()[0, 3] for answer in others.values()) == together


# the end ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_answer_and_leave(number):
    with EyesServer("detector", kind="faulty") as server, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(server.post, "/v1/detect", ASK | {"phrases": ["sleep 1.0"]})
        server.wait_until_inside(1)
        idle = server.connection()
        idle.connect()
        status, told = server.stop(number)
        assert slow.result()[0] == 200
        assert status == 0, told
        with pytest.raises(ConnectionError):
            server.raw(b"GET / HTTP/1.1\r\n\r\n")
