"""Points of both kinds with random numbers, for tests of objectives without a network."""

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.flow import kernels
from editr2_jax.objectives.points import Path, Tokens, Window

SHAPE = (6, 5)  # latent tokens, channels
T, T_NEXT, T_GUARD = 0.7, 0.5, 0.9


def normal(seed: int, *shape: int):
    return jax.random.normal(jax.random.key(seed), shape or SHAPE)


def window(advantage, *, v_old=None, kernel: str = "sde", noise_level: float = 0.7, mask=None, group: int = 1, seed: int = 0) -> Window:
    """Steps that v_old drew; their log-probabilities are those of the draw."""
    advantage = jnp.asarray(advantage, jnp.float32)
    rows = len(advantage)
    x, eps = normal(seed, rows, *SHAPE), normal(seed + 1, rows, *SHAPE)
    v_old = velocity(rows) if v_old is None else v_old
    made = kernels.Kernel(kind=kernel, noise_level=noise_level)
    taken = made.step(x, v_old, T, T_NEXT, t_guard=T_GUARD, eps=eps)
    times = lambda t: jnp.full(rows, t)  # noqa: E731
    return Window(
        x=x, x_next=taken.next, t=times(T), t_next=times(T_NEXT), t_guard=jnp.float32(T_GUARD), old_log_prob=taken.log_prob,
        advantage=advantage, reward=advantage, mask=jnp.ones(rows, bool) if mask is None else jnp.asarray(mask), kernel=made, group=group,
    )  # fmt: skip


def path(advantage, *, mask=None, group: int = 1, seed: int = 0) -> Path:
    """Pictures, noise and times."""
    advantage = jnp.asarray(advantage, jnp.float32)
    rows = len(advantage)
    return Path(
        clean=normal(seed, rows, *SHAPE), noise=normal(seed + 1, rows, *SHAPE), t=jnp.linspace(0.3, 0.9, rows), advantage=advantage,
        reward=advantage, mask=jnp.ones(rows, bool) if mask is None else jnp.asarray(mask), group=group,
    )  # fmt: skip


def velocity(rows: int, seed: int = 7):
    return normal(seed, rows, *SHAPE)


def tokens(advantage, *, log_prob=None, old=None, mask=None, length: int = 4, group: int = 1) -> Tokens:
    """Written intents of equal length."""
    advantage = jnp.asarray(advantage, jnp.float32)
    old = -jnp.abs(normal(3, len(advantage), length)) if old is None else old
    return Tokens(
        log_prob=old if log_prob is None else log_prob, old_log_prob=old, advantage=advantage, reward=advantage,
        mask=jnp.ones(old.shape, bool) if mask is None else jnp.asarray(np.asarray(mask)), group=group,
    )  # fmt: skip
