import bagel_cases as golden
import jax.numpy as jnp
import numpy as np
import pytest

from editr2_jax.models.bagel import pixels, positions

pytestmark = pytest.mark.golden


def _patches(name: str) -> np.ndarray:
    return pixels.patchify(golden.image_last(golden.get(name)), 14)


def _ids(name: str) -> np.ndarray:
    height, width = golden.get(name).shape[1:]
    return positions.flattened_ids(height // 14, width // 14, 10)


def test_one_picture_matches_from_pixels_to_decoder_width():
    model = golden.model()
    patches, ids = _patches("c.pixels_0"), _ids("c.pixels_0")
    golden.check(patches, "c.tokens")
    golden.check(ids, "c.position_ids")
    features = model.vit.features(patches[None], ids)
    golden.check(features[0], "c.features")
    connected = model.connector(features)
    golden.check(connected[0], "c.connector")
    golden.check((connected + model.vit_pos[...][ids])[0], "c.embedded")


def test_two_padded_pictures_match_the_packed_pair():
    """The recorded pair is packed into one row; ours is a batch whose shorter picture is padded."""
    names = ("d.vit_pixels_0", "d.vit_pixels_1")
    counts = golden.get("c2.seqlens")
    longest = int(counts.max()) + 3  # padding for both
    patches, ids, valid = np.zeros((2, longest, 588), np.float32), np.zeros((2, longest), np.int32), np.zeros((2, longest), bool)
    for row, (name, count) in enumerate(zip(names, counts, strict=True)):
        patches[row, :count], ids[row, :count], valid[row, :count] = _patches(name), _ids(name), True
    patches[~valid] = 7.0  # what stands in the padding must not matter
    model = golden.model()
    golden.check(ids[valid], "c2.position_ids")
    features = model.vit.features(jnp.asarray(patches), ids, valid)
    golden.check(np.asarray(features)[valid], "c2.features")
    connected = model.connector(features)
    golden.check(np.asarray(connected)[valid], "c2.connector")
    golden.check(np.asarray(connected + model.vit_pos[...][ids])[valid], "c2.embedded")


def test_a_picture_of_padding_alone_gives_numbers():
    model = golden.model()
    features = model.vit.features(jnp.zeros((1, 4, 588)), np.arange(4), np.zeros((1, 4), bool))
    assert bool(jnp.all(jnp.isfinite(features)))


def test_time_embedding_matches():
    golden.check(golden.model().latent.time(golden.get("k.timesteps")), "k.timestep_embedding")
