"""One model, taken apart for training: what learns, what is frozen, and the graph that puts them together.

Everything compiled is a pure function of (trainable, frozen, ...). The frozen reference of the KL term is the frozen state merged into the
graph as it was before adapters were attached: the same weights with the adapter off, never a second copy.
"""

from __future__ import annotations

import dataclasses

import jax
from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.execution import HERE, Execution
from editr2_jax.models.lora import LoraConfig


@dataclasses.dataclass(frozen=True)
class Network:
    """The static half of a model."""

    graph: nnx.GraphDef
    bare: nnx.GraphDef | None  # without adapters; None where the whole model learns and no reference exists
    execution: Execution = HERE  # how learning runs it
    play: Execution | None = None  # how play does; None: likewise
    words: Execution | None = None  # how play writes words, one after another; None: as it does everything

    def run_as(self, execution: Execution, play: Execution | None = None, words: Execution | None = None) -> Network:
        """The same network, run another way."""
        return dataclasses.replace(self, execution=execution, play=play, words=words)

    def for_play(self) -> Network:
        """The network as play runs it."""
        return self if self.play is None else self.run_as(self.play, words=self.words)

    def for_words(self) -> Network:
        """The network as words are written with it."""
        return self.for_play() if self.words is None else self.run_as(self.words)

    def policy(self, trainable: nnx.State, frozen: nnx.State) -> Bagel:
        """The model that learns."""
        return self._made(nnx.merge(self.graph, trainable, frozen))

    def reference(self, frozen: nnx.State) -> Bagel:
        """The model with the adapter off. Raises ValueError when there is no adapter."""
        if self.bare is None:
            raise ValueError(
                "full training has no adapter to switch off, so there is no reference: set objective.image.kl_weight to 0 or train=lora."
            )
        return self._made(nnx.merge(self.bare, frozen))

    def _made(self, model: Bagel) -> Bagel:
        model.decoder.execution = self.execution
        return model


def with_adapter(model: Bagel, config: LoraConfig, *, key: jax.Array) -> tuple[Network, nnx.State, nnx.State]:
    """Attaches a fresh adapter to `model`; returns the network, the adapter (trainable) and everything else (frozen)."""
    bare, _ = nnx.split(model)
    lora.attach(model, config, key=key)
    graph, trainable, frozen = nnx.split(model, nnx.LoRAParam, ...)
    return Network(graph, bare, model.decoder.execution), trainable, frozen


def abstract_adapter(model: Bagel, config: LoraConfig) -> tuple[Network, nnx.State, nnx.State]:
    """As `with_adapter`, for a model of shapes: nothing is drawn, no array is made."""
    graph, shapes = nnx.split(model)

    def attached(state):
        worn = nnx.merge(graph, state)
        lora.attach(worn, config, key=jax.random.key(0))
        return worn

    worn, trainable, frozen = nnx.split(nnx.eval_shape(attached, shapes), nnx.LoRAParam, ...)
    return Network(worn, graph, model.decoder.execution), trainable, frozen


def whole(model: Bagel, parts: tuple[str, ...] = ("decoder", "latent")) -> tuple[Network, nnx.State, nnx.State]:
    """Full training of the named parts of the model; the others stay frozen. Raises ValueError for an unknown part."""
    known = ("decoder", "latent", "vit", "connector", "vae")
    if unknown := set(parts) - set(known):
        raise ValueError(f"cannot train {sorted(unknown)}; a model has the parts {', '.join(known)}.")
    learns = lambda path, value: isinstance(value, nnx.Param) and path[0] in parts  # noqa: E731
    graph, trainable, frozen = nnx.split(model, learns, ...)
    return Network(graph, None, model.decoder.execution), trainable, frozen
