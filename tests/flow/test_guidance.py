import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import guidance

PLAIN = jnp.array([[[3.0, 4.0]]])
ZERO = jnp.zeros((1, 1, 2))


def branch(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (2, 6, 8))


def test_text_guidance_by_hand():
    # u = 0 + 2 (v - 0) is twice as long as v, so the renormalisation brings it back to v; then w = 0 + 3 (v - 0)
    np.testing.assert_allclose(guidance.guide(PLAIN, ZERO, ZERO, text_scale=2.0, image_scale=3.0), 3 * PLAIN, rtol=1e-6)
    np.testing.assert_allclose(guidance.guide(PLAIN, ZERO, ZERO, text_scale=2.0, image_scale=3.0, renorm="channel"), PLAIN, rtol=1e-6)
    np.testing.assert_allclose(
        guidance.guide(PLAIN, ZERO, ZERO, text_scale=2.0, image_scale=1.0, renorm="global", renorm_min=0.75), 1.5 * PLAIN, rtol=1e-6
    )


def test_global_norms_are_per_row_and_channel_norms_per_token():
    v, no_text = branch(0), branch(1)
    alone = guidance.guide(v[:1], no_text[:1], None, text_scale=4.0, image_scale=1.0, renorm="global")
    both = guidance.guide(v, no_text, None, text_scale=4.0, image_scale=1.0, renorm="global")
    np.testing.assert_allclose(both[:1], alone, rtol=1e-6)
    tokens = guidance.guide(v[:, :1], no_text[:, :1], None, text_scale=4.0, image_scale=1.0, renorm="channel")
    np.testing.assert_allclose(
        guidance.guide(v, no_text, None, text_scale=4.0, image_scale=1.0, renorm="channel")[:, :1], tokens, rtol=1e-6
    )


@given(st.integers(0, 50), st.floats(1.1, 9.0), st.sampled_from([1.0, 2.0]))
def test_a_renormed_velocity_is_never_longer_than_the_plain_one(seed, text_scale, image_scale):
    v, no_text, no_image = branch(seed), branch(seed + 1), branch(seed + 2)
    scales = {"text_scale": text_scale, "image_scale": image_scale}
    per_row = guidance.guide(v, no_text, no_image, renorm="global", **scales)
    assert np.all(np.linalg.norm(per_row.reshape(2, -1), axis=1) <= np.linalg.norm(v.reshape(2, -1), axis=1) * (1 + 1e-5))
    per_token = guidance.guide(v, no_text, no_image, renorm="channel", **scales)
    assert np.all(np.linalg.norm(per_token, axis=-1) <= np.linalg.norm(v, axis=-1) * (1 + 1e-5))


def test_a_text_scale_of_one_switches_everything_off():
    np.testing.assert_array_equal(guidance.guide(branch(0), None, None, text_scale=1.0, image_scale=2.0), branch(0))
    assert guidance.branches(1.0, 2.0) == (False, False)
    assert guidance.branches(4.0, 1.0) == (True, False)
    assert guidance.branches(4.0, 2.0) == (True, True)


def test_the_interval_is_open_below_and_closed_above():
    np.testing.assert_array_equal(guidance.active(jnp.array([0.4, 0.5, 1.0]), (0.4, 1.0)), [False, True, True])
    guided = jax.jit(
        lambda t: guidance.guide(branch(0), branch(1), branch(2), text_scale=4.0, image_scale=2.0, where=guidance.active(t, (0.4, 1.0)))
    )
    np.testing.assert_array_equal(guided(0.4), branch(0))
    assert not np.allclose(guided(0.41), branch(0))


@pytest.mark.parametrize("renorm", guidance.RENORMS)
def test_zero_velocities_have_no_nan_gradient(renorm):
    def total(v, no_text, no_image):
        return guidance.guide(v, no_text, no_image, text_scale=4.0, image_scale=2.0, renorm=renorm).sum()

    for gradient in jax.grad(total, argnums=(0, 1, 2))(ZERO, ZERO, ZERO):
        assert np.isfinite(gradient).all()


def test_a_missing_branch_or_unknown_renorm_is_refused():
    with pytest.raises(ValueError, match=r"ask guidance\.branches"):
        guidance.guide(PLAIN, ZERO, None, text_scale=4.0, image_scale=2.0)
    with pytest.raises(ValueError, match="choose one of global, channel, text_channel"):
        guidance.guide(PLAIN, ZERO, ZERO, text_scale=4.0, image_scale=2.0, renorm="token")


@golden.each("cfg")
def test_guidance_and_its_gradients_match(case, bits):
    names = ("v_cond", "v_no_text", "v_no_image")
    inputs = [golden.put(case[name], bits)[None] for name in names]
    guided, pull = jax.vjp(lambda *branches: guidance.guide(*branches, **case.args), *inputs)
    golden.agree(guided[0], case, "v", bits)
    for name, gradient in zip(names, pull(golden.put(case["cotangent"], bits)[None]), strict=True):
        golden.agree(gradient[0], case, f"vjp_{name}", bits, kind="gradient")
