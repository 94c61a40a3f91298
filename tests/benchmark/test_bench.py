"""The command: the shape of its table and its JSON, and what it answers to wrong arguments. Never a time."""

import json

import jax
import pytest
import tiny_world

from editr2_jax.benchmark import cases, phases
from editr2_jax.cli import bench
from editr2_jax.models.bagel import config as configs
from editr2_jax.policies.flops import Dialogue


@pytest.fixture
def smallest(monkeypatch):
    """Two turns of two steps on the smallest model, in place of the sizes that the command measures."""

    def dialogue(size, *, checkpoint=None, rank=0):
        return Dialogue(
            config=configs.tiny(), height=32, width=32, turns=2, steps=2, window=1, instruction=4, system=3, question=7, intent=2, rank=rank
        )

    monkeypatch.setattr(cases, "dialogue", dialogue)
    monkeypatch.setattr(jax, "jit", tiny_world.jit)  # quick to compile; the times are not looked at


def measured(tmp_path, capsys, *argv) -> tuple[dict, str]:
    assert bench.main([*argv, "--repeats=1", f"--json={tmp_path / 'out.json'}"]) == 0
    return json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out


def check(found, batches, names):
    assert [(row["batch"], row["phase"]) for row in found["rows"]] == [(batch, name) for batch in batches for name in names]
    for row in found["rows"]:
        assert row["flops"] > 0 and row["seconds"] > 0 and row["compile_seconds"] >= 0
        assert row["milliseconds_per_session"] == pytest.approx(row["milliseconds"] / row["batch"])
        assert row["share"] == pytest.approx(row["rate"] / max(found["matrix_gflops"].values()))


@pytest.mark.slow
def test_a_row_per_phase_and_batch(smallest, tmp_path, capsys):
    found, out = measured(tmp_path, capsys, "--size=tiny", "--batch=1,2", "--only=ask,encode")
    check(found, (1, 2), ("encode", "ask"))
    assert set(found["matrix_gflops"]) == {"1024", "2048"}
    assert found["given_for_pytorch"]["ms_per_guided_denoising_step"] == 155.0
    assert out.count("question read") == 2
    assert "given and not measured here" in out


@pytest.mark.slow
@pytest.mark.nightly
def test_every_phase_runs(smallest, tmp_path, capsys):
    found, _ = measured(tmp_path, capsys, "--size=tiny", "--batch=2", "--rank=2")
    check(found, (2,), tuple(phases.PHASES))


@pytest.mark.parametrize(
    "argument, told",
    [
        ("--size=huge", "--size does not know huge; choose from tiny, mid"),
        ("--only=denoise,sleep", "--only does not know sleep; choose from encode, decode"),
        ("--batch=1,x", "--batch=1,x is no list of numbers"),
        ("--batch=0", "--batch=0: give numbers of at least 1"),
        ("--repeats=0", "--repeats is 0; give at least 1"),
        ("--json=nowhere/out.json", "there is no folder nowhere; make it first"),
        ("--workdir=x", "unknown flag --workdir"),
    ],
)
def test_a_wrong_argument_says_what_there_is(argument, told):
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        bench.main([argument])


def test_instructions_fill_their_slots():
    stage = cases.Stage(dialogue=cases.dialogue("tiny", rank=1), batch=2, model=None)
    words = cases.Words(stage.dialogue.config)
    encoded = words.encode(stage.samples[0].session.turns[0].instruction)
    assert len(encoded) + 2 == stage.dialogue.instruction
    assert words.encode(words.decode(encoded).removeprefix("</think>")) == encoded
