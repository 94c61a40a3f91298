"""The recorded cases of the model and of sampling: which functions of ours answer for which tensor.

A case is a function of the subject and the case's name that returns ours by tensor name; what the folder does not record is not looked
at. Letters: B rows (here one), L latent tokens, C numbers in a token, S steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from editr2_jax.flow import denoise, guidance, kernels, sde_window, timesteps
from editr2_jax.models.bagel import bagel, pixels, positions
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.kv_cache import KVCache
from editr2_jax.policies import context as contexts
from editr2_jax.policies import image_policy, intent_policy
from editr2_jax.policies.context import Context
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.porting.verify_subject import Compiled, Subject, dialogue, flow_of, held, rule_of, size_of

Ours = Mapping[str, Any]
_EVERYWHERE = (-math.inf, math.inf)  # a guidance interval


# a, b, c: the parts --------------------------------------------------------------------------------------------------------------


def text(subject: Subject, case: str) -> Ours:
    """Two text segments, one behind the other."""
    segments = [jnp.asarray(ids)[None] for ids in (subject.recorded[f"{case}.token_ids_{i}"] for i in (1, 2))]
    cache = bagel.empty_cache(subject.config, rows=1, capacity=sum(ids.shape[1] for ids in segments))
    ours = {}
    for i, ids in enumerate(segments, start=1):
        start = int(cache.rope[0])
        view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
        real = jnp.ones((1, 1, ids.shape[1]), bool)
        hidden, _ = subject.compiled.read_text(ids[:, None], valid=real, start=cache.rope[:, None], views=(view,))
        hidden, logits = hidden[:, 0], subject.compiled.logits(hidden[:, 0])
        cache = subject.compiled.append_text(cache, ids, jnp.full((1,), ids.shape[1]))
        ours |= {f"{case}.position_ids_{i}": start + np.arange(ids.shape[1])}
        ours |= {f"{case}.hidden_{i}": hidden[0], f"{case}.logits_{i}": logits[0]}
        ours |= _first_and_last(f"{case}.cache_{i}", cache, cache.valid)
    return ours


def autoencoder(subject: Subject, case: str) -> Ours:
    """Pictures to latents and back; recorded channel first."""
    image, noise, latent = (_last(subject.recorded[f"{case}.{name}"]) for name in ("image", "noise", "random_latent"))
    ours = subject.run(_autoencoder, image, noise, latent)
    return {f"{case}.{name}": _first(value) for name, value in ours.items()}


def _autoencoder(model: Bagel, image: Array, noise: Array, latent: Array) -> dict[str, Array]:
    mean = model.vae.encode(image)
    return {
        "moments": jnp.concatenate(model.vae.moments(image), axis=-1),
        "latent_mean": mean,
        "latent_sampled": model.vae.sample(image, noise),
        "decoded": model.vae.decode(mean),
        "random_decoded": model.vae.decode(latent),
    }


def vision(subject: Subject, case: str) -> Ours:
    """One picture by itself, and several (c2): recorded packed into one row, ours side by side with padding."""
    patch, side = subject.config.vit.patch, subject.config.vit_side
    cut = lambda picture: pixels.patchify(_last(picture), patch)  # noqa: E731
    place = lambda picture: positions.flattened_ids(picture.shape[1] // patch, picture.shape[2] // patch, side)  # noqa: E731
    picture = subject.recorded[f"{case}.pixels_0"]
    ours = {f"{case}.tokens": cut(picture), f"{case}.position_ids": place(picture)}
    features = subject.run(_see, cut(picture)[None], place(picture), None)
    ours |= {f"{case}.{name}": value[0] for name, value in features.items()}

    several = subject.recorded.numbered("d.vit_pixels_{}")
    counts = np.asarray([len(place(picture)) for picture in several])
    shape = len(several), counts.max(initial=0)
    patches, ids = np.zeros((*shape, subject.config.vit.patch_dim), np.float32), np.zeros(shape, np.int32)
    valid = np.arange(shape[1]) < counts[:, None]
    for row, (picture, count) in enumerate(zip(several, counts, strict=True)):
        patches[row, :count], ids[row, :count] = cut(picture), place(picture)
    ours |= {f"{case}2.position_ids": ids[valid], f"{case}2.seqlens": counts}
    return ours | {f"{case}2.{name}": np.asarray(value)[valid] for name, value in subject.run(_see, patches, ids, valid).items()}


def _see(model: Bagel, patches: Array, ids: Array, valid: Array | None) -> dict[str, Array]:
    features = model.vit.features(patches, ids, valid)
    connected = model.connector(features)
    return {"features": features, "connector": connected, "embedded": connected + model.vit_pos[...][ids]}


# d: contexts ---------------------------------------------------------------------------------------------------------------------


def context(subject: Subject, case: str) -> Ours:
    """The three contexts of a dialogue over two pictures, and the first picture's blocks."""
    seen = contexts.sight(subject.context)
    gen = subject.context.full
    ours = {f"{case}.trace": [_trace(stage) for stage in subject.stages]}
    ours |= _first_and_last(f"{case}.gen", gen, seen.full)
    ours |= _first_and_last(f"{case}.cfg_text", gen, seen.without_instruction)
    ours |= _first_and_last(f"{case}.cfg_img", subject.context.text, seen.without_pictures)
    before = bagel.empty_cache(subject.config, rows=1, capacity=gen.capacity)
    for i, picture in enumerate(subject.terms[::2]):
        grid = subject.model.latent_grid(*picture.shape[1:3])
        tokens, seen = subject.compiled.encode(picture), subject.compiled.see(picture)
        between = subject.compiled.append_latents(before, tokens, grid)  # the cache between the picture's two blocks
        ours |= {
            f"{case}.vae_position_ids_{i}": positions.flattened_ids(*grid, subject.config.latent_side),
            f"{case}.vae_rope_ids_{i}": np.full(tokens.shape[1] + 2, before.rope[0]),
            f"{case}.vit_rope_ids_{i}": np.full(seen.shape[1] + 2, between.rope[0]),
        }
        if f"{case}.vae_block_out_{i}" in subject.recorded:
            blocks = subject.run(_picture_blocks, before, between, tokens, seen, grid=grid)
            ours |= {f"{case}.{name}_{i}": value[0, 0] for name, value in blocks.items()}
        before = subject.stages[min(2 * i + 1, len(subject.stages) - 1)].full
    return ours


