"""The package into a runtime that has a jax of its own: `%run launch/colab.py` of a clone, as the notebooks do on Colab.

The package is installed without its dependencies; of those only what the runtime lacks, or has too old. jax, jaxlib and numpy stay what
they are, since they match the runtime's accelerator: pip is told their versions as constraints, and fails rather than replace them.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("jax", "jaxlib", "numpy")


def installed(name: str) -> str | None:
    """The version of a distribution that the runtime has."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def lacking(requirements: Iterable[str], version: Callable[[str], str | None] = installed) -> list[str]:
    """The requirements, those of extras aside, that the runtime does not meet; never one of KEPT that is there."""
    found = []
    for requirement in map(Requirement, requirements):
        has = version(requirement.name)
        met = has is not None and (requirement.name in KEPT or requirement.specifier.contains(has, prereleases=True))
        if not met and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def main() -> None:
    """Installs what is needed, and makes the clone importable at once."""
    _pip("--no-deps", "--editable", str(ROOT))
    sys.path.insert(0, str(ROOT))
    importlib.invalidate_caches()
    if wanted := lacking(importlib.metadata.requires("editr2_jax") or ()):
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / "kept.txt"
            pins.write_text("".join(f"{name}=={version}\n" for name in KEPT if (version := installed(name))))
            _pip("--constraint", str(pins), *wanted)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    main()
