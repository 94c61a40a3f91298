"""The entry: verbs are found, mistakes become one message, faults keep their traceback, help costs nothing."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

from editr2_jax.cli import main as entry


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder of verbs in place of the package's own; the value writes one into it."""
    monkeypatch.setattr(entry, "_ROOM", tmp_path)
    monkeypatch.setattr(entry, "_PACKAGE", tmp_path)

    def write(name, body, about="does something."):
        path = tmp_path / f"{name}.py"
        path.write_text(f'"""{about}\n\nMore.\n"""\n\nimport sys\n\ndef main(argv):\n{textwrap.indent(textwrap.dedent(body), "    ")}\n')
        spec = importlib.util.spec_from_file_location(f"editr2_jax.cli.{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, f"editr2_jax.cli.{name}", module)

    return write


def test_the_verb_gets_the_rest_and_gives_the_status(room, capsys):
    room("play", "print(argv)\nreturn 7")
    assert entry.main(["play", "--debug", "--workdir=x", "y"]) == 7
    assert capsys.readouterr().out == "['--workdir=x', 'y']\n"


def test_no_status_is_success(room):
    room("play", "pass")
    assert entry.main(["play"]) == 0


def test_help_lists_verbs_by_their_first_line(room, capsys, tmp_path):
    room("play", "pass", about="Plays a session.")
    room("report", "pass", about="Writes a report.")
    (tmp_path / "helper.py").write_text("def other(): pass\n")
    (tmp_path / "common.py").write_text("def main(): pass\n")
    assert entry.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "  play    Plays a session.\n  report  Writes a report.\n" in out and "helper" not in out and "common" not in out


def test_no_verb_is_a_mistake(room, capsys):
    room("play", "pass")
    assert entry.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "usage:" in captured.err


def test_an_unknown_verb_names_the_nearest(room, capsys):
    room("train", "pass")
    room("report", "pass")
    assert entry.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no verb 'trian' (the nearest is train); the verbs are report, train.\n"
    assert entry.main(["xyzzy"]) == 2
    assert "nearest" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "body, status",
    [
        ("raise ValueError('train.jsonl:3: what is wrong; what to do')", 2),
        ("try:\n    int('x')\nexcept ValueError as error:\n    raise ValueError('train.jsonl:3: what is wrong; what to do') from error", 2),
        ("raise RuntimeError('train.jsonl:3: what is wrong; what to do')", 1),
        ("raise FloatingPointError('train.jsonl:3: what is wrong; what to do')", 1),
    ],
)
def test_a_mistake_is_one_message(room, capsys, body, status):
    room("play", body)
    assert entry.main(["play"]) == status
    assert capsys.readouterr().err == "error: train.jsonl:3: what is wrong; what to do\n"


def test_a_file_that_is_not_there_is_named(room, capsys):
    room("play", "open('/nowhere/at/all')")
    assert entry.main(["play"]) == 2
    assert capsys.readouterr().err == "error: [Errno 2] No such file or directory: '/nowhere/at/all'\n"


def test_debug_shows_the_traceback_of_a_mistake(room, capsys):
    room("play", "raise ValueError('what is wrong')")
    assert entry.main(["--debug", "play"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        "import numpy\nnumpy.zeros(2) + numpy.zeros(3)",  # a ValueError, but not one that a line of ours raised
        "import jax.numpy\njax.numpy.zeros(2) + jax.numpy.zeros(3)",
        "int('x')",
        "{}['x']",
        "raise NotImplementedError",
        "raise TypeError('x')",
    ],
)
def test_a_fault_keeps_its_traceback(room, capsys, body):
    room("play", body)
    assert entry.main(["play"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_not_a_traceback(room, capsys):
    room("play", "raise KeyboardInterrupt")
    assert entry.main(["play"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom editr2_jax.cli import common, main\nassert main.main(['--help']) == 0\n"
        "print({'jax', 'numpy', 'flax', 'orbax', 'grain', 'transformers', 'ml_collections', 'absl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_the_package_is_runnable():
    done = subprocess.run([sys.executable, "-m", "editr2_jax", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m editr2_jax VERB")


def test_a_closed_pipe_is_silent():
    command = f"{sys.executable} -c \"import sys; from editr2_jax.cli import main; sys.exit(main.main(['--help']))\" | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