def _picture_blocks(
    model: Bagel, before: KVCache, between: KVCache, tokens: Float[Array, "1 L C"], seen: Float[Array, "1 P D"], *, grid: tuple[int, int]
) -> dict[str, Array]:
    """What goes into and comes out of the two blocks of a picture, given the caches before each."""
    marker = model.embed(jnp.asarray([model.config.tokens.image_start, model.config.tokens.image_end]))[None, None]
    framed = lambda ends, inside: jnp.concatenate([ends[:, :, :1], inside, ends[:, :, 1:]], axis=2)  # noqa: E731
    view = lambda cache: (View(k=cache.k, v=cache.v, visible=cache.valid[:, None]),)  # noqa: E731
    place = lambda cache, block: jnp.broadcast_to(cache.rope[:, None, None], block.shape[:3])  # noqa: E731
    gen = model.latent.embed(tokens[:, None], jnp.zeros((1, 1)), positions.flattened_ids(*grid, model.config.latent_side))
    drawn, looked = framed(marker, gen), framed(marker, seen[:, None])
    und, latents, _ = model.decoder.block(marker, gen, positions=place(before, drawn), views=view(before))
    out, _, _ = model.decoder.block(looked, None, positions=place(between, looked), views=view(between))
    return {"vae_block_in": drawn, "vae_block_out": framed(und, latents), "vit_block_out": out}


def context_without_vit(subject: Subject, case: str) -> Ours:
    """The same dialogue, its pictures as latents alone."""
    stages = _latent_dialogue(subject.compiled, subject.terms, capacity=subject.capacity)
    full = stages[-1].full
    return {f"{case}.trace": [_trace(stage) for stage in stages]} | _first_and_last(f"{case}.gen", full, full.valid)


def _latent_dialogue(model: Compiled, terms: tuple[Array, ...], *, capacity: tuple[int, int]) -> list[Context]:
    full, words = (bagel.empty_cache(model.config, rows=1, capacity=slots) for slots in capacity)
    stage = Context(full=full, text=words, instruction=jnp.zeros((1, capacity[0]), bool), rope_before=full.rope)
    stages = []
    for term in terms:
        if term.ndim == 4:
            full = model.append_latents(stage.full, model.encode(term), model.latent_grid(*term.shape[1:3]))
            stage = Context(full=full, text=stage.text, instruction=jnp.zeros_like(stage.instruction), rope_before=full.rope)
        else:
            stage = contexts.add_instruction(model, stage, term, jnp.full((1,), term.shape[1], jnp.int32))
        stages.append(stage)
    return stages


