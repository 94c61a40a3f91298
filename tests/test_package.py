"""The package as a whole: everything can be imported, and nothing in it is a secret."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import editr2_jax

ROOT = Path(__file__).parents[1]
SECRET = re.compile(
    r"(AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9]{20,}|ghp_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:api_?key|secret|token|password)\s*=\s*[\"'][A-Za-z0-9+/_-]{20,}[\"'])"
)


def modules() -> list[str]:
    found = pkgutil.walk_packages(editr2_jax.__path__, "editr2_jax.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


@pytest.mark.slow
def test_defect_01_every_module_can_be_imported():
    """Edit-R2's training script does not parse."""
    for name in modules():
        importlib.import_module(name)


def test_defect_02_no_file_holds_a_key():
    """Edit-R2's script holds the key of a logging service."""
    suspects = [
        f"{path.relative_to(ROOT)}: {match[0][:12]}..."
        for folder in ("editr2_jax", "configs", "launch", "tests", "notebooks", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh", ".ipynb", ".md", ".js", "") and path.is_file()
        for match in SECRET.finditer(path.read_text(errors="ignore"))
        if path != Path(__file__)
    ]
    assert not suspects
