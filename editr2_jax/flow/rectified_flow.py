"""Rectified flow: the straight path between picture and noise, and the ways to read it.

    x_t = (1 - t) clean + t noise,    v = noise - clean,    t = 1 is noise, t = 0 is the picture
    clean = x - t v,    noise = x + (1 - t) v,    Euler: x' = x + (t' - t) v

Letters: B rows; every other axis of x belongs to one picture. A time is a scalar, or [B] with one time per row.
The arithmetic is float32 at least, whatever the inputs are stored in; float64 inputs stay float64.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def working(*arrays) -> tuple[Array, ...]:
    """The arrays in one common type, at least float32: bfloat16 would lose a log ratio of 1e-5."""
    dtype = jnp.result_type(jnp.float32, *arrays)
    return tuple(jnp.asarray(array, dtype) for array in arrays)


def per_row(value: Float[Array, "*B"] | float, x: Float[Array, "B ..."]) -> Array:
    """A scalar as it is; [B] as [B, 1, 1, ...], ready to meet x[B, ...].

    Raises:
        ValueError: value has axes that are not the rows of x; plain broadcasting would pair rows with tokens in silence.
    """
    value = jnp.asarray(value)
    if value.ndim == 0:
        return value
    if value.shape != x.shape[:1]:
        raise ValueError(f"one value per row wants shape [] or [{x.shape[0]}], got {list(value.shape)} for x{list(x.shape)}.")
    return value.reshape(value.shape + (1,) * (x.ndim - 1))


def interpolate(clean: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, "*B"] | float) -> Float[Array, "B ..."]:
    """The point of the straight path at time t."""
    clean, noise, t = working(clean, noise, t)
    t = per_row(t, clean)
    return (1 - t) * clean + t * noise


def velocity(clean: Float[Array, "B ..."], noise: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """What the network learns: the path's constant direction, from picture to noise."""
    clean, noise = working(clean, noise)
    return noise - clean


def clean_from(x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Float[Array, "*B"] | float) -> Float[Array, "B ..."]:
    """The picture that velocity v promises from x at time t."""
    x, v, t = working(x, v, t)
    return x - per_row(t, x) * v


def noise_from(x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Float[Array, "*B"] | float) -> Float[Array, "B ..."]:
    """The noise that velocity v implies behind x at time t."""
    x, v, t = working(x, v, t)
    return x + (1 - per_row(t, x)) * v


def euler(
    x: Float[Array, "B ..."], v: Float[Array, "B ..."], t: Float[Array, "*B"] | float, t_next: Float[Array, "*B"] | float
) -> Float[Array, "B ..."]:
    """One deterministic step from t to t_next (t_next < t walks towards the picture)."""
    x, v, t, t_next = working(x, v, t, t_next)
    return x + v * per_row(t_next - t, x)
