import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.flow import kernels
from editr2_jax.rl import clipped_surrogate, divergence, joint, reductions, token_log_prob

YES, NO = jnp.array([True]), jnp.array([False])


def test_words_join_the_first_step_once():
    out = joint.combine(
        jnp.array([[1.0, 2.0]]), jnp.array([[10.0, 20.0]]), jnp.array([5.0]), image_mask=YES, text_mask=YES, kl_weight=0.1, text_weight=2.0
    )
    np.testing.assert_allclose(out.per_step, [[12.0, 4.0]])
    np.testing.assert_allclose(out.total, [16.0])


def test_masks_switch_pictures_and_words_separately():
    def total(image_mask, text_mask):
        terms = (jnp.array([[1.0, 2.0]]), None, jnp.array([5.0]))
        return float(joint.combine(*terms, image_mask=image_mask, text_mask=text_mask, kl_weight=0.0).total[0])

    assert (total(YES, YES), total(NO, YES), total(YES, NO), total(NO, NO)) == (8.0, 5.0, 3.0, 0.0)


def test_a_nan_behind_a_mask_reaches_neither_value_nor_gradient():
    def total(surrogate, text):
        return joint.combine(surrogate, surrogate, text, image_mask=NO, text_mask=NO, kl_weight=0.01).total.sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(jnp.full((1, 2), jnp.nan), jnp.array([jnp.nan]))
    assert value == 0 and not gradients[0].any() and not gradients[1].any()


def window_terms(case, bits, v):
    """Surrogate and KL of a recorded window through the kernel; the window's steps lie on the row axis."""
    args = case.args
    kernel = kernels.Kernel(kind="sde", noise_level=args["noise_level"])
    x, x_next, t, dt = (golden.put(case[name], bits) for name in ("x", "x_next", "t", "dt"))
    guard = golden.put(case["sigma_max"], bits)
    density = kernel.log_prob(x, v, x_next, t, t + dt, t_guard=guard)
    surrogate = clipped_surrogate.surrogate(
        density.log_prob,
        golden.put(case["old_log_prob"], bits),
        jnp.full(t.shape, golden.put(np.float32(args["advantage"]), bits)),  # the reference held it in float32
        clip_low=args["clip_low"],
        clip_high=args["clip_high"],
        advantage_clip=args["advantage_clip"],
    )
    kl, exact = None, None
    if args["kl_beta"]:
        v_ref = golden.put(case["v_ref"], bits)
        reference = kernel.log_prob(x, v_ref, x_next, t, t + dt, t_guard=guard)
        velocity = args["kl_space"] == "velocity"
        kl = divergence.velocity(v, v_ref) if velocity else divergence.latent(density.mean, reference.mean, density.sigma)
        exact = divergence.exact(density.mean, reference.mean, density.std)
    return surrogate, kl, exact


def check_window(case, bits, joined, surrogate, kl, exact):
    golden.agree(joined.per_step[0], case, "loss_per_step", bits)
    golden.agree(surrogate.loss.mean(), case, "policy_loss", bits)
    golden.agree((surrogate.above | surrogate.below).astype(surrogate.loss.dtype).mean(), case, "clip_frac", bits)
    if kl is not None:
        golden.agree(kl.mean(), case, "kl_loss", bits)
        if bits == 64 and "kl_exact_per_step_f64" in case:
            golden.agree(exact, case, "kl_exact_per_step", bits)


@golden.each("image_grpo")
def test_the_image_loss_matches_edit_r2(case, bits):
    @jax.jit
    def loss(v):
        surrogate, kl, exact = window_terms(case, bits, v)
        joined = joint.combine(
            surrogate.loss[None],
            None if kl is None else kl[None],
            None,
            image_mask=jnp.array([case.args["used_to_learn"]]),
            text_mask=NO,
            kl_weight=case.args["kl_beta"],
        )
        return joined.total[0], (joined, surrogate, kl, exact)

    (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(golden.put(case["v"], bits))
    check_window(case, bits, *parts)
    golden.agree(gradient, case, "grad_v", bits, kind="gradient")


@golden.each("joint_grpo")
def test_the_joint_loss_matches_edit_r2(case, bits):
    args = case.args
    target = jnp.asarray(case["text_ids"][1:])[None]
    exists = jnp.ones(target.shape, bool)
    mask = jnp.array([args["used_to_learn"]])

    @jax.jit
    def loss(v, logits):
        surrogate, kl, exact = window_terms(case, bits, v)
        words = clipped_surrogate.surrogate(
            token_log_prob.of(logits[None, :-1], target, temperature=args["text_temperature"]),
            golden.put(case["text_old_log_probs"], bits)[None],
            golden.put(np.float32([args["advantage"]]), bits),
            clip_low=args["clip_low"],
            clip_high=args["clip_high"],
            mask=exists,
        )
        text = reductions.mean_per_row(words.loss, exists)
        recorded = (
            golden.put(case["text_loss"], bits)[None] + text - jax.lax.stop_gradient(text)
        )  # the float64 sum was made with this value
        joined = joint.combine(surrogate.loss[None], kl[None], recorded, image_mask=mask, text_mask=mask, kl_weight=args["kl_beta"])
        return joined.total[0], (text, (joined, surrogate, kl, exact))

    inputs = (golden.put(case["v"], bits), golden.put(case["text_logits"], bits))
    (_, (text, parts)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*inputs)
    check_window(case, bits, *parts)
    golden.agree(text[0], case, "text_loss", bits)
    golden.agree(gradients[0], case, "grad_v", bits, kind="gradient")
    golden.agree(gradients[1], case, "grad_text_logits", bits, kind="gradient")
