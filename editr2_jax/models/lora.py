"""Linear projections that may carry a low-rank adapter. Letters: i inputs, o outputs, r rank, N layers of a stack.

    y = x W + b + (alpha / r) (x A) B        A ~ Kaiming-uniform(i), B = 0 at the start, so a fresh adapter changes nothing

The frozen reference of the KL term is the same base weights merged into the graph without adapters: no second copy of the model.
Source: LoRA (arXiv 2106.09685); rank, alpha and targets of Edit-R2 as in its published configuration.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which projections get an adapter, and of what size."""

    rank: int = 64
    alpha: float = 128.0
    experts: tuple[str, ...] = ("und", "gen")  # expert subtrees whose projections are adapted

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"LoraConfig.rank is {self.rank}; give at least 1, or choose train='full' to train without an adapter.")
        if unknown := set(self.experts) - {"und", "gen"}:
            raise ValueError(f"LoraConfig.experts names {sorted(unknown)}; the experts are 'und' and 'gen'.")


class Linear(nnx.Module):
    """y = x W (+ b) (+ adapter). With `stack`, every leaf has a leading layer axis and the module is meant to be scanned over."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs, stack: int | None = None, dtype=jnp.float32, std: float = 0.02
    ):
        lead = () if stack is None else (stack,)
        self.w = nnx.Param(jax.random.normal(rngs.params(), (*lead, inputs, outputs), dtype) * jnp.asarray(std, dtype))
        self.b = nnx.Param(jnp.zeros((*lead, outputs), dtype)) if bias else None
        self.lora_a = nnx.data(None)
        self.lora_b = nnx.data(None)
        self.lora_scale = 0.0

    def attach(self, rank: int, alpha: float, key: jax.Array) -> None:
        """Adds a fresh adapter; its leaves are float32 whatever the base is."""
        *lead, inputs, outputs = self.w.shape
        bound = math.sqrt(3.0 / inputs)
        self.lora_a = nnx.data(nnx.LoRAParam(jax.random.uniform(key, (*lead, inputs, rank), jnp.float32, -bound, bound)))
        self.lora_b = nnx.data(nnx.LoRAParam(jnp.zeros((*lead, rank, outputs), jnp.float32)))
        self.lora_scale = alpha / rank

    def __call__(self, x: Float[Array, "*B i"]) -> Float[Array, "*B o"]:
        y = x @ self.w[...]
        if self.b is not None:
            y = y + self.b[...]
        if self.lora_a is not None:
            low = x @ self.lora_a[...].astype(x.dtype)
            y = y + (low @ self.lora_b[...].astype(x.dtype)) * jnp.asarray(self.lora_scale, x.dtype)
        return y


def linears(module: nnx.Module) -> list[tuple[str, Linear]]:
    """Every Linear below `module` with its dotted path, in a stable order."""
    found = [(".".join(map(str, path)), node) for path, node in nnx.iter_graph(module) if isinstance(node, Linear)]
    return sorted(found, key=lambda pair: pair[0])


def attach(module: nnx.Module, config: LoraConfig, *, key: jax.Array) -> Sequence[str]:
    """Gives every projection of the chosen experts a fresh adapter; returns the paths of the adapted projections.

    The draw depends on the key and the projection's path alone, so adding a projection does not move the others.
    """
    adapted = []
    for path, linear in linears(module):
        if set(path.split(".")) & set(config.experts):
            linear.attach(config.rank, config.alpha, jax.random.fold_in(key, zlib.crc32(path.encode())))
            adapted.append(path)
    if not adapted:
        raise ValueError(f"no projection lies in the experts {config.experts}; the model has {[p for p, _ in linears(module)][:8]} ...")
    return adapted
