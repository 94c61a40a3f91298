import json

import bagel_cases as golden
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from editr2_jax.models import lora
from editr2_jax.models.bagel import bagel, config, vae
from editr2_jax.porting import bagel_weights, export, rules

pytestmark = pytest.mark.golden

EMA, AE = (load_file(golden.FOLDER / f"{name}.safetensors") for name in ("ema", "ae"))


def _keys(ours, table) -> dict[str, list[int]]:
    return {key: list(place.key_shape) for place in rules.plan(ours, table) for key in place.keys}


def test_the_7b_model_and_the_manifest_agree_one_to_one():
    manifest = json.loads((golden.FOLDER / "manifest_7b.json").read_text(encoding="utf-8"))
    model = bagel.abstract(config.bagel_7b())
    assert _keys(rules.leaves(model, without=("vae",)), bagel_weights.RULES) == manifest["ema"]["tensors"]
    assert _keys(rules.leaves(model, under="vae"), bagel_weights.VAE_RULES) == manifest["ae"]["tensors"]


def test_no_rule_is_idle():
    """Every rule names a parameter of the 7B model; a rule that names none would hide a misspelling."""
    model = bagel.abstract(config.bagel_7b())
    for under, without, table in (("", ("vae",), bagel_weights.RULES), ("vae", (), bagel_weights.VAE_RULES)):
        used = {place.rule for place in rules.plan(rules.leaves(model, under=under, without=without), table)}
        # The middle blocks of the autoencoder keep their width, so they have no shortcut.
        idle = [rule.path for rule in table if rule not in used]
        assert all(".middle." in path and ".shortcut." in path for path in idle), idle


def test_loading_and_exporting_gives_the_checkpoint_back_bit_for_bit():
    model = golden.model()
    for ours, theirs in ((bagel_weights.export(model), EMA), (bagel_weights.export_vae(model), AE)):
        assert set(ours) == set(theirs)
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype
            np.testing.assert_array_equal(ours[key], tensor, err_msg=key)


def test_a_folder_survives_writing_and_reading(tmp_path):
    export.write_folder(golden.model(), tmp_path)
    assert config.BagelConfig.from_folder(tmp_path) == config.tiny()
    for name, theirs in (("ema", EMA), ("ae", AE)):
        ours = load_file(tmp_path / f"{name}.safetensors")
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_gradients_are_exported_under_the_same_names():
    """d/dW sum(x W') of a stacked projection, by hand: every row of the PyTorch gradient is x."""
    model = golden.model()
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    x = jnp.arange(64, dtype=jnp.float32)
    gradient = jax.grad(lambda p: jnp.sum(x @ nnx.merge(graph, p, rest).decoder.layers.gen.q.w[...][1]))(parameters)
    found = bagel_weights.export(gradient)
    assert set(found) == {key for key in EMA if not key.endswith("pos_embed.pos_embed")}
    np.testing.assert_array_equal(found["language_model.model.layers.1.self_attn.q_proj_moe_gen.weight"], np.tile(np.arange(64), (64, 1)))
    assert not found["language_model.model.layers.0.self_attn.q_proj_moe_gen.weight"].any()


def test_everything_wrong_with_a_checkpoint_is_in_one_error():
    ema, ae = dict(EMA), dict(AE)
    del ema["vae2llm.bias"], ema["language_model.model.layers.1.mlp.up_proj.weight"], ae["encoder.conv_in.weight"]
    ema["stray.weight"] = np.zeros(3, np.float32)
    ema["llm2vae.weight"] = ema["llm2vae.weight"][:, :-1]
    poisoned = ema["connector.fc1.weight"].copy()
    poisoned[0, :2] = np.nan, np.inf
    ema["connector.fc1.weight"] = poisoned
    with pytest.raises(rules.WeightsError) as caught:
        bagel_weights.load(bagel.abstract(config.tiny()), ema, ae)
    assert caught.value.problems == {
        "model weights": {
            "unused": ["stray.weight"],
            "unfilled": ["language_model.model.layers.1.mlp.up_proj.weight", "vae2llm.bias"],
            "misshapen": ["llm2vae.weight (file (64, 63), model (64, 64))"],
            "not finite": ["connector.fc1.weight (2 numbers)"],
        },
        "autoencoder weights": {"unfilled": ["encoder.conv_in.weight"]},
    }
    for name in ("stray.weight", "vae2llm.bias", "llm2vae.weight", "connector.fc1.weight", "encoder.conv_in.weight"):
        assert name in str(caught.value)


