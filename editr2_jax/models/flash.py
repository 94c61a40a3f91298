"""Attention that never holds all scores: one softmax in parts, over caches, a block, and the shards of a mesh.

    out = sum_p out_p exp(lse_p - lse),   lse = log sum_p exp(lse_p)
    with d = sum(do * out):   dq = sum_p dq_p,   where part p recomputes its shares as exp(score - lse)

A part is a cache (or this device's shard of its slots) or the block itself. How a part is computed is the engine's affair: the TPU kernels
(`splash.py`) or plain products in pieces (`chunks.py`). Caches are read where they lie: not copied per variant, not joined with the block.

Letters: B rows, R variants, T tokens of the block, S cache slots, H query heads, K key-value heads, G = H / K, d head width. A key-value
head's G query heads stand behind each other as G*T queries, so that one padding serves them all.

Under a mesh rows are cut over the batch axes and heads over the head axes where they divide, else they are whole on every device; slots are
cut over the sequence axis, whose devices each answer for their own slots and then join by the formula above. No keys or values travel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from editr2_jax.models.block_mask import InOrder, sorted_keys
from editr2_jax.runtime.mesh import Layout

_BLIND = -1e29  # a log-sum-exp below this belongs to a query that sees no key: padding
_NOTHING = 1e30  # taken for its log-sum-exp in the backward pass: all its shares are 0


class Engine(Protocol):
    """One part of a softmax, of one variant of one row; see `splash.Splash`."""

    def forward(self, q, k, v, seen, last, used) -> tuple[Array, Array]: ...
    def backward(self, q, k, v, seen, last, used, lse, do, di) -> tuple[Array, Array, Array]: ...


def attend(
    q: Float[Array, "B R T H d"],
    k: Float[Array, "B R T K d"],
    v: Float[Array, "B R T K d"],
    mask: InOrder | None,
    views: tuple[tuple[Float[Array, "B K S d"], Float[Array, "B K S d"], Bool[Array, "B Rv S"]], ...],
    *,
    engine: Engine,
    layout: Layout | None = None,
    name: str,
) -> Float[Array, "B R T H*d"]:
    """As `attention.attend`. A token that sees nothing gives 0 and has no gradient.

    name: of what the backward pass needs of the forward kernels (result and denominators), for a checkpoint policy. A policy that saves it
    runs each kernel once forward and once backward.
    """
    b, r, t, h, d = q.shape
    place = _Place(layout, rows=b, heads=k.shape[3], slots=tuple(keys.shape[2] for keys, *_ in views))
    order = last = None
    if mask is not None:
        order, last = (None, jnp.arange(t, dtype=jnp.int32)) if mask.place is None else sorted_keys(jnp.asarray(mask.place))
        last = jnp.tile(last, h // k.shape[3])
    valid = jnp.ones((b, r, t), bool) if mask is None else mask.valid
    if order is not None:
        k, v, valid = k[:, :, order], v[:, :, order], valid[:, :, order]
    forward, backward = place.mapped(engine)

    @jax.custom_vjp
    def run(q, k, v, caches, seen):
        return forward(q, k, v, caches, seen)[0]

    def run_forward(q, k, v, caches, seen):
        out, lse = (checkpoint_name(x, name) for x in forward(q, k, v, caches, seen))
        return out, (q, k, v, caches, seen, out, lse)

    def run_backward(saved, do):
        return *backward(*saved, do), None

    run.defvjp(run_forward, run_backward)
    seen = valid, last, tuple(visible for *_, visible in views)
    return run(q, k, v, tuple((keys, values) for keys, values, _ in views), seen).reshape(b, r, t, h * d)


class _Place:
    """Where the arrays lie, and the two passes as every device runs them."""

    def __init__(self, layout: Layout | None, *, rows: int, heads: int, slots: tuple[int, ...]):
        self.layout = layout
        self.rows, self.heads = self._axes("batch", rows), self._axes("heads", heads)
        self.slots = tuple(self._axes("sequence", size) for size in slots)

    def _axes(self, logical: str, size: int) -> tuple[str, ...]:
        """The mesh axes over which an axis of this size is cut; none where it does not divide."""
        if self.layout is None or size % self.layout.parts(logical):
            return ()
        return tuple(axis for axis in self.layout.axes(logical) if self.layout.mesh.shape[axis] > 1)

    def mapped(self, engine: Engine) -> tuple[Callable, Callable]:
        """(forward, backward) over whole arrays."""

        def forward(q, k, v, caches, seen):
            return _forward(engine, self.slots, q, k, v, caches, seen)

        def backward(*saved):
            return _backward(engine, self.slots, *saved)

        if self.layout is None or self.layout.mesh.size == 1:
            return forward, backward
        spec = lambda *axes: PartitionSpec(*(a or None for a in axes))  # noqa: E731
        token = spec(self.rows, (), (), self.heads, ())
        cache = tuple((spec(self.rows, self.heads, axes, ()),) * 2 for axes in self.slots)
        seen = spec(self.rows), spec(), tuple(spec(self.rows, (), axes) for axes in self.slots)
        given, lse = (token, token, token, cache, seen), spec(self.rows, (), self.heads)
        # check_vma: kernels do not say over which axes their results vary. Nothing here is differentiated.
        cut = lambda f, ins, outs: jax.shard_map(f, mesh=self.layout.mesh, in_specs=ins, out_specs=outs, check_vma=False)  # noqa: E731
        return cut(forward, given, (token, lse)), cut(backward, (*given, token, lse, token), (token, token, token, cache))


# one device ------------------------------------------------------------------------------------------------------------------------


def _forward(engine: Engine, slots, q, k, v, caches, seen):
    """[B, R, T, H, d] and log-sum-exp [B, R, K, G*T]."""
    valid, last, visible = seen
    q, folded_k, folded_v = _fold(q, k.shape[3], scale=True), _fold(k, k.shape[3]), _fold(v, k.shape[3])
    forward = lambda last, used: lambda q, k, v, seen: engine.forward(q, k, v, seen, last, used)  # noqa: E731
    out, lse = jax.vmap(jax.vmap(forward(last, _anybody(valid))))(q, folded_k, folded_v, valid)
    out = out.astype(jnp.float32)
    for part, (keys, values), some, axes in zip(_parts(visible), caches, visible, slots, strict=True):
        cached = jax.vmap(jax.vmap(forward(None, _anybody(some)), in_axes=(0, None, None, 0)))
        more, more_lse = _join_shards(*cached(q[:, part], keys, values, some), axes)
        joined, joined_lse = _join(out[:, part], lse[:, part], more, more_lse)
        out, lse = out.at[:, part].set(joined), lse.at[:, part].set(joined_lse)
    out = jnp.where(lse[..., None] < _BLIND, 0.0, out)
    return _unfold(out, k.shape[2]).astype(v.dtype), lse


def _backward(engine: Engine, slots, q, k, v, caches, seen, out, lse, do):
    """Gradients of q, k, v and of every cache. Nobody asking for a cache's, the compiler drops what makes them."""
    valid, last, visible = seen
    kv, scale = k.shape[3], q.shape[4] ** -0.5
    q, folded_k, folded_v = _fold(q, kv, scale=True), _fold(k, kv), _fold(v, kv)
    di = jnp.sum(_fold(do, kv).astype(jnp.float32) * _fold(out, kv).astype(jnp.float32), axis=-1)
    do, lse = _fold(do, kv), jnp.where(lse < _BLIND, _NOTHING, lse)
    backward = lambda last, used: lambda q, k, v, seen, *rest: engine.backward(q, k, v, seen, last, used, *rest)  # noqa: E731
    dq, dk, dv = jax.vmap(jax.vmap(backward(last, _anybody(valid))))(q, folded_k, folded_v, valid, lse, do, di)
    dq, grads = dq.astype(jnp.float32), []
    for part, (keys, values), some, axes in zip(_parts(visible), caches, visible, slots, strict=True):
        cached = jax.vmap(jax.vmap(backward(None, _anybody(some)), in_axes=(0, None, None, 0, 0, 0, 0)))
        more, *own = cached(q[:, part], keys, values, some, lse[:, part], do[:, part], di[:, part])
        more = more.astype(jnp.float32)
        dq = dq.at[:, part].add(jax.lax.psum(more, axes) if axes else more)
        grads.append(tuple(jnp.sum(x.astype(jnp.float32), axis=1).astype(keys.dtype) for x in own))
    dq = (_unfold(dq, k.shape[2]) * scale).astype(q.dtype)
    return dq, _unfold(dk, k.shape[2]), _unfold(dv, k.shape[2]), tuple(grads)


