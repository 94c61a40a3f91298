import dinov3_cases
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from editr2_jax.models.dinov3 import config, vit
from editr2_jax.models.dinov3.config import DinoV3Config

TINY = DinoV3Config(patch=4, width=16, inner=16, layers=1, heads=2, registers=2)


@pytest.mark.golden
@pytest.mark.parametrize("name", dinov3_cases.NAMES)
def test_tokens_match_the_recorded_ones(name):
    case = dinov3_cases.case(name)
    np.testing.assert_allclose(dinov3_cases.model(name).tokens(case.pixels), case.tokens, atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "grid"), [("plain", (4, 6)), ("gated", (6, 5))])
def test_features_leave_the_registers_out(name, grid):
    """Edit-R2 and EdiVal drop CLS alone, and take registers for patches."""
    case = dinov3_cases.case(name)
    cls, patches = dinov3_cases.model(name).features(case.pixels)
    assert case.tokens.shape[1] == 1 + 4 + grid[0] * grid[1]
    np.testing.assert_allclose(cls, case.tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(patches, case.tokens[:, 5:].reshape(len(cls), *grid, -1), atol=1e-5)


def test_positions_are_centres_on_both_sides_from_minus_one_to_one():
    """Two rows, one column: y is -1/2 and 1/2, x is 0; heads of 8 have frequencies 1 and theta^-1/2 for each."""
    cos, sin = vit.rotary_table(TINY, 2, 1)
    turn = np.pi * np.array([1.0, 0.1])  # 2 pi y f at y = 1/2, theta = 100
    np.testing.assert_allclose(cos, np.vstack([np.ones((3, 4)), [[*np.cos(turn), 1, 1]] * 2]), atol=1e-6)
    np.testing.assert_allclose(sin, np.vstack([np.zeros((3, 4)), [*-np.sin(turn), 0, 0], [*np.sin(turn), 0, 0]]), atol=1e-6)


def test_one_model_takes_any_grid():
    model = vit.DinoV3(TINY, rngs=nnx.Rngs(0))
    for height, width in ((8, 12), (16, 4)):
        cls, patches = model.features(jnp.ones((2, height, width, 3)))
        assert cls.shape == (2, 16) and patches.shape == (2, height // 4, width // 4, 16)


@pytest.mark.parametrize("size", [(8, 10), (3, 4), (0, 4)])
def test_pictures_that_do_not_cut_into_patches_are_refused(size):
    with pytest.raises(ValueError, match=rf"multiples of 4 pixels, got {size[0]}x{size[1]}"):
        vit.DinoV3(TINY, rngs=nnx.Rngs(0)).features(jnp.ones((1, *size, 3)))


def test_a_config_is_read_by_transformers_names_and_defaults():
    said = {"model_type": "dinov3_vit", "hidden_size": 64, "num_attention_heads": 4, "patch_size": [8, 8], "use_gated_mlp": True}
    read = config.from_json(said | {"hidden_act": "silu", "key_bias": True, "layer_norm_eps": 1e-6})
    assert read == DinoV3Config(patch=8, width=64, heads=4, registers=0, gated=True, activation="silu", key_bias=True, eps=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "dinov2"}, "model_type 'dinov2'"),
        ({"patch_size": [8, 16]}, "square patches"),
        ({"num_channels": 1}, "3 channels"),
        ({"hidden_act": "relu"}, "activation is 'relu'"),
        ({"num_attention_heads": 5}, "multiple of 4 channels"),
        ({"num_hidden_layers": 0}, "at least 1"),
    ],
)
def test_what_is_not_dinov3_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        config.from_json({"model_type": "dinov3_vit", **changes})
