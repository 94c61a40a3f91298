"""The detector and the extractor behind HTTP, in the place of those in process."""

import concurrent.futures
import http.server
import sqlite3
import threading
import tracemalloc
from contextlib import closing

import numpy as np
import pytest
import test_server
import test_wire
from eyes_server import EyesServer
from faulty_eyes import DOUBLE, NORMAL, NOT_FINITE, TOO_FEW, WIDE
from judge_server import PATIENT

from editr2_jax.rewards.base import Detection, Detector, FeatureExtractor, ServiceError
from editr2_jax.services import remote, server_app, wire
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.endpoints import Endpoints, EndpointsConfig
from editr2_jax.services.remote import RemoteDetector, RemoteDetectorConfig, RemoteFeatures, RemoteFeaturesConfig
from editr2_jax.tabletop import perception

pytestmark = pytest.mark.slow

PICTURE, NAMES = test_server.PICTURE, test_server.NAMES
OTHERS = [PICTURE, PICTURE[:20, :31], 255 - PICTURE, PICTURE[::-1], PICTURE]
QUICK = PATIENT | {"retries": 1, "max_response_bytes": 50_000_000}


@pytest.fixture(scope="module")
def servers():
    with EyesServer("detector") as detector, EyesServer("features", "--max-pictures=3") as features:
        yield detector, features


@pytest.fixture(scope="module")
def faulty():
    with EyesServer("detector", kind="faulty") as detector, EyesServer("features", kind="faulty") as features:
        yield detector, features


def detector_at(*servers, model="tabletop", cache=None, **settings):
    endpoints = Endpoints(EndpointsConfig(urls=tuple(server.url for server in servers), **QUICK | settings))
    return RemoteDetector(RemoteDetectorConfig(model=model), endpoints, cache=cache)


def features_at(*servers, model="tabletop", cache=None, pictures=64, pixels=1 << 24, **settings):
    endpoints = Endpoints(EndpointsConfig(urls=tuple(server.url for server in servers), **QUICK | settings))
    return RemoteFeatures(RemoteFeaturesConfig(model=model, max_pictures=pictures, max_pixels=pixels), endpoints, cache=cache)


def same(a, b):
    return a.cls.tobytes() == b.cls.tobytes() and a.patches.tobytes() == b.patches.tobytes() and a.patches.shape == b.patches.shape


def test_they_say_what_those_in_process_say(servers):
    with closing(detector_at(servers[0])) as detector, closing(features_at(servers[1])) as features:
        assert isinstance(detector, Detector) and isinstance(features, FeatureExtractor)
        assert detector.detect(PICTURE, NAMES) == perception.TabletopDetector().detect(PICTURE, NAMES) != []
        assert detector.detect(PICTURE, []) == [] == detector.detect(PICTURE, ["no such thing"])
        assert same(features.embed(OTHERS[:3]), perception.TabletopFeatures().embed(OTHERS[:3]))


def test_many_pictures_go_in_requests_that_the_server_takes(servers):
    here = perception.TabletopFeatures().embed(OTHERS)
    for settings, requests in (({"pictures": 3}, 2), ({"pictures": 3, "pixels": 48 * 48 * 2}, 3), ({"pixels": 1}, 5)):
        with closing(features_at(servers[1], **settings)) as features:
            np.testing.assert_allclose(features.embed(OTHERS).patches, here.patches, atol=1e-6)
            assert features.counters()["requests"] == requests
    with closing(features_at(servers[1])) as features, pytest.raises(ServiceError, match="status 400.*at most|status 400.*send 1 to 3"):
        features.embed(OTHERS)
    with closing(features_at(servers[1])) as features, pytest.raises(ValueError, match="at least one picture"):
        features.embed([])


