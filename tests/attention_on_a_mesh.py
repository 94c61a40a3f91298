"""Attention and the cache on eight simulated devices; `models/test_flash.py` runs this file in a process of its own."""

import attention_cases
import jax
import jax.numpy as jnp
import numpy as np
import tiny_world
from flax import nnx

from editr2_jax.models import kv_cache
from editr2_jax.models.bagel.bagel import empty_cache
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.execution import Execution
from editr2_jax.runtime import mesh

AXES = {
    "heads": {"data": 2, "fsdp": 2, "tensor": 2},  # more parts than rows: rows are whole
    "few": {"data": 2, "fsdp": 1, "tensor": 4},  # more parts than key-value heads: heads are whole
    "slots": {"data": 2, "fsdp": 1, "sequence": 4},
    "both": {"fsdp": 2, "tensor": 2, "sequence": 2},
}


def layout(axes: str, name: str = "tensor") -> mesh.Layout:
    return mesh.Layout(mesh.make(mesh.MeshConfig(**AXES[axes])), name)


def equal_to_one_device():
    """Rows, heads and slots cut, or whole where they do not divide, by both engines; each kind of mask by either where all are cut."""
    for axes in AXES:
        for way, kinds in {"kernel": ("picture", "dialogue"), "chunks": ("dialogue", "picture")}.items():
            for kind in kinds if axes == "both" else kinds[:1]:
                data = attention_cases.case(kind, "two caches", 1)
                ours = attention_cases.learner(way, layout(axes))(*data)
                attention_cases.assert_equal(ours, attention_cases.learner("plain")(*data))


def no_cache_travels():
    """Of the compiled programs: attention gathers nothing, and a write touches its own slots alone."""
    at = layout("both")
    (q, k, v, caches), mask, visible = attention_cases.case("text", "two caches", 1)
    place = lambda x, *axes: jax.device_put(x, at.sharding(*axes))  # noqa: E731
    token = ("batch", None, None, "heads")
    q, k, v = (place(x, *token) for x in (q, k, v))
    caches = tuple(tuple(place(x, *kv_cache.SLOTS[1:]) for x in pair) for pair in caches)
    for way in ("kernel", "chunks"):
        program = jax.jit(attention_cases.learner(way, at)).lower((q, k, v, caches), mask, visible).compile().as_text()
        assert "all-reduce" in program and not ({"all-gather", "all-to-all", "collective-permute"} & set(program.replace("(", " ").split()))


def a_write_stays_at_home():
    """Segments that fall within one device's slots, across several, and around all of one."""
    at = layout("slots")
    cache = kv_cache.empty(layers=1, rows=2, capacity=16, kv_heads=2, head_dim=4)
    ours = jax.tree.map(jnp.copy, cache)
    ours = kv_cache.KVCache(**vars(ours) | {name: jax.device_put(getattr(ours, name), at.sharding(*kv_cache.SLOTS)) for name in "kv"})
    rng = np.random.default_rng(0)
    for tokens in (1, 2, 3, 7, 3):
        segment = [rng.standard_normal((1, 2, 2, tokens, 4)).astype(np.float32) for _ in "kv"]
        given = {"valid": jnp.ones((2, tokens), bool), "rope": jnp.full(2, tokens)}
        write = jax.jit(lambda cache, k, v, given: kv_cache.write(cache, k, v, **given, layout=at))
        assert "all-gather" not in write.lower(ours, *segment, given).compile().as_text()
        ours, cache = write(ours, *segment, given), kv_cache.write(cache, *segment, **given)
        tiny_world.assert_close(jax.tree.leaves(ours), jax.tree.leaves(cache), atol=0)
        assert ours.k.sharding.spec[3] == "sequence"


def the_model_on_a_mesh():
    """Text, a picture and a velocity of the tiny model with its cache cut over the sequence axis, as on one device."""
    latents = np.random.default_rng(0).standard_normal((2, 2, 64)).astype(np.float32)

    def read(model, latents):
        cache = empty_cache(model.config, rows=2, capacity=16)
        cache = model.append_text(cache, jnp.arange(10).reshape(2, 5), jnp.array([5, 3]))
        cache = model.append_latents(cache, latents, (1, 2))
        view = View(k=cache.k, v=cache.v, visible=jnp.stack([cache.valid, cache.valid & (jnp.arange(16) > 4)], axis=1))
        start = jnp.broadcast_to(cache.rope[:, None], (2, 2))
        noisy = jnp.stack([latents, latents], axis=1)
        return cache.k, cache.v, model.velocity(noisy, jnp.full((2, 2), 0.7), grid=(1, 2), start=start, views=(view,))

    other = nnx.clone(tiny_world.world_model())
    one = tiny_world.compiled(read)(latents)
    for attention in ("plain", "interpreted"):
        other.decoder.execution = Execution(attention=attention, layout=layout("both"))
        many = tiny_world.compiled(read, other)(latents)
        tiny_world.assert_close(many, one, atol=2e-5)
        assert "sequence" in many[0].sharding.spec


if __name__ == "__main__":
    assert jax.device_count() == 8
    for check in (equal_to_one_device, no_cache_travels, a_write_stays_at_home, the_model_on_a_mesh):
        check()
        print(check.__name__, flush=True)
