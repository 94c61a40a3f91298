"""A workdir belongs to one config and one process at a time."""

import json
import os
import subprocess
import sys
import threading

import pytest

from editr2_jax.runtime import workdir

CONFIG = {"seed": 0, "steps": 10, "objective": {"kl_weight": 0.01, "sizes": (1, 2)}}


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/editr2"):
        with pytest.raises(ValueError, match="cannot write here .*choose another --workdir"):
            workdir.writable(place)


def test_the_same_config_may_come_again(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    workdir.claim(tmp_path, json.loads(json.dumps(CONFIG)))
    assert json.loads((tmp_path / "config.json").read_text())["objective"] == {"kl_weight": 0.01, "sizes": [1, 2]}
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["jax"] and versions["python"] and "earlier" not in versions


def test_another_config_is_refused_by_name_and_changes_nothing(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    other = {"seed": 0, "steps": 20, "objective": {"kl_weight": 0.1, "sizes": (1, 2), "clip": 1}}
    with pytest.raises(ValueError, match=r"objective.clip was 'absent', is 1; objective.kl_weight was 0.01, is 0.1; steps was 10, is 20"):
        workdir.claim(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 10


def test_a_start_that_made_nothing_does_not_bind(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    (tmp_path / "checkpoints").mkdir()
    workdir.claim(tmp_path, CONFIG | {"seed": 1})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match="seed was 1, is 0"):
        workdir.claim(tmp_path, CONFIG)


def test_what_may_change_does(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    (tmp_path / "eval/0").mkdir(parents=True)
    workdir.claim(tmp_path, CONFIG | {"steps": 20}, may_change=("steps",))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 20


def test_versions_of_earlier_starts_are_kept(tmp_path, monkeypatch):
    workdir.claim(tmp_path, CONFIG)
    monkeypatch.setattr(workdir, "versions", lambda: {"jax": "99"})
    workdir.claim(tmp_path, CONFIG)
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["jax"] == "99" and len(versions["earlier"]) == 1 and versions["earlier"][0]["jax"] != "99"


def test_the_fingerprint_follows_the_content():
    assert workdir.fingerprint({"a": 1, "b": (2,)}) == workdir.fingerprint({"b": [2], "a": 1}) != workdir.fingerprint({"a": 1, "b": [3]})


def test_a_broken_config_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0,\n broken')
    with pytest.raises(ValueError, match=r"config.json:2: not JSON"):
        workdir.claim(tmp_path, CONFIG)


def test_two_processes_do_not_share_a_workdir(tmp_path):
    program = (
        "import sys, pathlib\nfrom editr2_jax.runtime import workdir\n"
        "with workdir.exclusive(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for patience in (0.0, 0.05):
            refused = pytest.raises(ValueError, match=f"process {other.pid} is writing into this workdir")
            with refused, workdir.exclusive(tmp_path, within_s=patience):
                pass
        threading.Timer(0.2, other.kill).start()
        with workdir.exclusive(tmp_path, within_s=60.0):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
    finally:
        other.kill()
        other.communicate()
    with workdir.exclusive(tmp_path):
        pass


@pytest.mark.parametrize("shipped", ["0123456789ab", "0123456789ab+", None])
def test_code_that_was_shipped_says_its_commit(tmp_path, monkeypatch, shipped):
    """A launch script's archive has no .git, but a file that names the commit."""
    package = tmp_path / "editr2_jax/runtime"
    package.mkdir(parents=True)
    monkeypatch.setattr(workdir, "__file__", str(package / "workdir.py"))
    if shipped:
        (tmp_path / "SHIPPED_COMMIT").write_text(shipped + "\n")
    assert workdir.versions().get("commit") == shipped


def test_what_an_earlier_version_did_not_say_counts_as_its_default(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    defaults = {"seed": 7, "rewards": {"arithmetic": "fixed", "sizes": (1, 2)}}
    with pytest.raises(ValueError, match="rewards.arithmetic was 'fixed', is 'edival'"):
        workdir.claim(tmp_path, CONFIG | {"rewards": {"arithmetic": "edival", "sizes": (1, 2)}}, defaults=defaults)
    with pytest.raises(ValueError, match="seed was 0, is 7"):
        workdir.claim(tmp_path, CONFIG | {"seed": 7}, defaults=defaults)
    workdir.claim(tmp_path, CONFIG | {"rewards": {"arithmetic": "fixed", "sizes": (1, 2)}}, defaults=defaults)
    assert json.loads((tmp_path / "config.json").read_text())["rewards"]["arithmetic"] == "fixed"
    with pytest.raises(ValueError, match="rewards.arithmetic was 'fixed', is 'absent'"):
        workdir.claim(tmp_path, CONFIG, defaults=defaults)
