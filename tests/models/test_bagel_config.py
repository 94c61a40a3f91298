import json

import bagel_cases as golden
import pytest

from editr2_jax.models.bagel import config


def test_the_recorded_folder_is_the_tiny_preset():
    assert config.BagelConfig.from_folder(golden.FOLDER) == config.tiny()


@pytest.mark.parametrize("preset", [config.tiny, config.mid, config.bagel_7b])
def test_a_preset_survives_its_folder(preset, tmp_path):
    preset().write_folder(tmp_path)
    assert config.BagelConfig.from_folder(tmp_path) == preset()


def test_the_release_has_no_bagel_config(tmp_path):
    config.bagel_7b().write_folder(tmp_path)
    (tmp_path / "bagel_config.json").unlink()
    assert config.BagelConfig.from_folder(tmp_path) == config.bagel_7b()
    (tmp_path / "config.json").write_text(json.dumps({"max_latent_size": 32, "vae_config": {"z_channels": 16}}))
    assert config.BagelConfig.from_folder(tmp_path).latent_side == 32


def _edit(folder, name, change):
    fields = json.loads((folder / name).read_text())
    change(fields)
    (folder / name).write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llm_config.json", lambda f: f.pop("hidden_size"), "llm_config.json: field 'hidden_size' is missing"),
        ("bagel_config.json", lambda f: f["vae"].pop("ch"), "bagel_config.json: vae: field 'ch' is missing"),
        ("bagel_config.json", lambda f: f.update(interpolate_pos=True), "'interpolate_pos' is True; only False"),
        ("bagel_config.json", lambda f: f["vae"].update(downsample=16), "downsample is 16"),
        ("bagel_config.json", lambda f: f["special_tokens"].update(bos_token_id=999), "outside the vocabulary"),
        ("vit_config.json", lambda f: f.update(image_size=70), "vit_side 10 exceeds"),
        ("llm_config.json", lambda f: f.update(hidden_act="relu"), "'hidden_act' is 'relu'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, name, change, message):
    config.tiny().write_folder(tmp_path)
    _edit(tmp_path, name, change)
    with pytest.raises(ValueError, match=message):
        config.BagelConfig.from_folder(tmp_path)


def test_a_missing_or_broken_file_is_named(tmp_path):
    config.tiny().write_folder(tmp_path)
    (tmp_path / "vit_config.json").write_text("{")
    with pytest.raises(ValueError, match="vit_config.json: not readable"):
        config.BagelConfig.from_folder(tmp_path)
    (tmp_path / "vit_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="vit_config.json"):
        config.BagelConfig.from_folder(tmp_path)
