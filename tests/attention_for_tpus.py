"""Attention of the large model, compiled for a TPU on a machine without one; prints what the program holds, as JSON.

    python attention_for_tpus.py TOPOLOGY [one | tensor | sequence | words | dialogue | model]

`models/test_flash.py` runs this file in a process of its own: libtpu reads its environment once.
"""

import dataclasses
import json
import math
import os
import re
import sys

os.environ.update(
    JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_ACCELERATOR_TYPE="v5litepod-16", TPU_WORKER_HOSTNAMES="localhost",
    TPU_SKIP_MDS_QUERY="1", TPU_MIN_LOG_LEVEL="3", TPU_STDERR_LOG_LEVEL="3", TPU_LOG_DIR="disabled", JAX_ENABLE_COMPILATION_CACHE="false",
)  # fmt: skip

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

from editr2_jax.models import attention, kv_cache, logical_axes
from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.config import bagel_7b
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.block_mask import InOrder
from editr2_jax.models.execution import Execution
from editr2_jax.runtime import mesh

B, R, T, S, H, K, D = 1, (2, 1), 1026, 7424, 28, 4, 128
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def facts(function, *args) -> dict:
    """What a compiled program holds and calls."""
    compiled = jax.jit(function).lower(*args).compile()
    text = compiled.as_text()
    slots = [tuple(map(int, shape.split(","))) for shape in set(re.findall(r"bf16\[([\d,]+)\]", text))]
    copies = [math.prod(shape) for shape in slots if any(S <= size < S * 1.1 and size not in (7 * T, 7296) for size in shape)]
    return {
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "loops": len(re.findall(r" while\(", text)),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "collectives": [name for name in COLLECTIVES if re.search(rf" {name}(-start)?\(", text)],
        "largest_cache_copy": max(copies, default=0) / (B * K * S * D),
    }


def one_layer(layout: mesh.Layout, *, tokens: int = T, kind: str = "picture") -> dict:
    """A denoising block, or text behind the same caches, or a whole dialogue in one pass without any."""
    run = Execution(attention="kernel", layout=layout)

    def array(*shape, axes=(), dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding(*axes))

    token = ("batch", None, None, "heads")
    q, k, v = (array(B, sum(R), tokens, heads, D, axes=token) for heads in (H, K, K))
    caches = tuple((array(B, K, S, D, axes=kv_cache.SLOTS[1:]),) * 2 for _ in R if kind != "dialogue")
    seen = tuple(array(B, r, S, dtype=bool) for r in R if kind != "dialogue")
    valid, place = jnp.ones((B, sum(R), tokens), bool), jnp.arange(tokens) // 64
    mask = {"picture": None, "text": InOrder(valid=valid), "dialogue": InOrder(valid=valid, place=place)}[kind]

    def forward(q, k, v, caches, seen):
        return attention.attend(q, k, v, mask, tuple((*pair, some) for pair, some in zip(caches, seen, strict=True)), run)

    def backward(*args):
        return jax.grad(lambda q, k, v: jnp.sum(forward(q, k, v, *args[3:]).astype(jnp.float32) ** 2), argnums=(0, 1, 2))(*args[:3])

    return {way.__name__: facts(way, q, k, v, caches, seen) for way in (forward, backward)}


def model(layout: mesh.Layout) -> dict:
    """The gradient of a velocity with respect to its noisy latents: two layers with the large model's heads, but narrow."""
    config = bagel_7b()
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, layers=2, width=512, inner=1024))
    graph, state = nnx.split(bagel.abstract(config, jnp.bfloat16))
    state = logical_axes.abstract(state, layout)
    array = lambda *shape, dtype=jnp.bfloat16, axes=(): jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding(*axes))  # noqa: E731
    rows = 2
    caches = tuple((array(2, rows, K, S, D, axes=kv_cache.SLOTS),) * 2 for _ in R)
    seen = tuple(array(rows, r, S, dtype=bool) for r in R)

    def learn(state, x, caches, seen):
        whole = nnx.merge(graph, state)
        whole.decoder.execution = Execution(attention="kernel", layout=layout, remat="attention")
        views = tuple(View(k=k, v=v, visible=some) for (k, v), some in zip(caches, seen, strict=True))
        t, start = jnp.full((rows, sum(R)), 0.7), jnp.zeros((rows, sum(R)), jnp.int32)
        return jax.grad(lambda x: jnp.sum(whole.velocity(x, t, grid=(32, 32), start=start, views=views) ** 2))(x)

    return facts(learn, state, array(rows, sum(R), 1024, 64, dtype=jnp.float32, axes=("batch",)), caches, seen)


if __name__ == "__main__":
    topology, what = sys.argv[1], (*sys.argv[2:], "one")[0]
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    sizes = {"tensor": {"tensor": 4}, "sequence": {"sequence": 4}, "model": {"fsdp": 2, "tensor": 2}}.get(what, {})
    layout = mesh.Layout(mesh.make(mesh.MeshConfig(**{"fsdp": 1} | sizes), devices[: math.prod(sizes.values())]), "tensor")
    blocks = {"words": {"tokens": 150, "kind": "text"}, "dialogue": {"tokens": 5000, "kind": "dialogue"}}
    print(json.dumps(model(layout) if what == "model" else one_layer(layout, **blocks.get(what, {}))))