def _trace(stage: Context) -> list[list[int]]:
    """(length, next rotary position) of the full context, of it without the instruction, and of the instructions alone."""
    seen = contexts.sight(stage)
    visible = seen.full, seen.without_instruction, seen.without_pictures
    return [[int(slots.sum()), int(rope)] for slots, rope in zip(visible, seen.start[0], strict=True)]


def _first_and_last(name: str, cache: KVCache, visible: Array) -> dict[str, np.ndarray]:
    """Keys and values of the first and of the last layer, visible slots alone."""
    layers = {"first": 0, "last": -1}
    return {f"{name}.{part}_{end}": held(getattr(cache, part)[layer], visible) for end, layer in layers.items() for part in "kv"}


# e, f, g: velocity and pictures --------------------------------------------------------------------------------------------------


def velocity(subject: Subject, case: str) -> Ours:
    """One latent at several times, against each context, and guided."""
    args, size = subject.recorded.args(case), size_of(subject.recorded.args(case))
    x = jnp.asarray(subject.recorded[f"{case}.x_t"])[None]
    stage, seen, how = subject.context, contexts.sight(subject.context), {"size": size, "scratch": subject.scratch}
    ours = {
        f"{case}.latent_position_ids": positions.flattened_ids(*subject.model.latent_grid(*size), subject.config.latent_side),
        f"{case}.rope_positions": seen.start[0],
    }
    kinds = {"v": args["cfg_img_scale"], "text_only": 1.0}
    for i, t in enumerate(args["timesteps"]):
        plain = _velocities(subject.compiled, stage, x, jnp.full((1,), t), **how)[0]
        ours |= {f"{case}.{name}_{i}": plain[branch] for branch, name in enumerate(("v_cond", "v_cfg_text", "v_cfg_img"))}
        for kind, image_scale in kinds.items():
            for renorm in guidance.RENORMS:
                name = f"{case}.{kind}_{renorm}_{i}"
                if name in subject.recorded:
                    flow = FlowConfig(
                        text_scale=args["cfg_text_scale"], image_scale=image_scale, renorm=renorm, renorm_min=args["cfg_renorm_min"],
                        interval=_EVERYWHERE,
                    )  # fmt: skip
                    ours[name] = image_policy.guided_velocity(subject.compiled, stage, seen, x, jnp.full((1,), t), flow=flow, **how)[0]
    return ours


def _velocities(
    model: Compiled, stage: Context, x: Float[Array, "1 L C"], t: Float[Array, "1"], *, size: tuple[int, int], scratch: int
) -> Float[Array, "1 3 L C"]:
    """Against the three contexts, without guidance."""
    seen, branches = contexts.sight(stage), contexts.BRANCHES
    spread = jnp.broadcast_to(x[:, None], (1, branches, *x.shape[1:]))
    times = jnp.broadcast_to(t[:, None], (1, branches))
    views = contexts.views(stage, seen, branches, scratch)
    return model.velocity(spread, times, grid=model.latent_grid(*size), start=seen.start, views=views)


def scaled_text_keys(subject: Subject, case: str) -> Ours:
    """The full context's velocity with all keys of text tokens longer by a factor: an option of Edit-R2 that is off wherever it is used.

    Ours has no such option. Keys enter attention as they stand in the cache, and a block's own markers get theirs from the und expert's
    key norm; so longer cached keys and a longer norm are the same thing.
    """
    args = subject.recorded.args(case)
    is_text, stage = _text_slots(subject), subject.context
    shape = stage.full.capacity
    factor = jnp.where(jnp.pad(jnp.asarray(is_text), (0, shape - is_text.size)), args["text_key_scale"], 1.0)
    scaled = dataclasses.replace(stage, full=dataclasses.replace(stage.full, k=stage.full.k * factor[None, None, None, :, None]))
    x, t = jnp.asarray(subject.recorded["e.x_t"])[None], jnp.full((1,), args["timestep"])
    size = size_of(subject.recorded.args("e"))
    model = nnx.clone(subject.model)
    norm = model.decoder.layers.und.k_norm
    norm.scale[...] = norm.scale[...] * args["text_key_scale"]
    found = _velocities(Compiled(model), scaled, x, t, size=size, scratch=subject.scratch)
    return {f"{case}.v_cond": found[0, 0], f"{case}.token_type_gen": is_text.astype(np.uint8)}


