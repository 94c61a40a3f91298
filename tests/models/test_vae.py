import bagel_cases as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from editr2_jax.models.bagel import config, vae

pytestmark = pytest.mark.golden


def _first(array) -> np.ndarray:
    """Channels last to the recorded layout."""
    return np.moveaxis(np.asarray(array), -1, -3)


def test_encode_matches():
    model, image = golden.model().vae, golden.image_last(golden.get("b.image"))
    golden.check(_first(jnp.concatenate(jax.jit(lambda x: model.moments(x))(image), axis=-1)), "b.moments")
    golden.check(_first(model.encode(image)), "b.latent_mean")
    golden.check(_first(model.sample(image, golden.image_last(golden.get("b.noise")))), "b.latent_sampled")


@pytest.mark.parametrize(("latent", "picture"), [("b.latent_mean", "b.decoded"), ("b.random_latent", "b.random_decoded")])
def test_decode_matches_at_two_sizes(latent, picture):
    golden.check(_first(golden.model().vae.decode(golden.image_last(golden.get(latent)))), picture)


def test_pictures_of_a_batch_do_not_mix():
    model, image = golden.model().vae, golden.image_last(golden.get("b.image"))
    both = model.encode(np.concatenate([image, -image]))
    np.testing.assert_allclose(both[:1], model.encode(image), atol=1e-5)


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        golden.model().vae.encode(np.zeros((1, 60, 64, 3), np.float32))


def test_computation_follows_the_type_of_the_input():
    image = jnp.asarray(golden.image_last(golden.get("b.image")), jnp.bfloat16)
    assert golden.model().vae.encode(image).dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_fresh_autoencoder_keeps_a_sensible_size():
    model = vae.Autoencoder(config.tiny().vae, rngs=nnx.Rngs(0))
    drawn = model.decode(jax.random.normal(jax.random.key(0), (1, 4, 4, 16)))
    assert drawn.shape == (1, 32, 32, 3)
    assert 0.01 < float(jnp.std(drawn)) < 10
