"""What every test shares: the CPU, no compilation cache on disk, repeatable examples, and where the golden vectors lie."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax loads
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
sys.path.insert(0, str(Path(__file__).parent))  # helpers beside this file, in every import mode

import fsspec
import hypothesis
import pytest
from fsspec.implementations.memory import MemoryFileSystem

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("repeatable")
gc.set_threshold(100_000, 20, 100)  # traces make objects by the million; looking through them every 700 takes a few percent of the time


def pytest_addoption(parser):
    parser.addoption("--vectors", metavar="DIR", help="folder with vectors.json and vectors.safetensors (default: tests/golden/flow_rl)")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds; left out of the fast part")
    config.addinivalue_line("markers", "golden: compares with recorded arrays")
    folder = config.getoption("--vectors")
    if folder:
        os.environ["EDITR2_VECTORS"] = str(Path(folder).resolve())  # read when test modules are collected, in every worker


class Bucket(MemoryFileSystem):
    """One for all tests: epath keeps the file system that it has been given once."""

    protocol, store, pseudo_dirs, cachable = ("gcs", "gs"), {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))


@pytest.fixture
def bucket(monkeypatch):
    """gs:// through etils.epath as users have it, an empty bucket in memory behind it: its files by their names."""
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Bucket())
    return Bucket.store
