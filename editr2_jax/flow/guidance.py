"""Classifier-free guidance of an editor: away from the velocity without the instruction, then away from the one without pictures.

    u = v_T + a (v - v_T)                  text;   v_T: the context without the latest instruction
    w = v_I + b (u - v_I)                  image;  v_I: the instructions alone
    w <- w clip(|v| / (|w| + 1e-8), renorm_min, 1)

where the norm is over a whole row ("global") or over the channels of each token ("channel"); "text_channel" rescales u in that way,
per token, and leaves w as it comes. a <= 1 switches everything off, b <= 1 skips the image formula.
Letters: B rows, N latent tokens, C numbers in a token. Source: BAGEL, Edit-R2.
The policy's velocity is the guided one: gradients flow through every branch and through the norms.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from editr2_jax.flow import rectified_flow

RENORMS = ("global", "channel", "text_channel")
EPSILON = 1e-8  # BAGEL's


def branches(text_scale: float, image_scale: float) -> tuple[bool, bool]:
    """Whether (v_without_text, v_without_image) are needed at these scales; each costs a forward pass."""
    return text_scale > 1, text_scale > 1 and image_scale > 1


def active(t: Float[Array, "*B"] | float, interval: tuple[float, float]) -> Bool[Array, "*B"]:
    """True where lo < t <= hi; t may be traced."""
    low, high = interval
    t = jnp.asarray(t)
    return (t > low) & (t <= high)


def guide(
    v: Float[Array, "B N C"],
    v_without_text: Float[Array, "B N C"] | None,
    v_without_image: Float[Array, "B N C"] | None,
    *,
    text_scale: float,
    image_scale: float,
    renorm: str = "text_channel",
    renorm_min: float = 0.0,
    where: Bool[Array, "*B"] | bool = True,
) -> Float[Array, "B N C"]:
    """The guided velocity, float32 at least.

    Args:
        v_without_text, v_without_image: None where `branches` says they are not needed.
        text_scale, image_scale: a and b, plain numbers.
        where: rows to guide (see `active`); the others keep v.

    Raises:
        ValueError: an unknown renorm, or a branch that the scales need is None.
    """
    if renorm not in RENORMS:
        raise ValueError(f"renorm {renorm!r} is unknown; choose one of {', '.join(RENORMS)}.")
    (plain,) = rectified_flow.working(v)
    needs_text, needs_image = branches(text_scale, image_scale)
    if not needs_text:
        return plain
    if v_without_text is None or (needs_image and v_without_image is None):
        raise ValueError(
            f"text_scale {text_scale} and image_scale {image_scale} need a velocity that was not given; ask guidance.branches which."
        )
    per_token = renorm != "global"
    guided = _away(plain, v_without_text, text_scale)
    if renorm == "text_channel":
        guided = _renormed(guided, plain, renorm_min, per_token=per_token)
    if needs_image:
        guided = _away(guided, v_without_image, image_scale)
    if renorm != "text_channel":
        guided = _renormed(guided, plain, renorm_min, per_token=per_token)
    return jnp.where(rectified_flow.per_row(where, plain), guided, plain)


def _away(v: Array, without: Array, scale: float) -> Array:
    v, without = rectified_flow.working(v, without)
    return without + scale * (v - without)


def _renormed(guided: Array, v: Array, renorm_min: float, *, per_token: bool) -> Array:
    axes = -1 if per_token else tuple(range(1, v.ndim))
    factor = _norm(v, axes) / (_norm(guided, axes) + EPSILON)
    return guided * jnp.clip(factor, renorm_min, 1.0)


def _norm(x: Array, axes: int | tuple[int, ...]) -> Array:
    """Length along the axes; a zero vector has length 0 and gradient 0, where a plain sqrt would give NaN."""
    square = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
