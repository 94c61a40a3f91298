"""Runs misbehaving_server.py in a process of its own, and what its questions are made of."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import reward_fakes as fakes

from editr2_jax.rewards import suite as suites
from editr2_jax.rewards.global_awareness import GlobalAwareness
from editr2_jax.rewards.instruction_following import InstructionFollowing
from editr2_jax.services.endpoints import Endpoints, EndpointsConfig
from editr2_jax.services.vlm_judge import VlmAnswerer, VlmConfig

PATIENT = {"backoff_s": 0.02, "backoff_max_s": 0.2, "breaker_s": 0.1, "outage_s": 20.0, "timeout_s": 10.0, "retries": 8}


class JudgeServer:
    """One server; a context manager."""

    def __init__(self, log, port=0):
        self.path, self.port, self.process = Path(log), port, None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        program = str(Path(__file__).with_name("misbehaving_server.py"))
        self.process = subprocess.Popen([sys.executable, program, str(self.port), str(self.path)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())  # the same one when it starts again

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def control(self, **told):
        """What it does from now on."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", data=json.dumps(told).encode(), method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
            pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def questions(self):
        """Its own books of what it was asked."""
        return [line for line in self.lines() if "key" in line]


def pool(*servers, **settings):
    return Endpoints(EndpointsConfig(urls=tuple(server.url for server in servers), **PATIENT | settings))


def answerer(*servers, cache=None, vlm=None, **settings):
    return VlmAnswerer(VlmConfig(model="judge", **vlm or {}), pool(*servers, **settings), cache=cache)


def rollouts(rows, turns=2):
    """turns[t][b]: rollout b's pictures are 0, b + 2, b + 3, ...; no two of them are asked about in the same words."""
    made = lambda t, row: fakes.episode([fakes.turn()] * turns, [0, *range(row + 2, row + t + 3)], "memory", f"train/{row // 4}")  # noqa: E731
    return [[made(t, row) for row in range(rows)] for t in range(turns)]


def truth(name, row, turn):
    """The score that the server's own truth gives."""
    return float((row + turn) % 2 == 0 if name == "if" else all((row + i) % 2 == 0 for i in range(turn + 1)))


def suite(judge, *, workers=16, max_error_share=1.0, store=None):
    """IF and GA over one answerer, which closes with it."""
    rewards = [InstructionFollowing(fakes.Detector({}), judge), GlobalAwareness(judge)]
    limits = {"workers": workers, "max_error_share": max_error_share}
    return suites.Suite(rewards, {"if": 0.5, "ga": 0.5}, **limits, store=store, services={"judge": judge})


def invented(scores):
    """Scores that are neither true nor missing: (reward, row, turn)."""
    found = []
    for name, table in scores.verdicts.items():
        for row, verdicts in enumerate(table):
            for turn, verdict in enumerate(verdicts):
                if verdict.status == "ok" and verdict.value != truth(name, row, turn):
                    found.append((name, row, turn))
                elif verdict.status != "ok" and verdict.value == verdict.value:
                    found.append((name, row, turn))
    return found


def missing(scores):
    """How many verdicts have no value, by status."""
    statuses = [verdict.status.value for table in scores.verdicts.values() for row in table for verdict in row]
    return {status: statuses.count(status) for status in set(statuses) - {"ok"}}
