"""What a notebook installs into a runtime that has a jax of its own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ["jax>=0.10.2", "numpy>=2.4.6", "flax>=0.12.8", "grain>=0.2.18", 'pytest>=9; extra == "dev"', 'jax[tpu]; extra == "tpu"']


@pytest.fixture(scope="module")
def colab():
    spec = importlib.util.spec_from_file_location("colab", ROOT / "launch/colab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ({"jax": "0.10.2", "numpy": "2.4.6", "flax": "0.12.8", "grain": "0.3"}, []),
        ({"jax": "0.7.2", "numpy": "2.0.2", "flax": "0.11.0"}, ["flax>=0.12.8", "grain>=0.2.18"]),  # an older jax is not ours to replace
        ({"jax": "0.10.2", "numpy": "2.5.0", "flax": "0.13.0.dev1", "grain": "0.2.18"}, []),
    ],
)
def test_what_is_missing_or_too_old_is_installed_and_nothing_else(colab, runtime, expected):
    assert colab.lacking(REQUIREMENTS, runtime.get) == expected


def test_a_runtime_with_an_older_jax_is_told_which_one_is_needed(colab, monkeypatch):
    calls, old = [], {"jax": "0.7.2", "numpy": "2.0.2"}
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(colab.importlib.metadata, "requires", lambda name: REQUIREMENTS)
    monkeypatch.setattr(colab.sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=r"has jax 0\.7\.2, and editr2_jax needs jax>=0\.10\.2.*choose a newer runtime"):
        colab.main(old.get)
    assert len(calls) == 1 and "--no-deps" in calls[0]
    assert colab.too_old(REQUIREMENTS, {"jax": "0.11.0.dev1"}.get) == colab.too_old(REQUIREMENTS, {}.get) == ""


@given(st.sets(st.sampled_from(["flax", "grain", "pytest"])))
def test_a_runtime_s_jax_is_never_asked_for(colab, there):
    runtime = {"jax": "0.1", "jaxlib": "0.1", "numpy": "1.0"} | dict.fromkeys(there, "99")
    assert not [wanted for wanted in colab.lacking(REQUIREMENTS, runtime.get) if wanted.startswith(colab.KEPT)]


def test_pip_gets_no_dependencies_and_then_what_is_lacking_under_the_runtime_s_pins(colab, monkeypatch):
    calls = []

    def run(command, check):
        pins = [Path(name).read_text() for name in command if name.endswith("kept.txt")]
        calls.append((command[command.index("--disable-pip-version-check") + 1 :], pins))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(colab.importlib.metadata, "requires", lambda name: [*REQUIREMENTS, "surely-not-there>=1"])
    monkeypatch.setattr(colab.sys, "path", list(sys.path))
    colab.main()
    assert calls[0] == (["--no-deps", "--editable", str(ROOT)], []) and colab.sys.path[0] == str(ROOT)
    (_, _, *wanted), (pins,) = calls[1]
    assert wanted == ["surely-not-there>=1"]
    assert [line.partition("==")[0] for line in pins.split()] == ["jax", "jaxlib", "numpy"]