def _text_slots(subject: Subject) -> np.ndarray:
    """Per slot of case d's full context: whether a text token or a picture's marker stands there."""
    slots: list[bool] = []
    for term in subject.terms:
        if term.ndim == 2:
            slots += [True] * term.shape[1]
        else:
            rows, columns = subject.model.latent_grid(*term.shape[1:3])
            seen = contexts.picture_slots(subject.config, *term.shape[1:3]) - rows * columns - 4
            slots += [True, *[False] * (rows * columns), True, True, *[False] * seen, True]
    return np.asarray(slots)


def picture(subject: Subject, case: str) -> Ours:
    """A picture drawn behind the dialogue of case d, with or without a window of stochastic steps."""
    args = subject.recorded.args(case)
    flow, size = flow_of(args), size_of(args)
    noise = jnp.asarray(subject.recorded[f"{case}.init_noise"])[None]
    name = f"{case}.step_noise"
    steps = jnp.asarray(subject.recorded[name])[:, None] if name in subject.recorded else jnp.zeros((flow.steps, *noise.shape))
    how = {"flow": flow, "size": size, "scratch": subject.scratch}
    window = _window(args)
    drawn = subject.run(_draw, subject.context, noise, steps, window, **how)
    walked = _walk(subject, noise, steps, window, **how)
    grid, rows_and_columns = np.asarray(flow.grid()), subject.model.latent_grid(*size)
    inside = np.asarray(window[0])
    ours = {"x_t": walked["x"], "v_t": walked["v"], "prev_sample_mean": walked["mean"][inside], "std_dev_t": walked["sigma"][inside]}
    ours |= {"timesteps": grid[:-1], "dts": grid[:-1] - grid[1:]}
    if inside.size:
        ours |= _recorded(drawn.trajectory)
    ours["unpatchified"] = _first(pixels.unpatchify(drawn.latent, *rows_and_columns, subject.config.latent_patch))
    ours |= _pictures(subject.compiled.decode(drawn.latent, *size))
    return {f"{case}.{name}": value for name, value in ours.items()}


def _draw(
    model: Bagel,
    stage: Context,
    noise: Float[Array, "1 L C"],
    steps: Float[Array, "S 1 L C"],
    window: Int[Array, "1 W"],
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int,
) -> denoise.Denoised:
    return image_policy.sample(
        model, stage, flow=flow, size=size, noise=noise, steps=window, step_noise=lambda step: steps[step], scratch=scratch
    )


def _walk(
    subject: Subject,
    x: Float[Array, "1 L C"],
    steps: Float[Array, "S 1 L C"],
    window: Int[Array, "1 W"],
    *,
    flow: FlowConfig,
    size: tuple[int, int],
    scratch: int,
) -> dict[str, np.ndarray]:
    """The sampler's steps one at a time, for what it does not keep: the latent before each, velocity, mean and spread."""
    grid, stage, seen = flow.grid(), subject.context, contexts.sight(subject.context)
    found: dict[str, list[Array]] = {"x": [x[0]], "v": [], "mean": [], "sigma": []}
    for i in range(flow.steps):
        v = image_policy.guided_velocity(subject.compiled, stage, seen, x, grid[i][None], flow=flow, size=size, scratch=scratch)
        inside = sde_window.contains(window, i)
        taken = flow.kernel.step(x, v, grid[i], grid[i + 1], t_guard=grid[1], eps=steps[i], stochastic=inside)
        x = taken.next
        for name, value in (("x", x), ("v", v), ("mean", taken.mean), ("sigma", taken.sigma)):
            found[name].append(value[0])
    return {name: np.stack(values) for name, values in found.items()}


def _window(args: Mapping[str, Any]) -> Int[Array, "1 W"]:
    """The stochastic steps of a case; without a window there are none."""
    return args.get("sde_window_begin", 0) + jnp.arange(args.get("sde_window_size", 0), dtype=jnp.int32)[None]


