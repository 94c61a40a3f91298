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

from editr2_jax.models import attention, tiles
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.execution import Execution
from editr2_jax.policies import one_pass

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
    """2 x 150 queries and 400 and 200 keys in tiles of 128, some of which nobody sees."""
    arrays, mask, visible = case(kind, "two caches", 0, tokens=150, times=50)
    for hidden in (slice(0, 0), slice(300, 400), slice(0, 130), slice(128, 256), slice(0, 400)):
        some = (visible[0].copy(), visible[1])
        some[0][:, :, hidden] = False
        assert_equal(learner("small tiles")(arrays, mask, some), learner("plain")(arrays, mask, some))


@pytest.mark.slow
def test_tiles_that_nobody_sees_are_not_read():
    """The free end of a cache costs nothing: what stands there does not even reach a product."""
    (q, k, v, ((keys, values), other)), mask, visible = case("picture", "two caches", 0, tokens=150, times=50)
    visible[0][:, :, 200:] = False
    expected = learner("small tiles")((q, k, v, ((keys, values), other)), mask, visible)
    keys[:, :, 256:] = values[:, :, 256:] = np.nan
    ours = learner("small tiles")((q, k, v, ((keys, values), other)), mask, visible)
    tiny_world.assert_close(ours, expected, atol=0)


@pytest.mark.parametrize("way", ["kernel", "chunks"])
def test_a_token_that_sees_nothing_gives_nothing_and_teaches_nothing(way):
    arrays, mask, visible = case("text", "two caches", 0)
    mask.valid[0] = False
    for some in visible:
        some[0] = False
    (q, k, v, caches), out = learner(way)(arrays, mask, visible)
    for leaf in jax.tree.leaves((q, k, v, caches, out)):
        assert np.all(leaf[0] == 0) and np.any(leaf[1] != 0) and np.all(np.isfinite(leaf))


@given(st.integers(1, 20_000), st.sampled_from([(16, 640), (128, 512), (128, 1024)]))
@settings(max_examples=100)
def test_tiles_cover_a_length_with_little_padding(length, bounds):
    unit, most = bounds
    size = tiles.tile(length, unit=unit, most=most)
    padded = -(-length // size) * size
    assert size % unit == 0 and size <= most
    assert padded - length < unit if length <= most else padded <= (1.6 if length < 4 * most else 1.2) * length


@given(st.integers(1, 20_000))
def test_a_cache_of_whole_tiles_is_not_padded(capacity):
    slots = tiles.slots(capacity)
    assert slots >= capacity and slots % tiles.keys(slots) == 0


def test_padding_of_a_denoising_block_at_512_pixels():
    queries, slots = 7 * 1026, 7424
    padded = lambda length, size: -(-length // size) * size / length  # noqa: E731
    assert padded(queries, tiles.queries(queries)) < 1.02 and padded(queries, tiles.queries(queries, backward=True)) < 1.02
    assert padded(slots, tiles.keys(slots)) < 1.04


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


def test_pieces_hold_no_more_scores_than_they_may(monkeypatch):
    """A denoising block of the large model, compiled and not run: all its scores would take 2.7 GiB."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    array = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    b, r, t, h = BLOCK
    q, k = array(b, r, t, h, 128), array(b, r, t, 4, 128)
    views = ((array(b, 4, *SLOTS, 128), array(b, 4, *SLOTS, 128), array(b, r, *SLOTS, dtype=bool)),)

    def learn(q, k, v, views):
        return jax.grad(lambda q: jnp.sum(attention.attend(q, k, v, None, views, Execution())))(q)

    held = jax.jit(learn).lower(q, k, k, views).compile().memory_analysis().temp_size_in_bytes
    assert held < 5 * attention._SCORES_BYTES


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


@pytest.mark.slow
def test_a_picture_is_seen_the_same_by_the_kernel():
    """Two pictures, one of them padded, by the vision transformer."""
    rng = np.random.default_rng(0)
    patches, valid = rng.standard_normal((2, 6, 588)).astype(np.float32), np.arange(6) < np.array([[6], [4]])

    def see(model, patches, valid):
        return model.vit.features(patches, np.arange(6), valid, run=model.decoder.execution)

    ours, plain = (tiny_world.compiled(see, model)(patches, valid) for model in (running(attention="interpreted"), None))
    np.testing.assert_allclose(np.asarray(ours)[valid], np.asarray(plain)[valid], atol=1e-5)


@pytest.mark.slow
def test_a_dialogue_read_in_one_pass_is_the_same_by_the_kernel():
    rng = np.random.default_rng(0)
    latents, seen = rng.standard_normal((2, 2, 2, 64)).astype(np.float32), rng.standard_normal((2, 2, 3, 64)).astype(np.float32)
    words = tuple(rng.integers(0, 300, (2, n)) for n in (4, 3))

    def read(model, *arrays):
        counts, sighted = jnp.array([[4, 2], [1, 3]]), jnp.array([True, False])
        reading = one_pass.read(model, *arrays, words, counts, grid=(1, 2), sighted=sighted)
        return jnp.where(reading.after[:, -1, None, :, None], reading.k, 0.0), jnp.where(
            reading.after[:, -1, None, :, None], reading.v, 0.0
        )

    ours, plain = (tiny_world.compiled(read, model)(latents, seen) for model in (running(attention="interpreted"), None))
    tiny_world.assert_close(ours, plain, atol=2e-5)


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
        assert found[way]["loops"] == 0, found  # over rows or variants: the kernel's own grid goes through them
        assert found[way]["largest_cache_copy"] <= 1.1, found  # in caches: a padded copy at most, none per variant
    assert (found["forward"]["kernels"], found["backward"]["kernels"]) == (
        3,
        7,
    )  # no gradient of a cache is computed: 3 + 2 for the block + 2


@pytest.mark.slow
@pytest.mark.parametrize(("what", "kernels", "most"), [("words", (3, 7), 20), ("dialogue", (1, 3), 600)])
def test_text_and_a_whole_dialogue_compile_for_a_tpu(what, kernels, most):
    """150 words behind the caches; 5000 tokens in one pass, three variants, whose scores would take 7.8 GiB."""
    pytest.importorskip("libtpu")
    found = json.loads(child("attention_for_tpus.py", "v5e:2x2", what).splitlines()[-1])
    assert (found["forward"]["kernels"], found["backward"]["kernels"]) == kernels, found
    assert found["backward"]["temporaries"] < most * 2**20, found


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
    assert found["largest_cache_copy"] <= 1, found  # the caches of both layers on one of four chips, as they came: no branch has a copy
