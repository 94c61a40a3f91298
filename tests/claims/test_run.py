"""The matrix of runs, with a stand-in for the command that each of them is."""

import json
import sys
import textwrap

import pytest
from ml_collections import ConfigDict

from editr2_jax.claims import questions, run

pytestmark = pytest.mark.slow

CONFIG = {"data": {"path": "somewhere", "sessions": 8, "group": 8}, "rollout": {"turns": 3}, "loop": {"steps": 2}, "seed": 0}

STAND_IN = """
import json, pathlib, sys
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
folder = pathlib.Path(flags["workdir"])
calls = folder / "calls.txt"
calls.write_text((calls.read_text() if calls.exists() else "") + " ".join(sys.argv[1:]) + "\\n")
if flags.get("config.break") and len(calls.read_text().splitlines()) == 1:
    sys.exit("broken")
last = folder / "eval" / ("2" if sys.argv[1] == "train" else "0")
last.mkdir(parents=True)
record = {"session": "d", "subset": "plain", "turn": 0, "task_type": "subject_add", "instruction": "go", "scores": {"if": 1.0, "cc": 1.0},
          "status": {"if": "ok", "cc": "ok"}, "reward": 0.5}
(last / "scores.jsonl").write_text(json.dumps(record) + "\\n" + json.dumps(record | {"session": "e"}) + "\\n")
(last / "summary.json").write_text("{}")
settings = {"data": {"path": flags["config.data.path"], "sessions": 8, "group": 8}, "rollout": {"turns": 3}, "loop": {"steps": 2}}
(folder / "config.json").write_text(json.dumps(settings | {"seed": int(flags["config.seed"])}))
(folder / "versions.json").write_text(json.dumps({"jax": "1.2.3", "earlier": [{"jax": "1.2"}]}))
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`python -m editr2_jax VERB ...` becomes a script that leaves what a run leaves."""
    script = tmp_path / "stand_in.py"
    script.write_text(textwrap.dedent(STAND_IN))
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {script} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(interpreter))


def matrix(out, *, overrides=(), **more):
    def config_of(values):
        return ConfigDict(CONFIG | {"seed": int(values["seed"])} | more)

    chosen = questions.chosen(["learning"])
    return run.Matrix(
        questions=chosen,
        seeds=(0, 1),
        out=out,
        spec="some.py",
        overrides=overrides,
        config_of=config_of,
        command="python -m editr2_jax claims",
    )


def ask(out, *, overrides=(), jobs=1, **more):
    said = []
    result = run.run(matrix(out, overrides=overrides, **more), config=ConfigDict(CONFIG), say=said.append, jobs=jobs)
    return result, said


def test_runs_are_made_once_and_the_table_from_them(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    result, said = ask(out)
    assert result == f"table: {out / 'claims.md'}" and "4 to go" in said[0]
    calls = (out / "runs" / "recommended" / "1" / "calls.txt").read_text()
    assert calls.startswith("train --config=some.py") and "--config.seed=1" in calls and "--config.data.path=" in calls
    assert (out / "runs" / "untrained" / "0" / "calls.txt").read_text().startswith("evaluate ")
    cost = json.loads((out / "runs" / "recommended" / "0" / "cost.json").read_text())
    assert 0 < cost["cpu_minutes"] and 0 < cost["minutes"]
    arms = json.loads((out / "claims.json").read_text())["arms"]
    assert arms["recommended"]["pictures"] == 8 * 8 * 3 * 2 and arms["untrained"]["pictures"] == 0
    _, said = ask(out)
    assert "4 runs are there, 0 to go" in said[0]


def test_runs_may_be_made_side_by_side(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    result, said = ask(out, jobs=3)
    assert result.startswith("table") and len(said) == 5


@pytest.mark.slow
def test_a_run_that_breaks_is_told_with_its_log_and_goes_on_by_the_same_command(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(run.RunFailed, match=r"untrained, seed 0: exit status 1; see .*runs/untrained/0.log. The command was: .*evaluate"):
        ask(out, overrides=[("break", "yes")])
    assert "broken" in (out / "runs" / "untrained" / "0.log").read_text()
    for _ in range(3):
        with pytest.raises(run.RunFailed):
            ask(out, overrides=[("break", "yes")])
    result, _ = ask(out, overrides=[("break", "yes")])
    assert result.startswith("table")


def test_a_table_of_missing_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="this run is not finished; run the claims command again without --table"):
        run.write_table(matrix(tmp_path))


def test_a_run_of_another_config_is_neither_used_nor_made_anew(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    ask(out)
    with pytest.raises(
        ValueError, match=r"untrained/0: this run was made with another config \(rollout.turns was 3, is 2\); remove the folder"
    ):
        ask(out, rollout={"turns": 2})
    result, _ = ask(out, newer={"key": 1})  # that the runs did not have yet
    assert result.startswith("table")


def test_what_the_claims_vary_themselves_cannot_be_overridden(tmp_path):
    with pytest.raises(ValueError, match="--config.seed: the claims vary this value themselves"):
        ask(tmp_path, overrides=[("seed", "3")])


def test_a_run_whose_cost_nobody_counted_is_in_the_table(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    ask(out)
    (out / "runs" / "recommended" / "0" / run.COST).unlink()
    made = run.write_table(matrix(out)).read_text()
    assert "jax 1.2.3" in made and "nan" not in made
