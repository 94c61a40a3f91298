import json
import re

import bagel_cases as golden
import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from editr2_jax.cli import port
from editr2_jax.models import lora
from editr2_jax.porting import adapter, bagel_weights, export, rules

EVERY = [f"decoder.layers.gen.{part}" for part in ("q", "k", "v", "o", "gate", "up", "down")]


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
        ({"use_dora": True}, "use_dora is True; only plain LoRA is implemented"),
        ({"alpha_pattern": {r"layers\.1\..*": 8}}, "differs between layers; only one size for all layers"),
        ({"rank_pattern": {"(": 8}}, "not the configuration of a LoRA adapter"),
        ({"r": None}, "not the configuration of a LoRA adapter"),
        ({"r": 4}, "misshapen"),
    ],
)
def test_another_kind_of_adapter_is_refused(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(ValueError, match=message):
        adapter.load(golden.model(), folder)


def test_projections_may_have_sizes_of_their_own(tmp_path):
    model = nnx.clone(golden.model())
    sizes = {"decoder.layers.gen.q": (2, 6.0), "decoder.layers.gen.down": (5, 6.0), "decoder.layers.und.up": (2, 1.0)}
    for number, (path, (rank, alpha)) in enumerate(sizes.items()):
        linear = dict(lora.linears(model))[path]
        linear.attach(rank, alpha, jax.random.key(number))
        linear.lora_b[...] = jax.random.normal(jax.random.key(number), linear.lora_b.shape)
    export.write_adapter(model, tmp_path)
    told = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert (told["r"], told["lora_alpha"], len(told["rank_pattern"]), len(told["alpha_pattern"])) == (2, 6.0, 1, 1)
    ours = dict(lora.linears(adapter.load(golden.model(), tmp_path)))
    for path, (rank, alpha) in sizes.items():
        assert ours[path].lora_a.shape[-1] == rank and ours[path].lora_scale == alpha / rank
    assert sum(linear.lora_a is not None for linear in ours.values()) == len(sizes)


@pytest.mark.parametrize(
    ("module", "meant"),
    [
        ("language_model.model.layers.1.self_attn.q_proj_moe_gen", True),
        ("base_model.model.language_model.model.layers.0.mlp_moe_gen.down_proj", True),
        ("language_model.model.layers.1.self_attn.q_proj", False),  # the other expert
        ("vit_model.vision_model.encoder.layers.0.self_attn.q_proj", False),
    ],
)
def test_the_names_that_peft_adapts_are_those_and_no_others(folder, module, meant):
    pattern = json.loads((folder / adapter.CONFIG).read_text())["target_modules"]
    assert bool(re.fullmatch(pattern, module)) == meant


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folding_in_a_stream_is_folding_in_memory(worn, folder, tmp_path, dtype):
    assert port.main(["export", f"--checkpoint={golden.FOLDER}", f"--fold={folder}", f"--out={tmp_path / 'out'}", f"--dtype={dtype}"]) == 0
    found, before = bagel_weights.open_folder(tmp_path / "out")[0], bagel_weights.open_folder(golden.FOLDER)[0]
    expected = bagel_weights.export(export.merged(worn))
    for name, tensor in expected.items():
        rtol, atol = (1e-5, 1e-5) if dtype == "float32" else (2**-8, 2**-8)  # the weights are rounded before and after
        np.testing.assert_allclose(np.asarray(found[name], np.float32), tensor, rtol=rtol, atol=atol, err_msg=name)
    changed = {name for name in before if not np.allclose(np.asarray(found[name], np.float32), before[name], rtol=0.02, atol=1e-5)}
    assert {name.split(".", 4)[-1] for name in changed} == {f"{adapter.name(path)}.weight" for path in EVERY}
    assert "adapters, if there were any, are folded in" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_wears_one_adapter(worn, folder):
    with pytest.raises(ValueError, match="has an adapter already; export it folded in"):
        adapter.load(worn, folder)


def test_a_folder_that_holds_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json: no such file; give the folder that holds"):
        adapter.load(golden.model(), tmp_path)
