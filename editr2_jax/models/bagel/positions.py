"""Where a token stands and how noisy it is: 2D position ids and tables, and the features of a timestep.

Tables and frequencies follow BAGEL: the first half of the channels encodes the column, the second half the row, each half sines
then cosines with frequencies 10000^(-i / (D/4)); a timestep gets cosines then sines with frequencies 10000^(-i / (F/2)).
Letters: N tokens of one picture (row by row), D table width, F timestep features.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int


class Table(nnx.Variable):
    """A fixed table of numbers: saved with the model, never trained."""


def flattened_ids(rows: int, columns: int, side: int) -> Int[np.ndarray, "N"]:
    """Ids of a rows x columns picture in a table of side x side places: row * side + column ("extrapolate" in BAGEL).

    Raises ValueError when the picture does not fit the table.
    """
    if rows > side or columns > side:
        raise ValueError(f"A picture of {rows}x{columns} tokens does not fit a position table of {side}x{side}; make the picture smaller.")
    return (np.arange(rows)[:, None] * side + np.arange(columns)[None, :]).reshape(-1).astype(np.int32)


def interpolated_ids(rows: int, columns: int, side: int) -> Int[np.ndarray, "N"]:
    """Ids that spread a rows x columns picture over the whole table ("interpolate" in BAGEL; no released model uses it).

    A token at the fraction i / rows of the picture gets the place whose share of [0, 1) holds it; compared in float32, as the original.
    """
    edges = np.arange(1, side) / side
    row, column = (np.searchsorted(np.float32(edges), np.float32(np.arange(count) / count), side="right") for count in (rows, columns))
    return (row[:, None] * side + column[None, :]).reshape(-1).astype(np.int32)


def sincos_table(width: int, side: int) -> Float[Array, "side*side D"]:
    """The fixed 2D table, float32, one row per place of a side x side grid."""
    quarter = width // 4
    angle = np.outer(np.arange(side), 10000.0 ** (-np.arange(quarter) / quarter))  # [side, D/4] in float64, as the original
    line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)  # [side, D/2]
    half = (side, side, line.shape[1])
    column, row = jnp.broadcast_to(line[None, :, :], half), jnp.broadcast_to(line[:, None, :], half)
    return jnp.concatenate([column, row], axis=-1).reshape(side * side, 4 * quarter)


def timestep_features(time: Float[Array, "..."], count: int = 256) -> Float[Array, "... F"]:
    """Sinusoids of a timestep in [0, 1], taken as it is (no factor 1000): F/2 cosines, then F/2 sines, in float32."""
    half = count // 2
    frequency = jnp.exp(-np.log(10000.0).astype(np.float32) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.asarray(time, jnp.float32)[..., None] * frequency  # [..., F/2]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
