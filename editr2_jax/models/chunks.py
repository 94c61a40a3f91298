"""Attention of many queries to many keys in plain products, some queries at a time: the memory-saving way where there is no kernel.

The letters and the meaning of `forward` and `backward` are those of `splash.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_MASKED = -1e30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunks:
    """Products of `queries` queries with all keys at once."""

    queries: int

    def forward(
        self,
        q: Float[Array, "K Q d"],
        k: Float[Array, "K S d"],
        v: Float[Array, "K S d"],
        seen: Bool[Array, "S"],
        last: Int[Array, "Q"] | None,
        used: Bool[Array, "S"],
    ) -> tuple[Float[Array, "K Q d"], Float[Array, "K Q"]]:
        """Mixed values and log-sum-exp of the scores; see `Splash.forward`. `used` is not: all keys are gone through."""

        def some(xs):
            q, last = xs
            scores = _scores(q, k, seen, last)
            top = jnp.max(scores, axis=-1, keepdims=True)
            share = jnp.exp(scores - top)
            total = jnp.sum(share, axis=-1, keepdims=True)
            mixed = jnp.einsum("kqs,ksd->kqd", (share / total).astype(v.dtype), v)
            return mixed, (top + jnp.log(total))[..., 0]

        out, lse = jax.lax.map(some, (self._cut(q), self._cut_last(last, q.shape[1])))
        return _whole(out, q.shape[1]), _whole(lse, q.shape[1])

    def backward(self, q, k, v, seen, last, used, lse: Float[Array, "K Q"], do: Float[Array, "K Q d"], di: Float[Array, "K Q"]):
        """Gradients of q, k, v through these keys; see `Splash.backward`."""

        def some(carry, xs):
            dk, dv = carry
            q, last, lse, do, di = xs
            share = jnp.exp(_scores(q, k, seen, last) - lse[..., None])
            dv = dv + jnp.einsum("kqs,kqd->ksd", share.astype(do.dtype), do, preferred_element_type=jnp.float32)
            slope = share * (jnp.einsum("kqd,ksd->kqs", do, v, preferred_element_type=jnp.float32) - di[..., None])
            dk = dk + jnp.einsum("kqs,kqd->ksd", slope.astype(q.dtype), q, preferred_element_type=jnp.float32)
            return (dk, dv), jnp.einsum("kqs,ksd->kqd", slope.astype(k.dtype), k)

        start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        cut = (self._cut(q), self._cut_last(last, q.shape[1]), self._cut(lse), self._cut(do), self._cut(di))
        (dk, dv), dq = jax.lax.scan(some, start, cut)
        return _whole(dq, q.shape[1]), dk.astype(k.dtype), dv.astype(v.dtype)

    def _cut(self, x: Array) -> Array:
        """[K, Q, ..] in pieces along its second axis, zeros behind: [pieces, K, queries, ..]."""
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % self.queries)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, self.queries, *x.shape[2:]), 1, 0)

    def _cut_last(self, last: Array | None, queries: int) -> Array | None:
        return None if last is None else self._cut(last[None])[:, 0]


def _scores(q, k, seen, last):
    scores = jnp.einsum("kqd,ksd->kqs", q, k, preferred_element_type=jnp.float32)
    mask = seen if last is None else seen & (jnp.arange(k.shape[1]) <= last[:, None])
    return jnp.where(mask, scores, _MASKED)


def _whole(x: Array, length: int) -> Array:
    """The inverse of `_cut`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