def test_a_single_nan_is_refused():
    poisoned = EMA["language_model.lm_head.weight"].copy()
    poisoned[5, 5] = np.nan
    with pytest.raises(rules.WeightsError, match="not finite: language_model.lm_head.weight"):
        bagel_weights.load(bagel.abstract(config.tiny()), EMA | {"language_model.lm_head.weight": poisoned})


def test_missing_sincos_tables_are_made_again():
    ema = {key: tensor for key, tensor in EMA.items() if not key.endswith("pos_embed.pos_embed")}
    model = bagel_weights.load(bagel.abstract(config.tiny()), ema, AE)
    np.testing.assert_allclose(model.latent.pos[...], EMA["latent_pos_embed.pos_embed"], atol=1e-6)
    np.testing.assert_allclose(model.vit_pos[...], EMA["vit_pos_embed.pos_embed"], atol=1e-6)


def test_bfloat16_tensors_fill_either_type():
    ema = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in EMA.items()}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = bagel_weights.load(bagel.abstract(config.tiny(), dtype), ema, AE)
        ours = model.decoder.layers.und.up.w[...]
        assert ours.dtype == dtype
        expected = ema["language_model.model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
        np.testing.assert_array_equal(ours[1].astype(jnp.float32), expected)


def test_a_sharding_reads_the_same_numbers():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = bagel_weights.load(bagel.abstract(config.tiny()), EMA, AE, sharding=lambda path, shape: placed)
    assert model.decoder.embed[...].sharding == placed
    assert all(np.array_equal(tensor, EMA[key]) for key, tensor in bagel_weights.export(model).items())


def test_an_unknown_parameter_asks_for_a_rule():
    with pytest.raises(ValueError, match="no rule names.*new.w"):
        rules.plan({"new.w": jnp.zeros(3)}, bagel_weights.RULES)


def _adapted(key: int):
    """The recorded model with adapters that do something."""
    model = nnx.clone(golden.model())
    lora.attach(model, lora.LoraConfig(rank=3, alpha=6.0), key=jax.random.key(key))
    for _, linear in lora.linears(model):
        if linear.lora_b is not None:
            linear.lora_b[...] = 0.1 * jax.random.normal(jax.random.key(key), linear.lora_b.shape)
    return model


def test_merging_adapters_changes_the_weights_as_the_adapter_does():
    model = _adapted(0)
    before, after = model.decoder.layers.gen.down, export.merged(model).decoder.layers.gen.down
    x = jax.random.normal(jax.random.key(1), (2, 5, 144))
    assert after.lora_a is None and before.lora_a is not None
    np.testing.assert_allclose(after(x), before(x), atol=1e-5)
    np.testing.assert_array_equal(before.w[...], golden.model().decoder.layers.gen.down.w[...])


def test_adapters_do_not_count_as_weights():
    assert set(bagel_weights.export(_adapted(0))) == set(EMA)


def test_an_adapter_is_written_as_peft_reads_it(tmp_path):
    model = _adapted(2)
    export.write_adapter(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    stem = "base_model.model.language_model.model.layers.1.self_attn.k_proj_moe_gen"
    assert tensors[f"{stem}.lora_A.weight"].shape == (3, 64)
    np.testing.assert_array_equal(tensors[f"{stem}.lora_B.weight"], np.asarray(model.decoder.layers.gen.k.lora_b[...][1]).T)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"]) == (3, 6.0)
    assert r"self_attn\.k_proj_moe_gen" in fields["target_modules"] and r"mlp\.up_proj" in fields["target_modules"]
    with pytest.raises(ValueError, match="no adapter"):
        export.adapter(golden.model())


def test_a_part_can_be_loaded_by_itself():
    part = nnx.eval_shape(lambda: vae.Autoencoder(config.tiny().vae, rngs=nnx.Rngs(0)))
    filled = rules.load(part, AE, bagel_weights.VAE_RULES)
    np.testing.assert_array_equal(filled.encoder.enter.w[...], AE["encoder.conv_in.weight"].transpose(2, 3, 1, 0))
    with pytest.raises(rules.WeightsError, match="autoencoder.*1 unused"):
        rules.load(part, AE | {"stray": np.zeros(1)}, bagel_weights.VAE_RULES, where="autoencoder")
