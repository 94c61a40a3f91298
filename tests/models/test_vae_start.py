"""The first weights of an autoencoder: a linear block transform, through norms and swishes."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from editr2_jax.models.bagel import config as sizes
from editr2_jax.models.bagel import vae_start
from editr2_jax.models.bagel.vae import Autoencoder


@pytest.fixture(scope="module")
def vae():
    fresh = Autoencoder(sizes.tabletop().vae, rngs=nnx.Rngs(0))
    vae_start.start_as_blocks(fresh)
    return fresh


@pytest.fixture(scope="module")
def pictures():
    """Plain squares of random colours: [2, 64, 64, 3] in [-1, 1]."""
    colours = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3))
    return colours.repeat(16, axis=1).repeat(16, axis=2).astype(np.float32)


def test_patterns_are_orthogonal_and_of_unit_mean_square():
    patterns, mean = vae_start.block_patterns(8, 16)
    assert np.allclose(np.einsum("iabc,jabc->ij", patterns, patterns) / 64, np.eye(16), atol=1e-12)
    assert (np.abs(mean).sum(axis=1) > 1e-9).sum() == 3, "only the three plain colours have a mean"


def test_latents_are_the_patterns_of_the_blocks(vae, pictures):
    patterns, _ = vae_start.block_patterns(8, 16)
    blocks = pictures.reshape(2, 8, 8, 8, 8, 3)
    wanted = 2 * np.einsum("nyaxbc,iabc->nyxi", blocks, patterns) / 64
    mean, log_variance = vae.moments(pictures)
    assert np.abs(np.asarray(mean) - wanted).max() < 0.35, "up to what swish and norm bend"
    assert np.corrcoef(np.asarray(mean).ravel(), wanted.ravel())[0, 1] > 0.99
    assert np.allclose(np.asarray(log_variance), -8, atol=1)


def test_it_begins_with_the_colours_of_a_picture(vae, pictures):
    got = np.asarray(vae.decode(vae.encode(pictures)))
    inside = [8 + 16 * i + d for i in range(4) for d in (-2, 1)]
    assert np.abs(got - pictures)[:, inside][:, :, inside].mean() < 0.1


def test_it_refuses_a_size_without_room():
    config = dataclasses.replace(sizes.tabletop().vae, width=64)
    with pytest.raises(ValueError, match="width of at least 96"):
        vae_start.start_as_blocks(nnx.eval_shape(lambda: Autoencoder(config, rngs=nnx.Rngs(0))))
