"""What a run on a pod has learned, exported on one machine: the adapter alone needs no weights, the whole passes through in a stream."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_checkpoint import CONFIG, call

from editr2_jax import assemble
from editr2_jax.cli import common
from editr2_jax.models import lora
from editr2_jax.porting import adapter, bagel_weights, export
from editr2_jax.resuming import arrays_of, fresh_state
from editr2_jax.runtime.checkpoints import Checkpoints

pytestmark = pytest.mark.slow


def run_of(folder, checkpoint, *, variant="edit_r2", **settings):
    """Makes a workdir as a run over many chips leaves it after three steps, with numbers that are made up; the model that it learned."""
    pod = {"model.checkpoint": str(checkpoint), "mesh.tensor": "4", "mesh.words": "resident"}
    config = common.load_config(f"{CONFIG}:{variant}", [*pod.items(), *settings.items()])
    common.claim_workdir(str(folder), config)
    model = assemble.model(assemble.on_one_device(config))
    state = fresh_state(config, model)
    changed = lambda path, x: x + 0.1 * jax.random.normal(jax.random.key(len(jax.tree_util.keystr(path))), x.shape)  # noqa: E731
    state = dataclasses.replace(state, trainable=jax.tree_util.tree_map_with_path(changed, state.trainable), step=jnp.int32(3))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, arrays_of(state), {"step": 3})
    return model.network.policy(state.trainable, model.frozen)


def test_the_adapter_of_a_pod_s_run_needs_neither_its_mesh_nor_any_weights(small_checkpoint, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(small_checkpoint, base)
    learned = run_of(tmp_path / "run", base)
    for file in base.glob("*.safetensors"):
        file.unlink()
    done = call("port", "export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'adapter'}", "--adapter")
    assert done.status == 0 and "step 3 of" in done.out, done.err
    ours = dict(lora.linears(adapter.load(bagel_weights.load_folder(small_checkpoint), tmp_path / "adapter")))
    for path, linear in lora.linears(learned):
        if linear.lora_a is not None:
            np.testing.assert_array_equal(ours[path].lora_a[...], linear.lora_a[...])
            np.testing.assert_array_equal(ours[path].lora_b[...], linear.lora_b[...])
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "recipe `edit_r2`, 3 steps" in card and "| lora.rank | 2 |" in card and "rank 2, alpha 4" in card


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_the_whole_of_a_pod_s_run_is_the_base_with_its_adapter_folded_in(small_checkpoint, tmp_path, dtype):
    learned = run_of(tmp_path / "run", small_checkpoint)
    flags = [f"--dtype={dtype}"] if dtype else []
    done = call("port", "export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'whole'}", *flags)
    assert done.status == 0, done.err
    expected, found = bagel_weights.export(export.merged(learned)), load_file(tmp_path / "whole" / "ema.safetensors")
    atol = 2**-7 if dtype else 1e-5
    for name, tensor in expected.items():
        assert found[name].dtype == (ml_dtypes.bfloat16 if dtype else np.float32)
        np.testing.assert_allclose(found[name].astype(np.float32), tensor, rtol=2**-7 if dtype else 1e-5, atol=atol, err_msg=name)
    ours, base = (load_file(folder / "ae.safetensors") for folder in (tmp_path / "whole", small_checkpoint))
    assert all(np.array_equal(ours[name], base[name]) and ours[name].dtype == np.float32 for name in base)
    assert (tmp_path / "whole" / "vocab.json").is_file() and "3 steps" in (tmp_path / "whole" / "README.md").read_text()


def test_an_average_is_what_is_exported_where_the_run_kept_one(small_checkpoint, tmp_path):
    learned = run_of(tmp_path / "run", small_checkpoint, **{"ema.kind": "constant"})
    assert call("port", "export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'adapter'}", "--adapter").status == 0
    worn = dict(lora.linears(adapter.load(bagel_weights.load_folder(small_checkpoint), tmp_path / "adapter")))
    path = "decoder.layers.gen.q"
    assert not np.any(worn[path].lora_b[...]) and np.any(dict(lora.linears(learned))[path].lora_b[...]), "the average has not moved yet"


def test_a_run_of_the_whole_model_spares_the_autoencoder_of_a_smaller_type(small_checkpoint, tmp_path):
    run_of(tmp_path / "run", small_checkpoint, variant="supervised")
    done = call("port", "export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'whole'}", "--dtype=bfloat16")
    assert done.status == 0, done.err
    kinds = [{tensor.dtype for tensor in load_file(tmp_path / "whole" / f"{name}.safetensors").values()} for name in ("ema", "ae")]
    assert kinds == [{np.dtype(ml_dtypes.bfloat16)}, {np.dtype(np.float32)}]


def test_mistakes_are_named(small_checkpoint, tmp_path):
    run_of(tmp_path / "run", small_checkpoint, variant="supervised")
    for flags, message in (
        (["--adapter"], "this run trained with train=full, so it has no adapter"),
        (["--adapter", "--dtype=bfloat16"], "an adapter is float32; leave --dtype out"),
        (["--dtype=float16"], "--dtype is 'float16'; choose one of bfloat16, float32"),
    ):
        done = call("port", "export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", *flags)
        assert done.status == 2 and message in done.err, (flags, done.err)
        assert not (tmp_path / "out").exists()