def test_pictures_of_noise_go_in_requests_that_the_server_takes(servers, monkeypatch):
    assert remote._MOST_BYTES + (1 << 20) < server_app.Limits().max_body_bytes
    noise = [np.random.default_rng(row).integers(0, 256, PICTURE.shape).astype(np.uint8) for row in range(3)]
    assert len(wire.to_png(noise[0])) > 3 * 48 * 48, "more than its pixels"
    for most, requests in ((3 * 48 * 48, 3), (7 * 48 * 48, 2), (10 * 48 * 48, 1)):
        monkeypatch.setattr(remote, "_MOST_BYTES", most)
        with closing(features_at(servers[1])) as features:
            np.testing.assert_allclose(features.embed(noise).patches, perception.TabletopFeatures().embed(noise).patches, atol=1e-6)
            assert features.counters()["requests"] == requests


def test_with_a_cache_nothing_is_asked_twice(servers, tmp_path):
    cache = lambda mode="use": AnswerCache(tmp_path / "answers.sqlite", mode=mode)  # noqa: E731
    with (
        closing(detector_at(servers[0], cache=cache())) as detector,
        closing(features_at(servers[1], cache=cache(), pictures=3)) as features,
    ):
        boxes, first = detector.detect(PICTURE, NAMES), features.embed(OTHERS)
        assert detector.detect(PICTURE, NAMES) == boxes and same(features.embed(OTHERS), first)
        assert detector.counters()["requests"] == 1 and features.counters()["requests"] == 2  # four pictures, three at a time
        assert features.counters()["cache_hits"] == features.counters()["cache_misses"] == 4  # the fifth is the first
        detector.detect(PICTURE, NAMES[:2])
        assert detector.counters()["requests"] == 2  # other words
    with (
        closing(detector_at(servers[0], cache=cache("replay"))) as detector,
        closing(features_at(servers[1], cache=cache("replay"))) as features,
    ):
        assert detector.detect(PICTURE, NAMES) == boxes and same(features.embed(OTHERS[::-1][:2]), features.embed([OTHERS[0], OTHERS[3]]))
        assert "requests" not in detector.counters() | features.counters()
        for ask in (lambda: detector.detect(255 - PICTURE, NAMES), lambda: features.embed([PICTURE[:9]])):
            with pytest.raises(ServiceError, match="Replay has no answer to what 'tabletop' was asked"):
                ask()


@pytest.mark.parametrize("phrase", ["sleep 1", "RuntimeError"])
def test_who_asks_the_same_at_the_same_moment_waits_for_one_answer(faulty, tmp_path, phrase):
    """Rollouts of a group look at one source picture all at once."""
    together = threading.Barrier(6)

    def ask(detector):
        together.wait()
        try:
            return detector.detect(PICTURE, [phrase])
        except ServiceError as error:
            return str(error)

    settings = {"model": "faulty", "retries": 0, "breaker_failures": 99}
    with AnswerCache(tmp_path / "boxes") as cache, closing(detector_at(faulty[0], cache=cache, **settings)) as detector:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, [detector] * 6))
        assert answers == answers[:1] * 6 and phrase in str(answers[0])
        if phrase == "sleep 1":
            assert (detector.counters()["requests"], detector.counters()["cache_hits"]) == (1, 5)
        with pytest.raises(ServiceError, match="nobody asked"):  # what failed is asked again, and nothing is left waiting
            detector.detect(PICTURE, ["unasked"])


def test_features_that_another_is_asking_for_are_waited_for(servers, tmp_path):
    """Each asks for what the other one does not: nobody waits in a circle, and a picture is sent once."""
    here = perception.TabletopFeatures()
    pictures = [np.roll(PICTURE, row, 0) for row in range(12)]
    asked = [pictures, pictures[::-1], pictures[6:] + pictures[:6], pictures[::2]] * 3
    together = threading.Barrier(len(asked))

    def embed(features, some):
        together.wait()
        return features.embed(some)

    with AnswerCache(tmp_path / "features") as cache, closing(features_at(servers[1], cache=cache, pictures=1)) as features:
        with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(lambda some: embed(features, some), asked))
        assert features.counters()["requests"] == features.counters()["cache_misses"] == 12
        assert features.counters()["cache_hits"] == sum(map(len, asked)) - 12
    for some, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer.patches, here.embed(some).patches, atol=1e-6)


