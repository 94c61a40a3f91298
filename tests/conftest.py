"""What every test shares: the CPU, no compilation cache on disk, repeatable examples, and where the golden vectors lie."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax loads
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
sys.path.insert(0, str(Path(__file__).parent))  # helpers beside this file, in every import mode

import hypothesis

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
