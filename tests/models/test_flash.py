"""The memory-saving ways of attention against the plain one, and what they cost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from attention_cases import KINDS, VIEWS, assert_equal, case, learner
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core

from editr2_jax.models import attention, splash
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.execution import Execution

ROOT = Path(__file__).parents[2]
SOME = [pytest.param("text", "two caches"), *(pytest.param(k, v, marks=pytest.mark.slow) for k in KINDS for v in VIEWS if k != "text")]


@pytest.mark.parametrize(("kind", "views"), SOME)
@pytest.mark.parametrize("way", ["kernel", "chunks"])
def test_attention_in_parts_equals_plain_attention_and_so_do_its_gradients(kind, views, way):
    for seed in range(4):  # what is visible is an argument: compiled once
        data = case(kind, views, seed)
        assert_equal(learner(way)(*data), learner("plain")(*data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_and_caches_of_several_tiles(kind):
    """2 x 150 queries and 200 and 100 keys in tiles of 128."""
    data = case(kind, "two caches", 0, tokens=150, times=25)
    assert_equal(learner("small tiles")(*data), learner("plain")(*data))


@pytest.mark.parametrize("way", ["kernel", "chunks"])
def test_a_token_that_sees_nothing_gives_nothing_and_teaches_nothing(way):
    arrays, mask, visible = case("text", "two caches", 0)
    mask.valid[0] = False
    for some in visible:
        some[0] = False
    (q, k, v, caches), out = learner(way)(arrays, mask, visible)
    for leaf in jax.tree.leaves((q, k, v, caches, out)):
        assert np.all(leaf[0] == 0) and np.any(leaf[1] != 0) and np.all(np.isfinite(leaf))


@given(st.integers(1, 20_000), st.sampled_from([16, 128]), st.sampled_from([512, 640, 1024]))
@settings(max_examples=100)
def test_tiles_cover_a_length_with_little_padding(length, unit, most):
    size = splash.tile(length, unit=unit, most=most)
    padded = -(-length // size) * size
    assert size % unit == 0 and size <= most
    assert padded - length < unit if length <= 384 else padded <= 1.2 * length + unit


def test_padding_of_a_denoising_block_at_512_pixels():
    queries, slots = 7 * 1026, 7424
    padded = [
        -(-n // size) * size
        for n, size in ((queries, splash.tile(queries, unit=16, most=640)), (slots, splash.tile(slots, unit=128, most=1024)))
    ]
    assert padded[0] / queries < 1.02 and padded[1] / slots < 1.04


# choice ----------------------------------------------------------------------------------------------------------------------------

BLOCK, SLOTS = (1, 3, 1026, 28), (7424,)


def way(attention_="auto", *, on="cpu", mask=None, shape=BLOCK, slots=SLOTS, layout=None, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: on)
    return attention.way(Execution(attention=attention_, layout=layout), mask, shape=shape, slots=slots)


def test_the_way_is_chosen_by_machine_and_shape(monkeypatch):
    chosen = lambda *args, **given: way(*args, monkeypatch=monkeypatch, **given)  # noqa: E731
    assert [chosen(on=on) for on in ("cpu", "tpu", "gpu")] == ["plain", "kernel", "chunks"]
    word = {"shape": (8, 1, 1, 28)}
    assert [chosen(on=on, **word) for on in ("cpu", "tpu", "gpu")] == ["plain"] * 3
    assert chosen("kernel") == "kernel" and chosen("kernel", **word) == "plain"  # compiled here to run on a TPU
    assert chosen("plain", on="tpu") == "plain"
    assert chosen("interpreted", **word) == "interpreted"
    assert chosen(on="tpu", mask=jnp.ones((1, 1, 1, 1), bool)) == "plain"
    with pytest.raises(ValueError, match="attention='kernel' takes no dense mask; say who sees whom by"):
        chosen("kernel", mask=jnp.ones((1, 1, 1, 1), bool))


def test_tiles_must_be_whole_registers():
    with pytest.raises(ValueError, match=r"Execution.tiles is \(100, 0\); give \(queries, keys\), each 0 or a multiple of 128"):
        Execution(tiles=(100, 0))


# the model -------------------------------------------------------------------------------------------------------------------------


def velocity(model, latents, cache, visible):
    view = View(k=cache[0], v=cache[1], visible=visible)
    start = jnp.full((2, 3), 4)
    others = View(k=cache[0][:, :, :, :5], v=cache[1][:, :, :, :5], visible=visible[:, :1, :5])
    return model.velocity(latents, jnp.full((2, 3), 0.7), grid=(1, 2), start=start, views=(view, others))


def learn(model, latents, cache, visible):
    def loss(latents):
        out = velocity(model, latents, cache, visible)
        return jnp.sum(jnp.sin(out)), out

    return jax.grad(loss, has_aux=True)(latents)


def arguments():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return normal(2, 3, 2, 64), (normal(2, 2, 2, 9, 16), normal(2, 2, 2, 9, 16)), rng.random((2, 2, 9)) < 0.6


def running(**execution):
    model = nnx.clone(tiny_world.world_model())
    model.decoder.execution = Execution(**execution)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "attention"])
def test_the_decoder_gives_the_same_velocity_and_gradient_by_the_kernel(remat):
    plain = tiny_world.compiled(learn)(*arguments())
    kernel = tiny_world.compiled(learn, running(attention="interpreted", remat=remat))(*arguments())
    np.testing.assert_allclose(kernel[1], plain[1], atol=1e-5)
    np.testing.assert_allclose(kernel[0], plain[0], atol=1e-4 * np.abs(plain[0]).max())


def forward_kernels(jaxpr) -> int:
    """How often a program and the programs in it call a forward kernel; the body of a loop counts once."""
    own = sum(eqn.primitive.name == "pallas_call" and "_fwd_" in eqn.params["name"] for eqn in jaxpr.eqns)
    return own + sum(forward_kernels(inner) for eqn in jaxpr.eqns for inner in core.jaxprs_in_params(eqn.params))


@pytest.mark.parametrize(("remat", "runs"), [("none", 1), ("full", 2), ("attention", 1)])
def test_the_policy_that_keeps_what_attention_gave_runs_its_kernels_once_forward(remat, runs):
    graph, state = nnx.split(running(attention="interpreted", remat=remat))
    program = jax.make_jaxpr(lambda state, *rest: learn(nnx.merge(graph, state), *rest))(state, *arguments())
    assert forward_kernels(program.jaxpr) == runs * 3  # block, cache, cache


def child(script: str, *arguments: str, **environment: str) -> str:
    """What a file beside this folder prints, run in a process of its own, whose devices are not this one's."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "tests", "tests/golden"))
    command = [sys.executable, str(ROOT / "tests" / script), *arguments]
    done = subprocess.run(command, env=os.environ | environment | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_on_a_mesh_all_is_equal_and_no_cache_travels():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    child("attention_on_a_mesh.py", XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


# compiled for TPUs, without one ----------------------------------------------------------------------------------------------------

# Attention of one layer at 512 pixels: B 1, R 2 + 1, T 1026, S 7424, H 28, K 4, d 128. All its scores would take 2.7 GiB in float32.
MIB = {
    "v5e:2x2": (60, 150),
    "v6e:2x2": (80, 250),
    "v5p:2x2x1": (200, 300),
    "tpu7x:2x2x1": (250, 400),
}  # temporaries: forward, and with backward


@pytest.mark.slow
@pytest.mark.parametrize("topology", MIB)
def test_attention_of_the_large_model_compiles_for_a_tpu_and_holds_no_scores(topology):
    pytest.importorskip("libtpu")
    found = json.loads(child("attention_for_tpus.py", topology).splitlines()[-1])
    for way, most in zip(("forward", "backward"), MIB[topology], strict=True):
        assert found[way]["temporaries"] < most * 2**20, found
        assert found[way]["largest_cache_copy"] <= 1.1, found  # in caches: a padded copy at most, none per variant
    assert (found["forward"]["kernels"], found["backward"]["kernels"]) == (
        3,
        7,
    )  # no gradient of a cache is computed: 3 + 2 for the block + 2


@pytest.mark.slow
def test_heads_cut_over_four_chips_gather_no_cache():
    pytest.importorskip("libtpu")
    found = json.loads(child("attention_for_tpus.py", "v5e:2x2", "tensor").splitlines()[-1])
    assert found["forward"]["collectives"] == found["backward"]["collectives"] == [], found
    assert found["backward"]["temporaries"] < 60 * 2**20, found


@pytest.mark.slow
def test_slots_cut_over_four_chips_gather_no_cache():
    pytest.importorskip("libtpu")
    found = json.loads(child("attention_for_tpus.py", "v5e:2x2", "sequence").splitlines()[-1])
    assert found["forward"]["collectives"] == found["backward"]["collectives"] == ["all-reduce"], found


@pytest.mark.slow
def test_two_layers_of_the_large_model_learn_through_the_kernel_on_a_tpu_mesh():
    pytest.importorskip("libtpu")
    found = json.loads(child("attention_for_tpus.py", "v5e:2x2", "model").splitlines()[-1])
    assert found["kernels"] == 7, found  # the policy keeps what attention gave: three kernels forward, four backward
