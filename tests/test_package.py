"""The package as a whole: everything in it can be imported."""

import importlib
import pkgutil

import pytest

import editr2_jax


def modules() -> list[str]:
    found = pkgutil.walk_packages(editr2_jax.__path__, "editr2_jax.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


@pytest.mark.slow
def test_defect_01_every_module_can_be_imported():
    """Edit-R2's training script does not parse."""
    for name in modules():
        importlib.import_module(name)
