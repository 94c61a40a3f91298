"""The shell scripts: they parse, find their Python or say what is missing, and local.sh says where the report is."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["launch/environment.sh", "launch/local.sh", "launch/test.sh", "launch/tiny_base.sh", "launch/nightly.sh", ".ci/run"]


@pytest.fixture
def checkout(tmp_path):
    """A copy of the scripts beside a package of two pretended verbs, in an environment that is already installed."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "launch", root / "launch")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (root / "editr2_jax").mkdir()
    (root / "editr2_jax" / "__main__.py").write_text(
        textwrap.dedent("""
            import pathlib, sys
            verb, *rest = sys.argv[1:]
            workdir = pathlib.Path([flag for flag in rest if flag.startswith("--workdir=")][0].partition("=")[2])
            print(verb, *rest)
            (workdir / "report").mkdir(parents=True, exist_ok=True)
            if verb == "report" and not (workdir / "stopped").exists():
                (workdir / "report" / "result.txt").write_text("reward 0.4 -> 0.6\\n")
        """)
    )
    venv = root / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "python").chmod(0o755)
    (venv / "activate").write_text(f"PATH='{venv}':$PATH\n")
    digest = subprocess.run(f"cat '{root}/setup.py' '{root}/pyproject.toml' | cksum", shell=True, capture_output=True, text=True).stdout
    (root / ".venv" / ".installed-cpu").write_text(f"{root} {digest}")
    return root


def run_local(checkout, *arguments, cwd=None):
    done = subprocess.run(["bash", str(checkout / "launch/local.sh"), *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read_it(script):
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_local_trains_and_ends_with_the_report_and_a_result(checkout, tmp_path):
    train, *_, report, result = run_local(checkout, cwd=tmp_path)
    workdir = checkout / "workdirs/tabletop_edit_r2"
    assert train == f"train --config=configs/tabletop_edit_r2.py --workdir={workdir}"
    assert report == f"report: {workdir}/report/index.html" and result == "result: reward 0.4 -> 0.6"


def test_a_workdir_is_meant_from_where_one_stands(checkout, tmp_path):
    train, *_ = run_local(checkout, "mine", "--config.seed=2", cwd=tmp_path)
    assert train == f"train --config=configs/tabletop_edit_r2.py --workdir={tmp_path}/mine --config.seed=2"


def test_a_stopped_run_says_how_to_go_on(checkout, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stopped").touch()
    assert run_local(checkout, "mine", cwd=tmp_path)[-1] == "result: none yet, the run was stopped; the same command goes on with it"


def test_without_python_the_message_says_what_to_do(checkout, tmp_path):
    shutil.rmtree(checkout / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "cksum"):
        os.symlink(shutil.which(tool), tools / tool)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # one that is too old
    (tools / "python3").chmod(0o755)
    done = subprocess.run([tools / "bash", checkout / "launch/test.sh"], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: no Python 3.11 or newer found; install one, or name it: PYTHON=")
