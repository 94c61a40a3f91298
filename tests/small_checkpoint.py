"""A whole checkpoint in the official layout, small enough to train, evaluate and edit with in a test; and the command line to do it.

Everything the commands read is real: configuration files, safetensors, tokenizer. The weights are random, so the intents that the model
writes are rambles (every later turn falls back to its instruction) and its pictures are noise.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent / "golden"))  # bagel_cases, which tiny_world reads

import jax
import numpy as np
import pytest
import tiny_world

from editr2_jax.cli import main as entry
from editr2_jax.runtime import quick

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests/end_to_end/small_run.py"
VOCAB = 480
PATIENCE = 1800  # seconds that a command of its own process may take on a machine with other work to do


# the checkpoint --------------------------------------------------------------------------------------------------------------------


def small_config():
    """The sizes of the recorded tiny model, with a vocabulary that a tokenizer can have."""
    from editr2_jax.models.bagel import config

    base = config.tiny()
    tokens = config.SpecialTokens(bos=476, eos=477, image_start=478, image_end=479)
    return dataclasses.replace(base, decoder=dataclasses.replace(base.decoder, vocab=VOCAB), tokens=tokens)


def random_weights(size, *, seed: int = 0):
    """A model of random numbers, made without compiling anything."""
    from editr2_jax.models.bagel import bagel
    from editr2_jax.porting import rules, vit_weights

    rng = np.random.default_rng(seed)

    def array(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path in ("latent.pos", "vit_pos"):
            return np.asarray(vit_weights.sincos(shape), np.float32)
        if path.endswith(".scale"):
            return np.ones(shape, np.float32)
        return rng.normal(0, 0.02 if path.endswith((".b", ".bias")) else 0.1, shape).astype(np.float32)

    model = bagel.abstract(size)
    return rules.fill(model, {path: array(path, leaf.shape) for path, leaf in rules.leaves(model).items()})


def write(folder: Path) -> Path:
    """Writes the checkpoint folder: configuration, weights, autoencoder, tokenizer."""
    from editr2_jax import presets
    from editr2_jax.data.tokenizer import train_tiny
    from editr2_jax.porting import export
    from editr2_jax.rollouts import in_context_cot
    from editr2_jax.tabletop import world

    words, prompt = world.vocabulary_sentences(3000), presets.tabletop(presets.edit_r2()).rollout.prompt
    asked = [f"{prompt.system} {in_context_cot.question(prompt, [a, b], 1)}" for a, b in zip(words[::3], words[1::3], strict=False)]
    train_tiny([*words, *map(in_context_cot.answer, words), *asked], VOCAB, folder)
    export.write_folder(random_weights(small_config()), folder)
    return folder


@functools.cache
def _scratch() -> Path:
    """A folder that this process keeps to its end."""
    folder = tempfile.TemporaryDirectory(prefix="editr2_tests_")
    _scratch.folder = folder  # removed with the process
    return Path(folder.name)


@pytest.fixture(scope="session")
def small_checkpoint() -> Path:
    """The checkpoint, made once in a process; nobody changes it (copy it to break it)."""
    folder = _scratch() / "checkpoint"
    return folder if folder.exists() else write(folder)


# the command line ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str


def call(*argv) -> Outcome:
    """Runs a command inside this process, what it compiles made quickly (see tiny_world)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(jax, "jit", tiny_world.jit):
        status = entry.main([str(argument) for argument in argv])
    return Outcome(status=status, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="session")
def compiled_once():
    """Commands share what they compile: each makes its functions anew, but most of them are the same."""
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(_scratch() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _configure(settings)
    compilation_cache.reset_cache()
    yield
    _configure(before)
    compilation_cache.reset_cache()


def _configure(settings) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)


def handles(process: subprocess.Popen, number: int) -> bool:
    """Whether a running process of this machine has set up its own handler of a signal (Linux)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> number - 1 & 1)


def billed(bill: Path) -> collections.Counter[str]:
    """How often each verdict was asked for."""
    return collections.Counter(bill.read_text().splitlines() if bill.exists() else [])


def start(*argv, devices: int = 1, bill: Path | None = None) -> subprocess.Popen:
    """The same command in a process of its own, with so many simulated devices, for tests that end it. These share what they compile.
    `bill` gets a line for every verdict that is asked for."""
    environment = (
        os.environ
        | ({"EDITR2_BILL": str(bill)} if bill else {})
        | {
            "JAX_PLATFORMS": "cpu",
            # Threads of XLA's pool, by default as many as there are devices or cores. Gatherings that do not need each other block a thread
            # each: where that takes all threads of some devices, the others wait for them in vain.
            "NPROC": str(8 * devices),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(_scratch() / "compiled_by_processes"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {quick.flags()} --xla_force_host_platform_device_count={devices}",
        }
    )
    command = [sys.executable, str(ROOT / "tests/own_process.py"), *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
