"""Lets the tests of this folder import their helpers and `reward_fakes` under every import mode of pytest, and gives them a server."""

import sys
from pathlib import Path

import pytest
from small_checkpoint import compiled_once, small_checkpoint  # noqa: F401

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "rewards")]


@pytest.fixture
def server(tmp_path):
    """A judge in a process of its own, with no fault yet."""
    import judge_server  # found by the path above

    with judge_server.JudgeServer(tmp_path / "server.jsonl") as running:
        yield running
