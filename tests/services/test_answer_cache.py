"""Answers on disk: found by content, the same for many threads and processes, and there after a kill."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.rewards.base import ServiceError
from editr2_jax.services import answer_cache
from editr2_jax.services.answer_cache import AnswerCache

ROOT = Path(__file__).parents[2]


def test_an_answer_comes_back_and_the_first_one_stays(tmp_path):
    path = tmp_path / "answers.sqlite"
    with AnswerCache(path) as cache:
        assert cache.get("a") is None and len(cache) == 0
        assert cache.put("a", "yes “é”\n", about={"kind": "color"}) == "yes “é”\n"
        assert cache.put("a", "no", about={}) == "yes “é”\n"
        assert cache.put("empty", "", about={}) == "" and cache.size() > 0
    with AnswerCache(path, mode="replay") as cache:
        assert cache.replays and cache.get("a") == "yes “é”\n" and cache.get("empty") == "" and len(cache) == 2


def test_a_key_tells_words_settings_and_every_pixel_apart():
    said, shown = {"prompt": "p", "seed": 0}, [fakes.picture(1), fakes.picture(2)]
    repainted = [fakes.picture(1), fakes.picture(2)]
    repainted[1][-1, -1, -1] = 1
    keys = [
        answer_cache.key_of(said, shown),
        answer_cache.key_of(said | {"seed": 1}, shown),
        answer_cache.key_of(said, shown[::-1]),
        answer_cache.key_of(said, shown[:1]),
        answer_cache.key_of(said, repainted),
        answer_cache.key_of(said, [fakes.picture(1).reshape(4, 16, 3), fakes.picture(2)]),
    ]
    assert len(set(keys)) == len(keys)
    assert answer_cache.key_of({"seed": 0, "prompt": "p"}, [np.asfortranarray(picture) for picture in shown]) == keys[0]


def test_files_that_cannot_serve_are_refused(tmp_path):
    (tmp_path / "text").write_text("no cache, but long enough to be taken for the head of a database file" * 20)
    with pytest.raises(ValueError, match="text: no answer cache .* give another path"):
        AnswerCache(tmp_path / "text")
    with sqlite3.connect(tmp_path / "newer") as base:
        base.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match="layout 9, this version reads 1"):
        AnswerCache(tmp_path / "newer")
    for name, word in (("text", "file is not a database"), ("newer", "layout 9, this"), ("empty", "layout 0, this version reads 1")):
        (tmp_path / "empty").touch()
        with pytest.raises(ValueError, match=f"{name}: no answer cache .{word}"):
            AnswerCache(tmp_path / name, mode="replay")
    with pytest.raises(ValueError, match="there is nothing to replay; record it first"):
        AnswerCache(tmp_path / "none", mode="replay")
    with pytest.raises(ValueError, match="mode is 'refresh'; choose from use, replay"):
        AnswerCache(tmp_path / "a", mode="refresh")
    with pytest.raises(ValueError, match="gs://bucket: .* as folder for the answer cache"):
        AnswerCache("gs://bucket/a")


def there(folder):
    """All that a write into a folder would change."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *sorted(folder.iterdir())]]


def test_a_replay_leaves_file_and_folder_as_they_are(tmp_path, monkeypatch):
    path = tmp_path / "what? answers #1.sqlite"
    with AnswerCache(path) as cache:
        cache.put("a", "yes", about={})
    before, content = there(tmp_path), path.read_bytes()
    monkeypatch.setattr(answer_cache.workdir, "writable", lambda *_, **__: pytest.fail("a replay needs no folder to write into"))
    with AnswerCache(path, mode="replay") as cache, AnswerCache(path, mode="replay") as another:
        assert cache.get("a") == another.get("a") == "yes" and cache.get("b") is None and len(cache) == 1
        with pytest.raises(ServiceError, match="attempt to write a readonly database"):
            cache.put("b", "no", about={})
        assert there(tmp_path) == before
    assert there(tmp_path) == before and path.read_bytes() == content and cache.size() == len(content)


def test_a_replay_reads_what_is_being_recorded(tmp_path):
    path = tmp_path / "answers"
    with AnswerCache(path) as recording:
        recording.put("a", "yes", about={})
    with AnswerCache(path, mode="replay") as cache:
        assert cache.get("a") == "yes" and cache.get("b") is None
        with AnswerCache(path) as recording:
            recording.put("b", "no", about={})
            assert cache.get("b") == "no"
            recording.put("c", "x" * 100_000, about={})
            assert cache.get("c") == "x" * 100_000 and len(cache) == 3
        assert [cache.get(key) for key in "abd"] == ["yes", "no", None]
    with AnswerCache(path, mode="replay") as cache:
        assert cache.get("b") == "no"


def test_a_log_that_a_killed_process_left_is_read_or_explained(tmp_path):
    (tmp_path / "left").mkdir()
    with AnswerCache(tmp_path / "answers") as recording:
        recording.put("a", "yes", about={})
        for name in ("answers", "answers-wal"):
            shutil.copy(tmp_path / name, tmp_path / "left" / name)
    path = tmp_path / "left" / "answers"
    (tmp_path / "left" / "answers-shm").symlink_to(tmp_path / "no folder" / "file")  # sqlite cannot make it, as in a read-only folder
    with pytest.raises(
        ValueError, match="cannot be replayed .unable to open .*log lies beside it.* once with the mode 'use'.* or copy both"
    ):
        AnswerCache(path, mode="replay")
    (tmp_path / "left" / "answers-shm").unlink()
    with AnswerCache(path, mode="replay") as cache:
        assert cache.get("a") == "yes"
    AnswerCache(path).close()  # as the error says
    before = there(tmp_path / "left")
    assert [name for name, *_ in before] == ["left", "answers"]
    with AnswerCache(path, mode="replay") as cache:
        assert cache.get("a") == "yes" and there(tmp_path / "left") == before


def test_a_closed_cache_is_an_outage_and_no_answer(tmp_path):
    cache = AnswerCache(tmp_path / "a")
    cache.close()
    with pytest.raises(ServiceError, match="the answer cache cannot be used"):
        cache.get("a")


PUT = """
import sys, time
from editr2_jax.services.answer_cache import AnswerCache
with AnswerCache(sys.argv[1]) as cache:
    for i in range(int(sys.argv[3])):
        cache.put(f"{sys.argv[2]}/{i}", f"answer {i}", about={"who": sys.argv[2]})
        cache.put(f"shared/{i}", sys.argv[2], about={})
        print(i, flush=True)
"""


def writer(path, name, count):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PUT, str(path), name, str(count)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_several_processes_and_threads_share_a_file(tmp_path):
    path = tmp_path / "answers.sqlite"
    with AnswerCache(path) as cache:
        others = [writer(path, name, 20) for name in ("one", "two")]
        mine = lambda name: [cache.put(f"{name}/{i}", f"answer {i}", about={}) for i in range(20)]  # noqa: E731
        threads = [threading.Thread(target=mine, args=(name,)) for name in ("three", "four")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait(timeout=120) for other in others] == [0, 0]
        assert len(cache) == 100 and cache.get("two/19") == "answer 19" and cache.get("shared/3") in ("one", "two")


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_kept(tmp_path):
    path = tmp_path / "answers.sqlite"
    process = writer(path, "one", 100_000)
    for _ in range(30):
        told = int(process.stdout.readline())
    process.kill()
    process.communicate()
    with AnswerCache(path) as cache:
        assert all(cache.get(f"one/{i}") == f"answer {i}" and cache.get(f"shared/{i}") == "one" for i in range(told + 1))
        cache.put("after", "yes", about={})
