"""transformers' own server with a Qwen2.5-VL of random weights: a real one, whose answers are nonsense. Wants the extra `judges`."""

import collections
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tiny_vlm
from small_checkpoint import CONFIG, PATIENCE, call

from editr2_jax.runtime import metrics

_NEEDED = ("torch", "torchvision", "fastapi", "uvicorn")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(_MISSING), reason=f"pip install -e .[judges]; there is no {', '.join(_MISSING)}")]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """(its URL, its name), once it answers: `transformers serve DIR --port N`, on loopback as it is by default."""
    folder = tmp_path_factory.mktemp("vlm") / "tiny"
    tiny_vlm.write(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder.name, "--port", str(port), "--device", "cpu"]
    told = (folder.parent / "server.log").open("w+")
    process = subprocess.Popen(command, cwd=folder.parent, stdout=told, stderr=told, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        ends = time.monotonic() + PATIENCE
        while not _well(f"http://localhost:{port}/health"):
            said = (folder.parent / "server.log").read_text()
            assert process.poll() is None and time.monotonic() < ends, said
            time.sleep(0.2)
        yield f"http://localhost:{port}/v1", folder.name
    finally:
        process.kill()
        process.wait()
        told.close()


def _well(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def _judged_by(vlm, checkpoint, *more):
    url, name = vlm
    settings = {
        "model.checkpoint": checkpoint, "rewards.answerer": "vlm", "rewards.vlm.urls": f"('{url}',)", "rewards.vlm.model": name,
        "rewards.vlm.max_tokens": 24, "rewards.max_error_share": 1.0, "doctor.before": False,
    }  # fmt: skip
    return (f"--config={CONFIG}:edit_r2", *(f"--config.{name}={value}" for name, value in settings.items()), *more)


@pytest.mark.usefixtures("compiled_once")
def test_it_serves_a_step_of_training_and_its_nonsense_is_never_a_score(vlm, small_checkpoint, tmp_path):
    run = tmp_path / "run"
    more = ("--config.evaluate.before=False", "--config.loop.steps=1", "--config.loop.record_every=1")
    outcome = call("train", f"--workdir={run}", *_judged_by(vlm, small_checkpoint, *more))
    assert outcome.status == 0, outcome.err
    (line,) = metrics.read(run)
    assert line["judge/answers"] == line["judge/requests"] > 0 and not any(name.startswith("judge/failures") for name in line)
    rollouts = [rollout for group in json.loads((run / "sessions/0/rollouts.json").read_text())["groups"] for rollout in group["rollouts"]]
    turns = [turn for rollout in rollouts for turn in rollout["turns"]]
    assert {turn["status"]["ga"] for turn in turns} <= {"judge_format_error", "not_applicable"}
    assert any(turn["status"]["ga"] == "judge_format_error" for turn in turns) and all(turn["scores"]["ga"] is None for turn in turns)


@pytest.mark.usefixtures("compiled_once")
def test_it_serves_an_evaluation_and_a_benchmark_whose_second_run_asks_nothing(vlm, small_checkpoint, tmp_path):
    drawn, out = tmp_path / "drawn", tmp_path / "scored"
    outcome = call("evaluate", f"--workdir={drawn}", *_judged_by(vlm, small_checkpoint, "--config.evaluate.sessions=4"))
    assert outcome.status == 0, outcome.err
    _no_score_from_nonsense(drawn / "eval/0/scores.jsonl")

    where = (f"--pictures={drawn / 'eval/0/pictures'}", f"--data={drawn / 'data'}", "--sessions=4", f"--workdir={out}")
    outcome = call("score", *where, *_judged_by(vlm, small_checkpoint))
    assert outcome.status == 0, outcome.err
    _no_score_from_nonsense(out / "scores.jsonl")
    made = {path.name: path.read_bytes() for path in out.glob("*.*") if path.suffix in (".json", ".jsonl", ".md", ".html", ".tex")}
    outcome = call("score", *where, *_judged_by(vlm, small_checkpoint))
    first, second = (json.loads(line) for line in (out / "asked.jsonl").read_text().splitlines())
    assert outcome.status == 0 and first["judge/requests"] > 0 and not second.get("judge/requests")
    assert second["judge/cache_hits"] == first["judge/requests"]  # what cannot be read is no verdict, but an answer
    del made["asked.jsonl"]
    assert {name: (out / name).read_bytes() for name in made} == made and {"leaderboard.json", "tables.tex", "index.html"} <= set(made)


def _no_score_from_nonsense(path: Path) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    told = collections.Counter(record["status"]["ga"] for record in records)
    assert told["judge_format_error"] > 0 and "ok" not in told and "service_error" not in told, told
    assert all(record["scores"]["ga"] is None for record in records)