def _anybody(seen: Bool[Array, "B R S"]) -> Bool[Array, "S"]:
    return jnp.any(seen, axis=(0, 1))


def _parts(visible) -> list[slice]:
    """The variants that each view serves."""
    parts, first = [], 0
    for some in visible:
        parts.append(slice(first, first + some.shape[1]))
        first += some.shape[1]
    return parts


def _join(a, a_lse, b, b_lse):
    """Two parts of one softmax."""
    top = jnp.maximum(a_lse, b_lse)
    of_a, of_b = jnp.exp(a_lse - top), jnp.exp(b_lse - top)
    total = of_a + of_b
    return a * (of_a / total)[..., None] + b.astype(jnp.float32) * (of_b / total)[..., None], top + jnp.log(total)


def _join_shards(out, lse, axes: tuple[str, ...]):
    """The parts that the devices along some mesh axes hold."""
    if not axes:
        return out, lse
    top = jax.lax.pmax(lse, axes)
    share = jnp.exp(lse - top)
    total = jax.lax.psum(share, axes)
    return jax.lax.psum(out.astype(jnp.float32) * (share / total)[..., None], axes), top + jnp.log(total)


def _fold(x: Float[Array, "B R T H d"], kv: int, *, scale: bool = False) -> Float[Array, "B R K G*T d"]:
    """Heads that share keys and values behind each other; `scale` by d^-1/2."""
    b, r, t, h, d = x.shape
    x = x * jnp.asarray(d**-0.5, x.dtype) if scale else x
    return x.reshape(b, r, t, kv, h // kv, d).transpose(0, 1, 3, 4, 2, 5).reshape(b, r, kv, h // kv * t, d)


def _unfold(x: Float[Array, "B R K G*T d"], t: int) -> Float[Array, "B R T H d"]:
    b, r, kv, gt, d = x.shape
    return x.reshape(b, r, kv, gt // t, t, d).transpose(0, 1, 4, 2, 3, 5).reshape(b, r, t, kv * gt // t, d)
