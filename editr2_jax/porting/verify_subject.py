"""The two sides of a verification: what was recorded, and the checkpoint under test with what several cases share.

Letters: B rows (here one), T tokens, S cache slots. Nothing here computes a formula of the method: contexts, velocities and texts come
from `policies`, so a case tests what training and sampling run.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8

from editr2_jax.flow.kernels import Kernel
from editr2_jax.models.bagel import pixels
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.policies import context as contexts
from editr2_jax.policies.context import Context
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.porting import bagel_weights, safetensors_io
from editr2_jax.resize_rule import ResizeRule
from editr2_jax.runtime import quick

_DECODER = "language_model."  # what the reference model replaces; the projections around it are shared


class Recorded(Mapping[str, np.ndarray]):
    """A folder of recorded cases: tensors by name, notes and arguments by case.

    Raises FileNotFoundError or ValueError, naming the file, for a folder that holds no such cases.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "cases.json"
        if not path.is_file():
            raise FileNotFoundError(2, "not found; give the folder that holds cases.json and cases.safetensors", str(path))
        try:
            self._told = json.loads(path.read_text(encoding="utf-8"))
            self.cases: dict[str, dict[str, Any]] = self._told["cases"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a list of recorded cases ({error!r}); copy it again.") from None
        self._tensors = safetensors_io.open_tensors(self.folder / "cases.safetensors")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise ValueError(f"{self.folder / 'cases.safetensors'}: tensor {name} is missing; record it again.")
        return np.asarray(self._tensors[name])

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def args(self, case: str) -> dict[str, Any]:
        """The arguments of a case; raises ValueError where the folder lacks a case that another one builds on."""
        if case not in self.cases:
            raise ValueError(f"{self.folder / 'cases.json'}: case {case} is missing, on which others build; record it again.")
        return self.cases[case].get("args", {})

    def outputs(self, case: str) -> dict[str, dict[str, Any]]:
        """Notes of the tensors that a port has to reproduce."""
        return {name: note for name, note in self.cases[case]["tensors"].items() if note["role"] == "output"}

    @property
    def parameter_names(self) -> list[str]:
        """Names of all parameters, in the order of the recorded gradient norms."""
        return self._told["grad_norm_names"]

    def numbered(self, pattern: str) -> list[np.ndarray]:
        """pattern.format(0), pattern.format(1), ... as far as they are recorded."""
        found = []
        while pattern.format(len(found)) in self:
            found.append(self[pattern.format(len(found))])
        return found


class Subject:
    """The checkpoint under test. What several cases share is computed once; programs are compiled once for all of them."""

    def __init__(self, checkpoint: str | Path, recorded: Recorded):
        self.checkpoint, self.recorded = Path(checkpoint), recorded
        told = recorded.cases.get("d", {}).get("args", {})  # the transforms that the pictures were recorded with
        rules = {name: rule_of(told[name]) for name in ("vae_transform", "vit_transform") if name in told}
        self.config = dataclasses.replace(BagelConfig.from_folder(checkpoint), **rules)
        self.model = bagel_weights.load_folder(checkpoint, config=self.config)
        self.compiled = Compiled(self.model)

    def run(self, function: Callable, *args: Any, **static: Any) -> Any:
        """function(model, *args, **static) in one compiled program."""
        return _run(function, tuple(sorted(static.items())), *nnx.split(self.model), *args)

    @functools.cached_property
    def reference(self) -> Compiled:
        """The model under test with the recorded reference's language model in the place of its own."""
        folders = (self.recorded.folder, self.checkpoint)
        path = next((path for folder in folders if (path := folder / "ref_overrides.safetensors").exists()), None)
        if path is None:
            raise ValueError(f"{folders[0]}: ref_overrides.safetensors, the learning cases' reference model, is missing; copy it here.")
        tensors, _ = bagel_weights.open_folder(self.checkpoint)
        overrides = {name: tensor for name, tensor in safetensors_io.open_tensors(path).items() if name.startswith(_DECODER)}
        return Compiled(bagel_weights.load(self.model, dict(tensors) | overrides))

    # The dialogue of case d, which e, f, g, h and i build on -----------------------------------------------------------------------

    @functools.cached_property
    def terms(self) -> tuple[Array, ...]:
        """What enters the context of case d: picture, instruction, picture, instruction, ..."""
        return self.interleaved(self.recorded.numbered("d.img{}_u8"))

    @functools.cached_property
    def stages(self) -> list[Context]:
        """The contexts of case d, after each term."""
        return dialogue(self.compiled, self.terms, capacity=self.capacity)

    @property
    def context(self) -> Context:
        """The context of case d."""
        return self.stages[-1]

    def interleaved(self, pictures: Sequence[np.ndarray]) -> tuple[Array, ...]:
        """The pictures [1, H, W, 3], each followed by its instruction [1, T] as far as there are instructions."""
        prompts = [jnp.asarray(ids)[None] for ids in self.recorded.numbered("d.prompt{}_ids")]
        return tuple(term for i, picture in enumerate(pictures) for term in (self.picture(picture), *prompts[i : i + 1]))

    @functools.cached_property
    def scratch(self) -> int:
        """Slots behind the dialogue: for the text of case h and the question of case i_ctx."""
        question = sum(self.recorded[f"i_ctx.segment{i}_ids"].size for i in (1, 2)) if "i_ctx" in self.recorded.cases else 0
        return max(question, self.recorded.cases.get("h", {}).get("args", {}).get("max_length", 0), 1)

    @functools.cached_property
    def capacity(self) -> tuple[int, int]:
        """Slots of the (full, text) caches that hold any of the recorded dialogues, so that all run through the same programs."""
        session = [self.recorded["d.img0_u8"], *self.recorded.numbered("m.turn{}_u8")]
        words = pictures = 0
        for terms in (self.terms, self.interleaved(session)):
            words = max(words, sum(term.shape[1] for term in terms if term.ndim == 2))
            pictures = max(pictures, sum(contexts.picture_slots(self.config, *term.shape[1:3]) for term in terms if term.ndim == 4))
        return pictures + words + self.scratch, words

    def picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[Array, "1 H W 3"]:
        """A picture at the size at which the model reads it."""
        width, height = self.config.vae_transform.shape(picture.shape[1], picture.shape[0])
        return pixels.resize(jnp.asarray(picture)[None], height, width)


class Compiled:
    """A model whose heavy methods are compiled programs; everything else about it is the model's own.

    What calls it (contexts, policies) stays as it is and shares one program per method and shape.
    """

    def __init__(self, model: Bagel):
        self._model, (self._graph, self._state) = model, nnx.split(model)

    def __getattr__(self, name: str) -> Any:
        if name in _PROGRAMS:
            return functools.partial(_PROGRAMS[name], self._graph, self._state)
        value = getattr(self._model, name)
        return types.MethodType(value.__func__, self) if inspect.ismethod(value) else value


@functools.partial(quick.jit, static_argnums=(0, 1, 2))
def _run(function, static, graph, state, *args):
    return function(nnx.merge(graph, state), *args, **dict(static))


def _program(name: str, *, places: tuple[int, ...] = (), names: tuple[str, ...] = ()) -> Callable:
    """A method of the model as a compiled function of (graph, state, arguments); places and names are of arguments that are sizes."""

    def call(graph, state, *args, **more):
        return getattr(nnx.merge(graph, state), name)(*args, **more)

    return quick.jit(call, static_argnums=(0, *(place + 2 for place in places)), static_argnames=names)


_PROGRAMS = {name: _program(name) for name in ("encode", "see", "append_text", "append_seen", "read_text", "logits")} | {
    "decode": _program("decode", places=(1, 2)),
    "append_latents": _program("append_latents", places=(2,)),
    "velocity": _program("velocity", names=("grid",)),
}


def dialogue(model: Bagel | Compiled, terms: tuple[Array, ...], *, capacity: tuple[int, int]) -> list[Context]:
    """The context after each term: pictures [1, H, W, 3], the first of which is the source, and instructions [1, T]."""
    seen = [contexts.begin(model, terms[0], capacity=capacity)]
    for term in terms[1:]:
        if term.ndim == 4:
            seen.append(contexts.add_picture(model, seen[-1], term))
        else:
            seen.append(contexts.add_instruction(model, seen[-1], term, jnp.full((1,), term.shape[1], jnp.int32)))
    return seen


def flow_of(args: Mapping[str, Any], **changes: Any) -> FlowConfig:
    """How a case draws its picture."""
    kernel = Kernel(kind=args.get("sde_type", "sde"), noise_level=args.get("noise_level", 0.0))
    flow = FlowConfig(
        grid_points=args["num_timesteps"],
        shift=args["timestep_shift"],
        kernel=kernel,
        text_scale=args["cfg_text_scale"],
        image_scale=args["cfg_img_scale"],
        renorm=args["cfg_renorm_type"],
        renorm_min=args["cfg_renorm_min"],
        interval=tuple(args["cfg_interval"]),
    )
    return dataclasses.replace(flow, **changes)


def size_of(args: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the picture that a case draws."""
    height, width = args["image_shape"]
    return height, width


def rule_of(numbers: Sequence[int]) -> ResizeRule:
    """A transform as it is recorded: (max_size, min_size, stride)."""
    max_size, min_size, stride = numbers
    return ResizeRule(max_size=max_size, min_size=min_size, stride=stride)


def held(keys: Array, visible: Array) -> np.ndarray:
    """One layer's cached keys or values [1, K, S, d] as recorded: [kv_len, K, d], visible slots alone."""
    return np.asarray(keys)[0].transpose(1, 0, 2)[np.asarray(visible)[0]]