def _recorded(trajectory: denoise.Trajectory) -> dict[str, Array]:
    """A window as it is recorded: in one piece, so that a step's end is the next one's start."""
    latents = jnp.concatenate([trajectory.x[0, :1], trajectory.x_next[0]])
    return {"all_latents": latents, "all_log_probs": trajectory.log_prob[0], "timesteps": trajectory.t[0]}


def _pictures(decoded: Float[Array, "1 H W 3"]) -> dict[str, Array]:
    """A drawn picture in the forms in which it is recorded."""
    return {"decoded": _first(decoded), "image": _first(jnp.clip(decoded * 0.5 + 0.5, 0, 1))[0], "image_u8": pixels.to_uint8(decoded)[0]}


def stochastic_step(subject: Subject, case: str) -> Ours:
    """Single steps on random numbers, for every kernel, noise level and time."""
    args, told = subject.recorded.args(case), subject.recorded.args("g0")
    grid = timesteps.shifted(told["num_timesteps"], told["timestep_shift"])
    names = ("sample", "model_output", "noise", "given_prev")
    x, v, eps, given = (jnp.asarray(subject.recorded[f"{case}.{name}"])[None] for name in names)
    ours = {f"{case}.schedule": grid}
    for kind in args["sde_types"]:
        rows: dict[str, list[np.ndarray]] = {}
        for level in args["noise_levels"]:
            kernel = kernels.Kernel(kind=kind, noise_level=level)
            for i in args["step_indices"]:
                step = kernel.step(x, v, grid[i], grid[i + 1], t_guard=grid[1], eps=eps)
                scored = kernel.log_prob(x, v, given, grid[i], grid[i + 1], t_guard=grid[1])
                found = {
                    "prev_sample": step.next,
                    "log_prob": step.log_prob,
                    "prev_sample_mean": step.mean,
                    "std_dev_t": step.sigma,
                    "log_prob_given_prev": scored.log_prob,
                }
                for name, value in found.items():
                    rows.setdefault(name, []).append(np.asarray(value)[0])
        ours |= {f"{case}.{kind}.{name}": np.stack(values) for name, values in rows.items()}
    return ours


# h: text -------------------------------------------------------------------------------------------------------------------------


def writing(subject: Subject, case: str) -> Ours:
    """Greedy text behind the dialogue of case d, and given text scored.

    The recorded sequence begins with the begin token and lacks the last prediction, be it the end token or the one too many.
    """
    args, cache, tokens = subject.recorded.args(case), subject.context.full, subject.config.tokens
    limit, temperature = args["max_length"], args["temperature"]
    written = subject.run(_write, cache, jnp.int32(tokens.eos), limit=limit)
    count = int(written.count[0])
    sequence = lambda intent: np.asarray([tokens.bos, *np.asarray(intent.tokens)[0][: int(intent.count[0]) - 1]])  # noqa: E731
    _, logits = intent_policy.log_prob(subject.compiled, cache, written.tokens, written.count, temperature=temperature)
    ours = {"tokens": sequence(written), "logits": logits[0, :count], "greedy_log_probs": written.log_prob[0, :count]}
    if f"{case}.stopped_tokens" in subject.recorded:
        ours["stopped_tokens"] = sequence(subject.run(_write, cache, jnp.int32(args["end_token_id_for_stopped"]), limit=limit))
    given = subject.recorded[f"{case}.tf_ids"]
    follows = jnp.asarray([*given[1:], 0])[None]  # what would come next is not asked for, but its logits are recorded
    scored, logits = intent_policy.log_prob(subject.compiled, cache, follows, jnp.full((1,), follows.shape[1]), temperature=temperature)
    ours |= {"tf_logits": logits[0], "tf_log_probs": scored[0, :-1]}
    return {f"{case}.{name}": value for name, value in ours.items()}


def _write(model: Bagel, cache: KVCache, end: Array, *, limit: int) -> intent_policy.Intent:
    return intent_policy.sample(model, cache, keys=None, limit=limit, temperature=1.0, end=end)[0]


# j, k: pictures and positions ----------------------------------------------------------------------------------------------------


