"""The notebooks: they run to their end on a CPU, they are kept without outputs, and they leave a runtime's jax alone."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from editr2_jax.runtime import quick

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in FILES]
NIGHTLY = pytest.mark.nightly
PATIENCE = 1800  # seconds that a cell may take on a machine with other work to do
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPOSITORY = re.search(r"name the repository `([^`]+)`", README)[1]  # of the badges and of what Colab clones


def read(name: str):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_four():
    assert NAMES == ["01_edit_by_hand", "02_inspect_a_run", "03_change_one_idea", "04_port_weights"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs_under_a_title_with_a_badge(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    head = notebook.cells[0]
    assert head.cell_type == "markdown" and head.source.startswith("# ")
    assert f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb)" in head.source
    assert f"(notebooks/{name}.ipynb)" in README


@pytest.mark.parametrize("name", NAMES)
def test_its_first_cell_installs_nothing_but_on_colab_and_never_jax(name):
    first, *others = code_of(read(name))
    guard, _, rest = first.partition('if "google.colab" in sys.modules:')
    inside = re.match(r"[^\n]*\n((?: {4}.*\n)+)", rest)[1]
    assert guard.split() == ["import", "sys"]
    assert [line.split()[0] for line in inside.splitlines()] == ["REPOSITORY", "!git", "%run"]
    assert f'REPOSITORY = "{REPOSITORY}"' in inside and (ROOT / "launch/colab.py").is_file() and "/launch/colab.py" in inside
    outside = "\n".join([first.replace(inside, ""), *others])
    assert not re.search(r"^\s*[!%]|\bpip\b|subprocess|os\.system", outside, re.MULTILINE), "nothing else is run or installed"


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES[:1], *(pytest.param(names, marks=NIGHTLY) for names in (NAMES[1:3], NAMES[3:]))], ids=" and ".join)
def test_it_runs_to_its_end(names, tmp_path, monkeypatch):
    """In a folder of its own, with the package of this checkout. The second and the third compile the same programs, so they share them."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    own = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "true", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    own |= {"IPYTHONDIR": str(tmp_path / "ipython"), "PYTHONDONTWRITEBYTECODE": "1"}
    if quick.options():  # known here: compiling takes most of the time, but unlike a test a notebook has something to compute
        own["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1"
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    for name in names:
        notebook = read(name)
        client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "here")}})
        client.execute(env=os.environ | own)  # raises with the cell and its traceback
        shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        figures = [output for output in shown if "image/png" in output.get("data", {})]
        assert len(figures) >= 3, f"{name}: {len(figures)} figures"
        assert all(code.strip() for code in code_of(notebook))
