"""The matrix of runs, with a stand-in for the command that each of them is."""

import json
import sys
import textwrap

import pytest
from ml_collections import ConfigDict

from editr2_jax.claims import questions, run

CONFIG = ConfigDict({"data": {"path": "somewhere"}, "loop": {"steps": 2}})

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
settings = {"data": {"sessions": 8, "group": 8}, "rollout": {"turns": 3}}
(folder / "config.json").write_text(json.dumps(settings))
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


def ask(out, *, overrides=(), jobs=1):
    said = []
    asked = questions.chosen(["learning"])
    result = run.run(asked, (0, 1), spec="some.py", config=CONFIG, overrides=list(overrides), out=out, say=said.append, jobs=jobs)
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


def test_a_run_that_breaks_is_told_with_its_log_and_goes_on_by_the_same_command(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(run.RunFailed, match=r"untrained, seed 0: exit status 1; see .*runs/untrained/0.log. The command was: .*evaluate"):
        ask(out, overrides=["--config.break=yes"])
    assert "broken" in (out / "runs" / "untrained" / "0.log").read_text()
    for _ in range(3):
        with pytest.raises(run.RunFailed):
            ask(out, overrides=["--config.break=yes"])
    result, _ = ask(out, overrides=["--config.break=yes"])
    assert result.startswith("table")


def test_a_table_of_missing_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="this run is not finished; run the claims command again without --table"):
        run.write_table(questions.chosen(["learning"]), (0,), config=CONFIG, out=tmp_path, made_by="")
