"""The tiny base that travels with the package: whole, small, and able to show and to say what the world is made of."""

import jax.numpy as jnp
import pytest

from editr2_jax import assemble
from editr2_jax.models.bagel import config as sizes
from editr2_jax.models.bagel import pixels
from editr2_jax.porting import bagel_weights
from editr2_jax.tabletop import world

NAME = "tabletop_tiny"


@pytest.fixture(scope="module")
def folder():
    return assemble.checkpoint_folder(NAME)


@pytest.fixture(scope="module")
def model(folder):
    return bagel_weights.load_folder(folder)  # every key accounted for, or it raises


def test_it_is_at_most_12_mb_with_everything(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"llm_config.json", "vit_config.json", "ae.safetensors", "vocab.json", "merges.txt"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 12_000_000


def test_it_has_the_size_that_the_recipe_makes(model):
    made = sizes.tabletop()
    assert (model.config.decoder, model.config.vit, model.config.tokens) == (made.decoder, made.vit, made.tokens)


def test_its_tokenizer_knows_the_words_of_the_world(folder, model):
    tokenizer = assemble.matching_tokenizer(folder, model.config)
    for sentence in world.vocabulary_sentences(200, seed=1):
        assert tokenizer.decode(tokenizer.encode(sentence)) == sentence


def test_its_autoencoder_gives_pictures_back(model):
    pictures, _ = world.arrays("test", 0, 0, 16, turns=1, size=(48, 48))
    wanted = pixels.normalise(jnp.asarray(pictures[:, 0]))
    got = model.vae.decode(model.vae.encode(wanted))
    assert float(jnp.abs(got - wanted).mean()) < 0.06, "of a range of 2"
