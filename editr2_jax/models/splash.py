"""Attention of many queries to many keys by JAX's splash kernels for TPUs, one softmax cut into parts.

Letters: K key-value heads, Q queries of one such head (its query heads one after the other), S keys, d head width.

`forward` gives a softmax over the keys at hand with the log of its denominator; `backward` takes the denominator of the whole softmax, of
which these keys may be a part. So a cache and a block stay two arrays that nobody concatenates or pads together, a cache that needs no
gradient costs none (its kernel is a call of its own, dropped where nobody reads its result), and shards of a cache can be joined.

Tiles that nobody needs are skipped: keys that no row on this device sees (the free end of a cache), and keys after every query's last one.

The public vjp of splash knows only its own denominator; hence the two backward kernels are called by their private names. Their arguments
are those of jax 0.10.2; `tests/models/test_flash.py` stands guard over an upgrade.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as mask_info
from jaxtyping import Array, Bool, Float, Int

from editr2_jax.models import tiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splash:
    """The kernels with their tile sizes; 0 lets `tiles.py` choose."""

    queries: int = 0
    keys: int = 0
    interpret: bool = False  # on a machine without a TPU, for tests

    def forward(
        self,
        q: Float[Array, "K Q d"],
        k: Float[Array, "K S d"],
        v: Float[Array, "K S d"],
        seen: Bool[Array, "S"],
        last: Int[Array, "Q"] | None,
        used: Bool[Array, "S"],
    ) -> tuple[Float[Array, "K Q d"], Float[Array, "K Q"]]:
        """Mixed values and log-sum-exp of the scores.

        Args:
            seen: keys that exist.
            last: the last key that a query sees; None for all.
            used: keys that exist for anybody: the same for all that are mapped over, so that the kernel's steps are.
        """
        bq = self.queries or tiles.queries(q.shape[1])
        bkv, compute = self._key_tiles(k.shape[1])
        arrays, segments, last, function = _prepared(q, k, v, seen, last, bq, bkv)
        run = _needed(used, last, arrays[0].shape[1], bq, bkv)
        run = run.at[:, 0].set(run[:, 0] | ~jnp.any(run, axis=1))  # a query without any tile would divide by zero
        info = _steps(run, last, axis=1)
        sizes = kernels.BlockSizes(block_q=bq, block_kv=bkv, block_kv_compute=compute)
        kernel = kernels.SplashAttentionKernel(
            info, None, None, block_sizes=sizes, save_residuals=True, interpret=self.interpret, mask_function=function,
            residual_checkpoint_name=None, mask_value=kernels.DEFAULT_MASK_VALUE, is_mqa=False, attn_logits_soft_cap=None,
        )  # fmt: skip
        out, (lse,) = kernel(*arrays, segments)
        return out[:, : q.shape[1]], lse[:, : q.shape[1]]

    def backward(self, q, k, v, seen, last, used, lse: Float[Array, "K Q"], do: Float[Array, "K Q d"], di: Float[Array, "K Q"]):
        """Gradients of q, k, v through these keys. `lse`: of the whole softmax; `do`: of its result; `di`: do times the result, summed."""
        bq = self.queries or tiles.queries(q.shape[1], backward=True)
        bkv, compute = self._key_tiles(k.shape[1])
        arrays, segments, last, function = _prepared(q, k, v, seen, last, bq, bkv)
        run = _needed(used, last, arrays[0].shape[1], bq, bkv)
        lse, do, di = _pad(lse, bq), _pad(do, bq), _pad(di, bq)
        shared = {
            "bq": bq, "bkv": bkv, "is_mqa": False, "mask_value": kernels.DEFAULT_MASK_VALUE, "mask_function": function,
            "attn_logits_soft_cap": None, "interpret": self.interpret,
            **dict.fromkeys(("q_layout", "k_layout", "v_layout"), kernels.QKVLayout.HEAD_DIM_MINOR),
        }  # fmt: skip
        rest = (*arrays, segments, None, lse, do, di)
        dq = kernels._splash_attention_bwd_dq(*rest, mask_info=_steps(run, last, axis=1), **shared)
        steps = _steps(run, last, axis=0)
        _, dk, dv = kernels._splash_attention_bwd_dkv(*rest, mask_info=steps, bkv_compute=compute, use_fused_bwd_kernel=False, **shared)
        return dq[:, : q.shape[1]], dk[:, : k.shape[1]], dv[:, : k.shape[1]]

    def _key_tiles(self, keys: int) -> tuple[int, int]:
        """Keys fetched at once, and keys of one product: halves of large tiles leave room for the scores."""
        fetched = self.keys or tiles.keys(keys)
        return fetched, fetched // 2 if fetched > 512 and fetched % (2 * tiles.LANES) == 0 else fetched


def _prepared(q, k, v, seen, last, bq: int, bkv: int):
    """Arrays padded to whole tiles, and who sees whom in the kernels' terms: keys of segment 1 up to a query's last one."""
    q, k, v = _pad(q, bq), _pad(k, bkv), _pad(v, bkv)
    segments = kernels.SegmentIds(jnp.ones(q.shape[1], jnp.int32), _pad(seen.astype(jnp.int32)[None], bkv)[0])
    return (q, k, v), segments, None if last is None else _pad(last[None], bq)[0], None if last is None else _not_after


def _needed(used: Bool[Array, "S"], last: Int[Array, "Q"] | None, queries: int, bq: int, bkv: int) -> Bool[Array, "I J"]:
    """Which tiles of queries meet which tiles of keys."""
    needed = jnp.any(_pad(used[None], bkv).reshape(1, -1, bkv), axis=2)
    if last is not None:
        needed = needed & (jnp.arange(needed.shape[1]) * bkv <= jnp.max(last.reshape(-1, bq), axis=1, keepdims=True))
    return jnp.broadcast_to(needed, (queries // bq, needed.shape[1]))


def _steps(run: Bool[Array, "I J"], last: Array | None, *, axis: int) -> mask_info.MaskInfo:
    """For a kernel that walks along an axis: where it works, and at every step the tile to have in memory, the next that it works on."""
    size, index = run.shape[axis], jax.lax.broadcasted_iota(jnp.int32, run.shape, axis)
    following = jax.lax.cummin(jnp.where(run, index, size), axis=axis, reverse=True)
    final = jnp.max(jnp.where(run, index, 0), axis=axis, keepdims=True)
    tile = jnp.where(following < size, following, final)
    return mask_info.MaskInfo(tile[None], None, run[None].astype(jnp.int32), None, last)


def _not_after(last, key):
    return last >= key


def _pad(x: Array, unit: int) -> Array:
    """Zeros behind axis 1 up to a multiple of `unit`."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % unit)] + [(0, 0)] * (x.ndim - 2))