def transforms(subject: Subject, case: str) -> Ours:
    """Sizes, resized pictures, ranges."""
    args, ours = subject.recorded.args(case), {}
    sizes = subject.recorded[f"{case}.input_sizes"].tolist()
    for rule in args["settings_for_sizes"]:
        found = [rule_of(rule).shape(width, height, max_pixels=args["default_max_pixels"]) for width, height in sizes]
        ours[f"{case}.sizes_{'_'.join(map(str, rule))}"] = found
    for i, rule in enumerate(args["small_settings"]):
        image = subject.recorded[f"{case}.image_{i}"]
        width, height = rule_of(rule).shape(image.shape[1], image.shape[0])
        resized = pixels.resize(jnp.asarray(image), height, width)
        ours |= {f"{case}.resized_u8_{i}": resized, f"{case}.pixels_{i}": _first(pixels.normalise(resized))}
    return ours | {f"{case}.u8_roundtrip": pixels.unit_to_uint8(pixels.to_unit(np.arange(256, dtype=np.uint8)))}


def places(subject: Subject, case: str) -> Ours:
    """Position ids, patches, tables, times."""
    args, recorded, ours = subject.recorded.args(case), subject.recorded, {}
    stride, side = args["latent_stride"], args["max_latent_size"]
    for i, (height, width) in enumerate(args["sizes_hw"]):
        ours[f"{case}.extrapolate_{i}"] = positions.flattened_ids(height // stride, width // stride, side)
        ours[f"{case}.interpolate_{i}"] = positions.interpolated_ids(height // stride, width // stride, side)
    picture = _last(recorded[f"{case}.patchify_in"])
    patch = math.isqrt(recorded[f"{case}.patchify_out"].shape[1] // picture.shape[-1])
    t = jnp.asarray(recorded[f"{case}.timesteps"])
    return ours | {
        f"{case}.patchify_out": pixels.patchify(picture, patch),
        f"{case}.latent_pos_embed": positions.sincos_table(subject.config.decoder.width, side),
        f"{case}.timestep_sinusoid": positions.timestep_features(t),
        f"{case}.timestep_embedding": subject.run(_time, t),
    }


def _time(model: Bagel, t: Array) -> Array:
    return model.latent.time(t)


# m: a session --------------------------------------------------------------------------------------------------------------------


def session(subject: Subject, case: str) -> Ours:
    """Turns end to end: draw, see what was drawn, go on. What enters the next turn is the recorded picture, so that one level in one
    pixel does not spread.
    """
    args, recorded = subject.recorded.args(case), subject.recorded
    flow, size, window = flow_of(args), size_of(args), _window(args)
    noises = recorded.numbered(f"{case}.init_noise_{{}}")
    terms = subject.interleaved([recorded["d.img0_u8"], *recorded.numbered(f"{case}.turn{{}}_u8")])
    stages = dialogue(subject.compiled, terms, capacity=subject.capacity)
    ours = {}
    for turn, noise in enumerate(noises):
        steps = jnp.asarray(recorded[f"{case}.step_noise_{turn}"])[:, None]
        stage = stages[2 * turn + 1]
        drawn = subject.run(_draw, stage, jnp.asarray(noise)[None], steps, window, flow=flow, size=size, scratch=subject.scratch)
        ours |= {f"{case}.{name}_{turn}": value for name, value in _recorded(drawn.trajectory).items()}
        shown = _pictures(subject.compiled.decode(drawn.latent, *size))
        ours |= {f"{case}.image_{turn}": shown["image"], f"{case}.turn{turn}_u8": shown["image_u8"]}
    ours[f"{case}.trace"] = [[_trace(stage)[i] for i in (0, 2)] for stage in stages[::2]]
    return ours | _first_and_last(f"{case}.gen", stages[-1].full, stages[-1].full.valid)


def _last(array: np.ndarray) -> Array:
    """[..., C, H, W] to [..., H, W, C]."""
    return jnp.moveaxis(jnp.asarray(array), -3, -1)


def _first(array: Array) -> Array:
    """[..., H, W, C] to [..., C, H, W]."""
    return jnp.moveaxis(jnp.asarray(array), -1, -3)


CASES: dict[str, Callable[[Subject, str], Ours]] = {
    "a": text,
    "b": autoencoder,
    "c": vision,
    "d": context,
    "d_novit": context_without_vit,
    "e": velocity,
    "e_tks": scaled_text_keys,
    "f": picture,
    "g0": picture,
    "g1": picture,
    "g_unit": stochastic_step,
    "h": writing,
    "j": transforms,
    "k": places,
    "m": session,
}
