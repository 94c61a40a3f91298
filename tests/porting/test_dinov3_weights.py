import math
import shutil

import dinov3_cases
import numpy as np
import pytest
from etils import epath

from editr2_jax.models.dinov3 import config as sizes
from editr2_jax.models.dinov3 import vit
from editr2_jax.porting import dinov3_weights, rules, safetensors_io


@pytest.fixture
def folder(tmp_path):
    """A copy of a recorded checkpoint, to break."""
    return shutil.copytree(dinov3_cases.FOLDER / "plain", tmp_path / "plain")


def change(folder, *, without=(), **more) -> None:
    """Writes the weights again without some tensors and with others."""
    tensors = {name: np.asarray(tensor) for name, tensor in safetensors_io.open_tensors(folder).items() if name not in without} | more
    safetensors_io.write(folder / "model.safetensors", {name: (a.shape, a.dtype, lambda a=a: a) for name, a in tensors.items()})


def test_every_key_in_the_way_is_named_with_its_file(folder):
    change(folder, without=["layer.1.attention.q_proj.bias"], **{"layer.2.norm1.weight": np.ones(24, np.float32)})
    change(folder, **{"embeddings.cls_token": np.ones((1, 1, 32), np.float32), "norm.bias": np.full(24, np.nan, np.float32)})
    with pytest.raises(rules.WeightsError) as caught:
        dinov3_weights.load_folder(folder)
    problems = caught.value.problems[str(folder / "model.safetensors")]
    assert problems == {
        "unused": ["layer.2.norm1.weight"],
        "unfilled": ["layer.1.attention.q_proj.bias"],
        "misshapen": ["embeddings.cls_token (file (1, 1, 32), model (1, 1, 24))"],
        "not finite": ["norm.bias (24 numbers)"],
    }


def test_the_mask_token_may_be_left_out(folder):
    change(folder, without=["embeddings.mask_token"])
    case = dinov3_cases.case("plain")
    np.testing.assert_allclose(dinov3_weights.load_folder(folder).tokens(case.pixels), case.tokens, atol=1e-5)


def test_shards_are_one_checkpoint_and_a_lost_one_is_named(tmp_path):
    folder = shutil.copytree(dinov3_cases.FOLDER / "gated", tmp_path / "gated")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003.safetensors"):
        dinov3_weights.load_folder(folder)


def test_an_address_will_do(bucket):
    target = epath.Path("gs://eyes/gated")
    target.mkdir(parents=True)
    for path in (dinov3_cases.FOLDER / "gated").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    case = dinov3_cases.case("gated")
    np.testing.assert_allclose(dinov3_weights.load_folder("gs://eyes/gated").tokens(case.pixels), case.tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "no such file"), ("{", "config.json: "), ('{"model_type": "dinov2"}', "'dinov3_vit' is wanted"), ("[]", "config.json: ")],
)
def test_a_folder_of_something_else_is_refused_by_its_config(folder, text, told):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=told):
        dinov3_weights.load_folder(folder)


def _released(millions, width, layers, heads, inner, **switches):
    sizes_of = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner}
    return millions, {**sizes_of, "num_register_tokens": 4, **switches}


RELEASED = {  # of transformers' convert_dinov3_vit_to_hf.py; parameters in millions of the model cards
    "vits16": _released(21, 384, 12, 6, 1536),
    "vits16plus": _released(29, 384, 12, 6, 1536, use_gated_mlp=True),
    "vitb16": _released(86, 768, 12, 12, 3072),
    "vitl16": _released(300, 1024, 24, 16, 4096),
    "vith16plus": _released(840, 1280, 32, 20, 5120, use_gated_mlp=True),
    "vit7b16": _released(6716, 4096, 40, 32, 8192, use_gated_mlp=True, query_bias=False, value_bias=False),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_sizes_have_the_published_number_of_parameters(name):
    millions, settings = RELEASED[name]
    model = vit.abstract(sizes.from_json(settings | {"model_type": "dinov3_vit"}))
    count = sum(math.prod(leaf.shape) for leaf in rules.leaves(model).values())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parity
@pytest.mark.parametrize("name", RELEASED)
def test_the_released_sizes_want_the_keys_and_shapes_of_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**RELEASED[name][1]))
    wanted = {key.removeprefix("model."): tuple(value.shape) for key, value in theirs.state_dict().items()}
    del wanted["embeddings.mask_token"]
    ours = vit.abstract(sizes.from_json(theirs.config.to_dict()))
    places = rules.plan(rules.leaves(ours), dinov3_weights.RULES)
    assert {key: place.key_shape for place in places for key in place.keys} == wanted
