"""DINOv3 as a feature extractor, in JAX and, where it is installed, in PyTorch."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import dinov3_cases
import numpy as np
import pytest
import tiny_eyes

from editr2_jax.models.dinov3 import vit
from editr2_jax.porting import dinov3_weights
from editr2_jax.rewards.base import ServiceError, TokenExtractor
from editr2_jax.services import dinov3_pictures, torch_models
from editr2_jax.services.dinov3 import JaxDinoV3
from editr2_jax.services.torch_dinov3 import TorchDinoV3


def of_jax(name: str) -> JaxDinoV3:
    return JaxDinoV3(dinov3_cases.model(name), dinov3_pictures.read_rule(dinov3_cases.FOLDER / name))


def of_torch(name: str) -> TorchDinoV3:
    pytest.importorskip("torch")
    return TorchDinoV3(dinov3_cases.FOLDER / name)


BACKENDS = [of_jax, pytest.param(of_torch, marks=pytest.mark.parity)]


@pytest.mark.golden
@pytest.mark.parametrize("make", BACKENDS)
@pytest.mark.parametrize(("name", "grid"), [("plain", (4, 6)), ("gated", (6, 5))])
def test_features_match_the_recorded_tokens(make, name, grid):
    case, extractor = dinov3_cases.case(name), make(name)
    features = extractor.embed(case.pictures)
    assert isinstance(extractor, TokenExtractor) and extractor.grid == grid
    np.testing.assert_allclose(features.cls, case.tokens[:, 0], atol=1e-4)
    np.testing.assert_allclose(features.patches, case.tokens[:, 5:].reshape(3, *grid, -1), atol=1e-4)
    whole = extractor.tokens(case.pictures)
    np.testing.assert_allclose(whole.tokens, case.tokens, atol=1e-4)
    assert (whole.registers, whole.grid, whole.size) == (4, grid, tuple(4 * side for side in grid))


@pytest.mark.parametrize("make", BACKENDS)
def test_many_pictures_come_back_in_order_and_none_is_an_answer(make):
    extractor = make("plain")
    pictures = [tiny_eyes.picture(12 + number, 20, seed=number) for number in range(19)]
    many, none = extractor.embed(pictures), extractor.embed([])
    assert many.cls.shape == (19, 24) and many.patches.shape == (19, 4, 6, 24)
    assert none.cls.shape == (0, 24) and none.patches.shape == (0, 4, 6, 24)
    for number in (0, 15, 16, 18):
        alone = extractor.embed([pictures[number]])
        np.testing.assert_allclose(many.cls[number], alone.cls[0], atol=1e-5)
        np.testing.assert_allclose(many.patches[number], alone.patches[0], atol=1e-5)


@pytest.mark.parametrize("make", BACKENDS)
def test_threads_get_their_own_answers_again(make):
    extractor = make("gated")
    asked = [[tiny_eyes.picture(seed=number)] * (1 + number % 3) for number in range(12)]
    before = [extractor.embed(pictures) for pictures in asked]
    with ThreadPoolExecutor(6) as pool:
        for first, again in zip(before, pool.map(extractor.embed, asked), strict=True):
            np.testing.assert_array_equal(first.cls, again.cls)
            np.testing.assert_array_equal(first.patches, again.patches)


@pytest.mark.parametrize("make", BACKENDS)
def test_numbers_that_are_none_are_no_features(make, monkeypatch):
    extractor = make("plain")
    monkeypatch.setattr(extractor, "_rule", dataclasses.replace(extractor._rule, mean=(np.nan,) * 3))
    with pytest.raises(ServiceError, match="numbers that are not finite; its weights or the device"):
        extractor.embed([tiny_eyes.picture()])


def test_batches_of_many_sizes_compile_few_programs(monkeypatch):
    traced, tokens = [], vit.DinoV3.tokens
    monkeypatch.setattr(vit.DinoV3, "tokens", lambda self, pixels: traced.append(len(pixels)) or tokens(self, pixels))
    extractor = of_jax("plain")
    for count in (1, 2, 3, 4, 5, 7, 9, 13, 16, 17, 40):
        extractor.embed([tiny_eyes.picture()] * count)
    assert sorted(traced) == [1, 2, 4, 8, 16]


def test_another_size_is_another_grid():
    rule = dinov3_pictures.read_rule(dinov3_cases.FOLDER / "plain")
    assert JaxDinoV3(dinov3_cases.model("plain"), rule.at(12)).embed([tiny_eyes.picture()]).patches.shape == (1, 3, 3, 24)
    with pytest.raises(ValueError, match="multiples of 4"):
        JaxDinoV3(dinov3_cases.model("plain"), rule.at(14))


def test_without_torch_the_extra_is_named(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(torch_models.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"No module named 'torch'.*editr2_jax\[judges\]"):
        TorchDinoV3(dinov3_cases.FOLDER / "plain")


@pytest.mark.parity
@pytest.mark.parametrize(
    "changes",
    [{}, tiny_eyes.GATED, tiny_eyes.LARGEST, {"num_register_tokens": 0}, {"mlp_bias": False, "proj_bias": False, "key_bias": True}],
    ids=["S, B, L", "S+, H+", "7B", "no registers", "biases"],
)
def test_jax_agrees_with_torch_on_what_checkpoints_vary_in(tmp_path, changes):
    pytest.importorskip("torch")
    folder = tiny_eyes.dinov3(tmp_path / "checkpoint", seed=7, **changes)
    pictures = [tiny_eyes.picture(), tiny_eyes.picture(17, 90, seed=1)]
    ours = JaxDinoV3(dinov3_weights.load_folder(folder), dinov3_pictures.read_rule(folder)).embed(pictures)
    theirs = TorchDinoV3(folder).embed(pictures)
    np.testing.assert_allclose(ours.cls, theirs.cls, atol=1e-4)
    np.testing.assert_allclose(ours.patches, theirs.patches, atol=1e-4)


@pytest.mark.parity
@pytest.mark.slow
def test_jax_agrees_with_torch_at_the_width_and_size_of_the_smallest_release(tmp_path):
    pytest.importorskip("torch")
    released = {"patch_size": 16, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    folder = tiny_eyes.dinov3(tmp_path / "checkpoint", size=(224, 224), **released)
    pictures = [tiny_eyes.picture(300, 200)]
    ours = JaxDinoV3(dinov3_weights.load_folder(folder), dinov3_pictures.read_rule(folder)).embed(pictures)
    theirs = TorchDinoV3(folder).embed(pictures)
    assert ours.patches.shape == (1, 14, 14, 384)
    np.testing.assert_allclose(ours.cls, theirs.cls, atol=1e-4)
    np.testing.assert_allclose(ours.patches, theirs.patches, atol=1e-4)


@pytest.mark.parity
def test_torch_refuses_what_transformers_would_fill_at_random(tmp_path):
    pytest.importorskip("torch")
    folder = shutil.copytree(dinov3_cases.FOLDER / "plain", tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"key_bias": True}))
    with pytest.raises(ValueError, match=r"plain: the weights do not fit config.json(.|\n)*missing: .*k_proj.bias"):
        TorchDinoV3(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "dinov2"}))
    with pytest.raises(ValueError, match="model_type 'dinov2'; 'dinov3_vit' is wanted"):
        TorchDinoV3(folder)
    with pytest.raises(ValueError, match="nowhere:0.*choose cpu"):
        TorchDinoV3(dinov3_cases.FOLDER / "plain", device="nowhere:0")
    with pytest.raises(ValueError, match="local disk"):
        TorchDinoV3("gs://eyes/plain")
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        TorchDinoV3(tmp_path / "absent")
