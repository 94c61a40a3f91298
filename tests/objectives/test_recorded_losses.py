"""Every objective against the published algorithms' recorded numbers, through the terms that training adds up."""

import dataclasses

import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.flow import kernels
from editr2_jax.objectives import image_objective, intent_objective, joint_objective
from editr2_jax.objectives.image import awm, dpo, dppo, grpo, guard, nft
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent import grpo as intent_grpo
from editr2_jax.objectives.intent import gspo_token
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.points import Path, Tokens, Velocities, Window
from editr2_jax.rl import reductions, sampler_mismatch, token_log_prob


def window(case, bits, *, advantage, mask=None, old=None, t=None, t_next=None, guard_time=None) -> Window:
    """A recorded window; its steps, or its samples, lie on the row axis."""
    x, x_next = golden.put(case["x"], bits), golden.put(case["x_next"], bits)
    rows = x.shape[0]
    spread = lambda value: jnp.broadcast_to(value, (rows,))  # noqa: E731
    return Window(
        x=x,
        x_next=x_next,
        t=spread(t),
        t_next=spread(t_next),
        t_guard=guard_time,
        old_log_prob=jnp.zeros(rows, x.dtype) if old is None else old,
        advantage=advantage,
        reward=advantage,
        mask=jnp.ones(rows, bool) if mask is None else mask,
        kernel=kernels.Kernel(kind="sde", noise_level=case.args["noise_level"]),
    )


def of_edit_r2(case, bits) -> Window:
    t = golden.put(case["t"], bits)
    advantage = jnp.full(t.shape, golden.put(np.float32(case.args["advantage"]), bits))  # the reference held it in float32
    return window(
        case,
        bits,
        advantage=advantage,
        mask=jnp.full(t.shape, case.args["used_to_learn"]),
        old=golden.put(case["old_log_prob"], bits),
        t=t,
        t_next=t + golden.put(case["dt"], bits),
        guard_time=golden.put(case["sigma_max"], bits),
    )


def edit_r2_config(args) -> ImageObjectiveConfig:
    clip = {name: args[name] for name in ("clip_low", "clip_high", "advantage_clip")}
    return ImageObjectiveConfig(kl_weight=args["kl_beta"], kl=args["kl_space"], settings=grpo.Config(**clip))


def image_terms(case, bits, v):
    """Loss per step, and what the reference reports."""
    at, config = of_edit_r2(case, bits), edit_r2_config(case.args)
    v_ref = golden.put(case["v_ref"], bits) if "v_ref" in case else None
    value, told = image_objective.terms(at, Velocities(v, reference=v_ref), config)
    exact = None if v_ref is None else image_objective.kl("exact", at, v, v_ref)
    return joint_objective.learned(value, at.mask), told, exact


def check_image(case, bits, per_step, told, exact):
    golden.agree(per_step, case, "loss_per_step", bits)
    golden.agree(told["surrogate"].mean(), case, "policy_loss", bits)
    golden.agree((told["clip_fraction_high"] | told["clip_fraction_low"]).astype(per_step.dtype).mean(), case, "clip_frac", bits)
    if "kl" in told:
        golden.agree(told["kl"].mean(), case, "kl_loss", bits)
        if bits == 64 and "kl_exact_per_step_f64" in case:
            golden.agree(exact, case, "kl_exact_per_step", bits)