def test_another_model_s_cache_is_not_asked_and_a_spoilt_one_is_no_answer(servers, tmp_path):
    path = tmp_path / "answers.sqlite"
    with closing(features_at(servers[1], cache=AnswerCache(path))) as features:
        features.embed([PICTURE])
    with closing(features_at(servers[1], model="another", cache=AnswerCache(path))) as features:
        with pytest.raises(ServiceError, match="this endpoint serves 'tabletop', and 'another' is asked for"):
            features.embed([PICTURE])
    base = sqlite3.connect(path)
    base.execute("UPDATE answers SET answer = ?", (b"\x80",))
    base.commit()
    base.close()
    with (
        closing(features_at(servers[1], cache=AnswerCache(path))) as features,
        pytest.raises(ServiceError, match="holds what is no answer"),
    ):
        features.embed([PICTURE])


def test_another_model_is_an_error_and_so_is_another_kind_of_server(servers):
    with closing(detector_at(servers[0], model="grounding-dino")) as detector:
        with pytest.raises(ServiceError, match="serves 'tabletop', and 'grounding-dino' is asked for"):
            detector.detect(PICTURE, NAMES)
        assert detector.counters()["requests"] == 1  # it will not be another one the next time
    with closing(detector_at(servers[1])) as detector, pytest.raises(ServiceError, match="this server answers POST /v1/embed"):
        detector.detect(PICTURE, NAMES)
    for config in (RemoteDetectorConfig, RemoteFeaturesConfig):
        with pytest.raises(ValueError, match=f"{config.__name__}.model is empty"):
            config()
    with pytest.raises(ValueError, match="at least 1"):
        RemoteFeaturesConfig(model="x", max_pictures=0)


@pytest.mark.parametrize(
    "phrase, word",
    [
        ("outside", "five numbers"),
        ("nan", "five numbers"),
        ("unasked", "nobody asked"),
        ("RuntimeError", "500"),
        ("nan-score", "500.*ServiceError"),
        ("nan-box", "500.*ServiceError"),
    ],
)
def test_detections_that_cannot_be_are_no_answer(faulty, phrase, word):
    with closing(detector_at(faulty[0], model="faulty", breaker_failures=99)) as detector:
        with pytest.raises(ServiceError, match=word):
            detector.detect(PICTURE, [phrase])
        assert detector.counters()["retries"] == 1
        whole = Detection(box=(0.0, 0.0, 1.0, 1.0), score=PICTURE[0, 0, 0] / 255, phrase="ball")
        assert detector.detect(PICTURE, ["ball"]) == [whole]


@pytest.mark.parametrize("phrase", ["nan-score", "nan-box"])
def test_where_a_model_gives_no_numbers_another_endpoint_is_asked(faulty, servers, phrase, monkeypatch):
    with closing(detector_at(faulty[0], servers[0], breaker_failures=1, breaker_s=600.0)) as detector:
        monkeypatch.setattr(detector, "_mine", lambda told: told)  # the two serve models of other names
        assert detector.detect(PICTURE, [phrase]) == []
        assert (detector.counters()["failures_server_error"], detector.counters()["answers"]) == (1, 1)


def test_what_the_model_does_not_take_is_not_asked_again(faulty):
    with closing(detector_at(faulty[0], model="faulty")) as detector:
        with pytest.raises(ServiceError, match="this phrase is not for me"):
            detector.detect(PICTURE, ["ValueError"])
        assert detector.counters()["requests"] == 1


