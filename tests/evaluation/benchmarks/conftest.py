"""A small world with pictures made by another tool, a judge behind HTTP, and the small checkpoint."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from small_checkpoint import compiled_once, small_checkpoint  # noqa: F401

sys.path[:0] = [str(Path(__file__).parents[2] / "services"), str(Path(__file__).parents[2] / "rewards")]

SESSIONS, TURNS = 6, 2


@pytest.fixture
def server(tmp_path):
    """A judge in a process of its own, with no fault yet."""
    import judge_server  # found by the path above

    with judge_server.JudgeServer(tmp_path / "server.jsonl") as running:
        yield running


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A session folder with ground truth."""
    from editr2_jax.tabletop import world

    folder = tmp_path_factory.mktemp("world") / "data"
    world.write_folder(folder, {"train": 3, "test": SESSIONS}, seed=0, turns=TURNS, size=(48, 48), targets=True, workers=0)
    return folder


def draw(data, out, *, wrong=()):
    """What a tool that knows nothing of us writes: plain PNG files. wrong: (session number, turn) where it draws nothing new."""
    from editr2_jax.data import session_source

    source = session_source.SessionFolder(data, "test")
    for number, session in enumerate(source.sessions):
        folder = Path(out) / session.id
        folder.mkdir(parents=True)
        last = session.image
        for turn, about in enumerate(session.turns):
            last = last if (number, turn) in wrong else about.target
            Image.fromarray(source.read(last)).save(folder / f"turn_{turn + 1}.png")
    return source.sessions


@pytest.fixture
def pictures(world, tmp_path):
    """Six dialogues; one loses its second edit."""
    draw(world, tmp_path / "pictures", wrong=[(1, 1)])
    return tmp_path / "pictures"


@pytest.fixture
def mice_bench():
    """The public MICE-Bench metadata, where a developer has it beside the repository."""
    for above in Path(__file__).parents:
        if (above / "shared" / "mice_bench").is_dir():
            return above / "shared" / "mice_bench"
    pytest.skip("no MICE-Bench metadata here")
