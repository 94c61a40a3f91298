import json
import re

import bagel_cases as golden
import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from editr2_jax.models import lora
from editr2_jax.porting import adapter, export, rules


@pytest.fixture
def worn():
    """The recorded model with an adapter on the drawing expert that does something."""
    model = nnx.clone(golden.model())
    lora.attach(model, lora.LoraConfig(rank=3, alpha=6.0, experts=("gen",)), key=jax.random.key(0))
    for number, (_, linear) in enumerate(lora.linears(model)):
        if linear.lora_b is not None:
            linear.lora_b[...] = jax.random.normal(jax.random.key(number), linear.lora_b.shape)
    return model


@pytest.fixture
def folder(worn, tmp_path):
    export.write_adapter(worn, tmp_path)
    return tmp_path


def change(folder, **fields) -> None:
    path = folder / adapter.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_was_exported_comes_back_to_the_bit(worn, folder):
    bare = golden.model()
    back = adapter.load(bare, folder)
    ours, theirs = (dict(lora.linears(model)) for model in (back, worn))
    for path, linear in theirs.items():
        assert (ours[path].lora_a is None) == (linear.lora_a is None), path
        if linear.lora_a is not None:
            np.testing.assert_array_equal(ours[path].lora_a[...], linear.lora_a[...])
            np.testing.assert_array_equal(ours[path].lora_b[...], linear.lora_b[...])
            assert ours[path].lora_scale == linear.lora_scale == 2.0
    assert all(linear.lora_a is None for _, linear in lora.linears(bare)), "the model that was given stays as it was"


def test_an_adapter_of_one_projection_is_worn_by_that_one(folder):
    path = folder / adapter.TENSORS
    save_file({name: tensor for name, tensor in load_file(path).items() if ".v_proj_moe_gen." in name}, path)
    worn = [path for path, linear in lora.linears(adapter.load(golden.model(), folder)) if linear.lora_a is not None]
    assert worn == ["decoder.layers.gen.v"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors | {"base_model.model.lm_head.lora_A.weight": np.zeros((3, 64), np.float32)}, "1 unused"),
        (lambda tensors: {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj" not in name}, "2 unfilled"),
        (lambda tensors: {name: tensor[:, :5] if "0.mlp_moe_gen.up_proj.lora_A" in name else tensor for name, tensor in tensors.items()},
         r"1 misshapen[\s\S]*\(file \(3, 5\), model \(3, 64\)\)"),
        (lambda tensors: {name: tensor * (np.nan if "k_proj" in name else 1) for name, tensor in tensors.items()}, "4 not finite"),
    ],
)  # fmt: skip
def test_every_tensor_is_accounted_for(folder, spoil, message):
    path = folder / adapter.TENSORS
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in spoil(load_file(path)).items()}, path)
    with pytest.raises(rules.WeightsError, match=f"{re.escape(str(path))}.*{message}"):
        adapter.load(golden.model(), folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA of one size is implemented"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}"),
        ({"r": None}, "not the configuration of a LoRA adapter"),
        ({"r": 4}, "misshapen"),
    ],
)
def test_another_kind_of_adapter_is_refused(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(ValueError, match=message):
        adapter.load(golden.model(), folder)


def test_a_model_wears_one_adapter(worn, folder):
    with pytest.raises(ValueError, match="has an adapter already; export it folded in"):
        adapter.load(worn, folder)


def test_a_folder_that_holds_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json: no such file; give the folder that holds"):
        adapter.load(golden.model(), tmp_path)