@pytest.mark.parametrize("what, word", [(NOT_FINITE, "not finite"), (TOO_FEW, "500"), (DOUBLE, "500.*float64")])
def test_features_that_cannot_be_are_no_answer(faulty, what, word):
    picture = lambda value: np.full((2, 2, 3), value, np.uint8)  # noqa: E731
    with closing(features_at(faulty[1], model="faulty", breaker_failures=99)) as features:
        with pytest.raises(ServiceError, match=word):
            features.embed([picture(what), picture(7)])
        np.testing.assert_array_equal(features.embed([picture(NORMAL), picture(7)]).cls, [[0, 0, 0, 2], [7, 7, 7, 2]])


class Stranger(http.server.BaseHTTPRequestHandler):
    """Whatever it is asked, it says its server's `body`."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def stranger():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", [name for name in test_wire.BOMBS if name.startswith("msgpack")])
def test_an_answer_that_would_be_blown_up_is_no_answer_and_costs_little(stranger, name):
    _, stranger.body = test_wire.BOMBS[name]
    for client, ask in ((features_at, lambda it: it.embed([PICTURE])), (detector_at, lambda it: it.detect(PICTURE, NAMES))):
        with closing(client(stranger, breaker_failures=99)) as eyes:
            tracemalloc.start()
            try:
                with pytest.raises(ServiceError, match="no answer after 2 tries; .*cannot be read"):
                    ask(eyes)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert eyes.counters()["failures_malformed"] == 2 and peak < 8 * len(stranger.body)


@pytest.mark.parametrize("wrong", test_wire.ANSWERS)
def test_an_answer_of_another_shape_is_no_answer(stranger, wrong):
    stranger.body, _ = test_wire.ANSWERS[wrong]
    with closing(detector_at(stranger, model="m", breaker_failures=99)) as detector:
        with pytest.raises(ServiceError, match="no answer after 2 tries; .*cannot be read"):
            detector.detect(PICTURE, NAMES)
        assert detector.counters()["failures_malformed"] == 2


def test_features_of_two_shapes_are_not_put_together(faulty):
    picture = lambda value: np.full((2, 2, 3), value, np.uint8)  # noqa: E731
    with closing(features_at(faulty[1], model="faulty", pictures=1)) as features:
        with pytest.raises(ServiceError, match="several shapes"):
            features.embed([picture(NORMAL), picture(WIDE)])


def test_a_full_house_is_waited_for():
    with EyesServer("detector", "max_requests=1", kind="faulty") as server:
        with closing(detector_at(server, model="faulty", backoff_max_s=0.2)) as detector, concurrent.futures.ThreadPoolExecutor(8) as pool:
            phrases = [f"sleep 0.05{number}" for number in range(8)]
            found = list(pool.map(lambda phrase: detector.detect(PICTURE, [phrase])[0].phrase, phrases))
            counted = detector.counters()
    assert found == phrases and counted["answers"] == 8 and counted["rests"] > 0 and "retries" not in counted


def test_a_token_goes_along_and_its_lack_is_explained(monkeypatch):
    monkeypatch.setenv("EYES_TOKEN", test_server.TOKEN)
    with EyesServer("detector", "--token-env=EYES_TOKEN") as server:
        with closing(detector_at(server, token_env="EYES_TOKEN")) as detector:
            assert detector.detect(PICTURE, NAMES)
        with closing(detector_at(server)) as detector, pytest.raises(ServiceError, match="token_env"):
            detector.detect(PICTURE, NAMES)


def test_one_that_dies_is_replaced_by_the_other_and_none_is_an_error(servers):
    with EyesServer("detector") as mortal:
        with closing(detector_at(mortal, servers[0], retries=4, outage_s=0.5)) as detector:
            mortal.process.kill()
            mortal.process.wait()
            for row in range(6):
                assert detector.detect(np.roll(PICTURE, row, 1), NAMES) is not None
        with closing(detector_at(mortal, outage_s=0.5)) as detector, pytest.raises(ServiceError, match="connection lost or refused"):
            detector.detect(PICTURE, NAMES)
