"""The package into a runtime that has a jax of its own: `%run launch/colab.py` of a clone, as the notebooks do on Colab.

The package is installed without its dependencies; of those only what the runtime lacks, or has too old. jax, jaxlib and numpy stay what
they are, since they match the runtime's accelerator: pip is told their versions as constraints, and fails rather than replace them. A
runtime whose jax is older than the package needs is told so, before any dependency is installed.
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


def lacking(requirements: Iterable[str], version: Callable[[str], str | None]) -> list[str]:
    """The requirements, those of extras aside, that the runtime does not meet; never one of KEPT that is there."""
    found = []
    for requirement in map(Requirement, requirements):
        has = version(requirement.name)
        met = has is not None and (requirement.name in KEPT or requirement.specifier.contains(has, prereleases=True))
        if not met and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def too_old(requirements: Iterable[str], version: Callable[[str], str | None]) -> str:
    """What to do about a jax that is there and older than what is required; empty where there is none, or a newer one."""
    has = version("jax")
    for needs in map(Requirement, requirements):
        if needs.name == "jax" and not needs.extras and has is not None and not needs.specifier.contains(has, prereleases=True):
            return (
                f"this runtime has jax {has}, and editr2_jax needs {needs}. It is not replaced, since it matches the accelerator: "
                "choose a newer runtime (Runtime > Change runtime type > Runtime version > Latest), or run the notebook where jax is newer."
            )
    return ""


def main(version: Callable[[str], str | None] = installed) -> None:
    """Installs what is needed, and makes the clone importable at once."""
    _pip("--no-deps", "--editable", str(ROOT))
    sys.path.insert(0, str(ROOT))
    importlib.invalidate_caches()
    requirements = importlib.metadata.requires("editr2_jax") or ()
    if problem := too_old(requirements, version):
        raise SystemExit(problem)
    if wanted := lacking(requirements, version):
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / "kept.txt"
            pins.write_text("".join(f"{name}=={has}\n" for name in KEPT if (has := version(name))))
            _pip("--constraint", str(pins), *wanted)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    main()