@golden.each("image_grpo")
def test_the_image_loss_matches_edit_r2(case, bits):
    @jax.jit
    def loss(v):
        per_step, told, exact = image_terms(case, bits, v)
        return per_step.sum(), (per_step, told, exact)

    (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(golden.put(case["v"], bits))
    check_image(case, bits, *parts)
    golden.agree(gradient, case, "grad_v", bits, kind="gradient")


def row_of_tokens(log_prob, old, advantage) -> Tokens:
    """One row in which every token exists."""
    return Tokens(
        log_prob=log_prob[None], old_log_prob=old[None], advantage=advantage, reward=advantage, mask=jnp.ones((1, len(log_prob)), bool)
    )


def row_weight(count: int, bits: int, reduction: str = "sequence_mean"):
    return golden.put(reductions.row_weights(np.array([count]), reduction=reduction, slots=count), bits)[:, None] * jnp.ones((1, count))


@golden.each("joint_grpo")
def test_the_joint_loss_matches_edit_r2(case, bits):
    """The text joins the loss of the first window step, once."""
    args, target = case.args, jnp.asarray(case["text_ids"][1:])
    used = jnp.array([args["used_to_learn"]])
    clip = {"clip_low": args["clip_low"], "clip_high": args["clip_high"]}

    @jax.jit
    def loss(v, logits):
        per_step, told, exact = image_terms(case, bits, v)
        log_prob = token_log_prob.of(logits[:-1], target, temperature=args["text_temperature"])
        tokens = row_of_tokens(log_prob, golden.put(case["text_old_log_probs"], bits), golden.put(np.float32([args["advantage"]]), bits))
        config = IntentObjectiveConfig(settings=intent_grpo.Config(**clip))
        text, _ = intent_objective.terms(tokens, row_weight(len(target), bits), None, config)
        recorded = golden.put(case["text_loss"], bits)[None] + text - jax.lax.stop_gradient(text)  # the float64 sum has this one
        per_step = per_step.at[0].add(joint_objective.learned(recorded, used)[0])
        return per_step.sum(), (text, (per_step, told, exact))

    given = golden.put(case["v"], bits), golden.put(case["text_logits"], bits)
    (_, (text, parts)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*given)
    if bits == 32:
        golden.agree(text[0], case, "text_loss", bits)
    check_image(case, bits, *parts)
    golden.agree(gradients[0], case, "grad_v", bits, kind="gradient")
    golden.agree(gradients[1], case, "grad_text_logits", bits, kind="gradient")


@golden.each("text_grpo")
def test_the_text_loss_matches_edit_r2(case, bits):
    """Row i of the logits scores token i + 1; the arrays may be padded beyond token_len."""
    args, length = case.args, case.args["token_len"]
    target = jnp.asarray(case["token_ids"][1:length])
    old, advantage = golden.put(case["old_log_probs"][: length - 1], bits), golden.put(case["advantage"], bits)
    config = IntentObjectiveConfig(settings=intent_grpo.Config(clip_low=args["clip_low"], clip_high=args["clip_high"]))

    @jax.jit
    def loss(logits):
        log_prob = token_log_prob.of(logits[: length - 1], target, temperature=args["temperature"])
        value, told = intent_objective.terms(row_of_tokens(log_prob, old, advantage), row_weight(length - 1, bits), None, config)
        return value[0], (log_prob, told)

    (value, (log_prob, told)), gradient = jax.value_and_grad(loss, has_aux=True)(golden.put(case["logits"], bits))
    golden.agree(log_prob, case, "new_log_probs", bits)
    golden.agree(value, case, "loss", bits)
    golden.agree(gradient, case, "grad_logits", bits, kind="gradient")
    if bits == 32:
        golden.ratios_agree(told["ratio"][0], case, log_prob=case["new_log_probs"])
        golden.agree((told["clip_fraction_high"] | told["clip_fraction_low"]).mean(), case, "clip_frac", bits)


def token_case(case) -> bool:
    return "logp" in case


@golden.each("token_loss", token_case)
def test_token_losses_match_tunix(case, bits):
    args = case.args
    clip = {"clip_low": args["eps_low"], "clip_high": args["eps_high"], "dual_clip": args["eps_c"] or 0.0}
    kinds = {"grpo": intent_grpo, "gspo-token": gspo_token}
    kind, mask = kinds[args["algo"]], case["mask"] > 0
    advantage, _old = golden.put(case["advantage"], bits), golden.put(case["old_logp"], bits)
    config = IntentObjectiveConfig(kind=kind.__name__.split(".")[-1], settings=kind.Config(**clip))
    weights = golden.put(reductions.row_weights(mask.sum(1), reduction="token_mean", slots=mask.shape[1]), bits)

    @jax.jit
    def loss(log_prob):
        tokens = Tokens(
            log_prob=log_prob,
            old_log_prob=golden.put(case["old_logp"], bits),
            advantage=advantage,
            reward=advantage,
            mask=jnp.asarray(mask),
        )
        value, told = intent_objective.terms(tokens, jnp.broadcast_to(weights[:, None], mask.shape), None, config)
        return value.mean(), told

    (value, told), gradient = jax.value_and_grad(loss, has_aux=True)(golden.put(case["logp"], bits))
    golden.agree(value, case, "token_mean", bits)
    golden.agree(gradient, case, "grad_logp", bits, kind="gradient")
    real = beyond_mask(case, ratio=case["ratio"] * mask, per_token_loss=case["per_token_loss"] * mask)
    golden.agree(told["surrogate"], real, "per_token_loss", bits)
    if bits == 32:
        np.testing.assert_allclose(np.where(mask, told["ratio"], 0), real["ratio"], rtol=0, atol=golden.RATIO_ATOL)


def beyond_mask(case, **tensors):
    """The case with some tensors changed: recorded beyond the mask, where ours are not looked at."""
    return dataclasses.replace(case, tensors=case.tensors | tensors)


@golden.each("token_loss", lambda case: "modes" in case.args)
def test_reductions_match_tunix(case, bits):
    ours = {
        "token-mean": "token_mean",
        "sequence-mean-token-mean": "sequence_mean",
        "sequence-mean-token-scale": "max_length",
        "seq-mean-token-sum": "sum_nonempty",
        "sequence-mean-token-sum-norm": "sum",
    }
    mask, value = jnp.asarray(case["mask"] > 0), golden.put(case["per_token"], bits)
    for theirs in case.args["modes"]:
        weights = golden.put(reductions.row_weights(np.asarray(mask.sum(1)), reduction=ours[theirs], slots=mask.shape[1]), bits)
        golden.agree((weights * reductions.sum_per_row(value, mask)).mean(), case, theirs.replace("-", "_"), bits)


def from_schedule(case, bits, **more) -> Window:
    """A recorded step of a descending noise schedule."""
    sigmas, i = golden.put(case["sigmas"], bits), case.args["step_index"]
    return window(
        case, bits, advantage=golden.put(case["advantage"], bits), t=sigmas[i], t_next=sigmas[i + 1], guard_time=sigmas[1], **more
    )


@golden.each("grpo_guard")
def test_guard_matches_flow_factory_and_verl_omni(case, bits):
    """The recorded plain loss clips both sides as given; the one over dt is verl-omni's, symmetric at the lower width."""
    args, at = case.args, from_schedule(case, bits)
    v, v_old = golden.put(case["v"], bits), golden.put(case["v_old"], bits)
    for per_time, clip_high, suffix in ((False, args["clip_high"], ""), (True, args["clip_low"], "_with_dt_weight")):
        config = guard.Config(clip_low=args["clip_low"], clip_high=clip_high, per_time=per_time)

        def loss(v, config=config):
            out = guard.loss(at, Velocities(v, v_old), config)
            return out.value.mean(), out.statistics["ratio"]

        (value, ratio), gradient = jax.value_and_grad(loss, has_aux=True)(v)
        golden.agree(value, case, "loss_with_dt_weight" if per_time else "policy_loss", bits)
        golden.agree(gradient, case, f"grad_v{suffix}", bits, kind="gradient")
        if bits == 64:
            golden.agree(ratio, case, "ratio", bits)
        else:
            golden.ratios_agree(ratio, case)


@golden.each("flow_dppo")
def test_dppo_matches_verl_omni(case, bits):
    at, v_old = from_schedule(case, bits), golden.put(case["v_old"], bits)
    config = dppo.Config(threshold=case.args["kl_mask_threshold"])

    def loss(v):
        out = dppo.loss(at, Velocities(v, v_old), config)
        return out.value.mean(), out.statistics

    (value, told), gradient = jax.value_and_grad(loss, has_aux=True)(golden.put(case["v"], bits))
    golden.agree(value, case, "loss", bits)
    golden.agree(told["dropped"].astype(value.dtype).mean(), case, "masked_fraction", bits)
    golden.agree(gradient, case, "grad_v", bits, kind="gradient")
    if bits == 64:
        golden.agree(told["moved"], case, "kl_per_sample", bits)


def path(clean, noise, t, advantage, *, group: int = 1) -> Path:
    return Path(clean=clean, noise=noise, t=t, advantage=advantage, reward=advantage, mask=jnp.ones(t.shape, bool), group=group)


@golden.each("nft")
def test_nft_matches_diffusion_nft_and_flow_factory(case, bits):
    """The noise is what leads to the recorded x_t: that was rounded once, and not every case has the noise itself."""
    args = case.args
    given = {name: golden.put(case[name], bits) for name in ("x0", "t", "xt", "v", "v_old", "advantage")}
    clean, t = given["x0"], given["t"]
    spread = t.reshape(-1, *(1,) * (clean.ndim - 1))
    noise = (given["xt"] - (1 - spread) * clean) / spread
    at = path(clean, noise, t, given["advantage"])
    config = ImageObjectiveConfig(
        kind="nft", kl="velocity", kl_weight=args.get("kl_beta", 0.0),
        settings=nft.Config(beta=args["beta"], advantage_clip=args["adv_clip_max"], mode=args.get("adv_mode", "all")),
    )  # fmt: skip
    v_ref = golden.put(case["v_ref"], bits) if "v_ref" in case else None

    @jax.jit
    def loss(v):
        value, told = image_objective.terms(at, Velocities(v, given["v_old"], v_ref), config)
        return value.mean(), told

    (value, told), gradient = jax.value_and_grad(loss, has_aux=True)(given["v"])
    golden.agree(value, case, "loss", bits)
    golden.agree(value, case, "policy_loss", bits)  # recorded after the KL was added to it in place
    for ours, theirs in (("optimality", "r"), ("towards", "positive_loss"), ("away", "negative_loss")):
        golden.agree(told[ours], case, theirs, bits)
    golden.agree(gradient, case, "grad_v", bits, kind="gradient")


@golden.each("awm")
def test_the_pseudo_log_prob_matches_flow_factory(case, bits):
    v, target, t = (golden.put(case[name], bits) for name in ("v", "target", "t_1000"))
    for theirs, ours in {"Uniform": "uniform", "t": "t", "tpow2": "t2", "huber": "huber", "ghuber": "ghuber"}.items():
        config = awm.Config(weighting=ours, power=case.args.get("ghuber_power", awm.Config.power))
        score = lambda v, config=config: awm.pseudo_log_prob(v, target, t / 1000, config)  # noqa: E731
        golden.agree(score(v), case, f"logp_{theirs}", bits)
        golden.agree(jax.grad(lambda v, score=score: score(v).sum())(v), case, f"grad_{theirs}", bits, kind="gradient")


@golden.each("dpo")
def test_dpo_matches_flow_factory(case, bits):
    """Winner and loser of a pair are two rows of a group; a path from 0 has the noise as its velocity."""
    rows = lambda a, b: jnp.stack([golden.put(case[a], bits), golden.put(case[b], bits)], axis=1).reshape(-1, *case[a].shape[1:])  # noqa: E731
    target, n = rows("target_w", "target_l"), len(case["v_w"])
    at = path(
        jnp.zeros_like(target), target, jnp.full(2 * n, 0.5, target.dtype), jnp.tile(jnp.array([1.0, -1.0], target.dtype), n), group=2
    )
    reference = rows("ref_w", "ref_l")

    def loss(v):
        return dpo.loss(at, Velocities(v, reference=reference), dpo.Config(beta=case.args["beta"])).value.mean()

    value, gradient = jax.value_and_grad(loss)(rows("v_w", "v_l"))
    golden.agree(value, case, "loss", bits)
    golden.agree(gradient[0::2], case, "grad_v_w", bits, kind="gradient")
    golden.agree(gradient[1::2], case, "grad_v_l", bits, kind="gradient")


def test_the_cap_on_sampler_mismatch_counts_from_one():
    """Agreeing programs give weight 1; one that found a token e times too likely is capped."""
    weights = sampler_mismatch.weights(jnp.array([0.0, 1.0, -1.0]), jnp.zeros(3), cap=2.0)
    np.testing.assert_allclose(weights, [1.0, 2.0, np.exp(-1)], rtol=1e-6)
