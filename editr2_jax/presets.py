"""Complete configs: every key that a run has, with a default. A file in configs/ starts from one of these and changes values.

The keys are those of the parts' own dataclasses (`assemble.py` fills them), so the dataclass' comment is a key's documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from editr2_jax.doctor.settings import DoctorConfig
from editr2_jax.evaluation.runner import EvaluationConfig
from editr2_jax.flow.kernels import Kernel
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models.lora import LoraConfig
from editr2_jax.objectives import catalogue
from editr2_jax.objectives.autoencoder_objective import AutoencoderConfig
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.supervised_objective import SupervisedConfig
from editr2_jax.policies.context import Slots
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.rl.policy_average import Schedule
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.runtime.compile_cache import CompileCacheConfig
from editr2_jax.runtime.hosts import HostsConfig
from editr2_jax.runtime.mesh import MeshConfig
from editr2_jax.runtime.profiling import ProfileConfig
from editr2_jax.services.endpoints import EndpointsConfig
from editr2_jax.services.remote import RemoteDetectorConfig, RemoteFeaturesConfig
from editr2_jax.services.vlm_judge import VlmConfig
from editr2_jax.training.edit_r2 import StepConfig
from editr2_jax.training.loop import LoopConfig
from editr2_jax.training.state import OptimizerConfig
from editr2_jax.training.train_batch import AdvantageConfig


def edit_r2() -> ConfigDict:
    """Edit-R2 on the shipped tiny checkpoint and the embedded world."""
    return ConfigDict(
        {
            "recipe": "edit_r2",
            "seed": 0,
            "model": {
                "checkpoint": "tabletop_tiny",  # a folder in the official BAGEL layout, or the name of a shipped one
                "size": "",  # for a plan without the checkpoint: 7b, mid, tiny, tabletop
                "dtype": "float32",
                "unroll": 1,  # layers per iteration of the layer scan
                "remat": "none",  # what the backward pass finds of a layer: models/execution.REMAT
                "attention": "auto",  # or plain, kernel
            },
            "mesh": _section(MeshConfig),
            "train": "lora",  # or "full"
            "lora": _section(LoraConfig),
            "parts": ("decoder", "latent"),  # what full training trains
            "data": {
                "path": "",  # a session folder; empty: the embedded world, written to WORKDIR/data once
                "sessions": 8,  # P per step
                "group": 8,  # G rollouts of each
                "shuffle": True,
                "shapes": (),  # sizes to bring pictures to, "HEIGHTxWIDTH"; empty: the checkpoint's rule, of each picture its own
                "drop_invalid": True,
                "remember": False,  # keep decoded pictures in memory: worth it for small ones
            },
            "tabletop": {"train": 2048, "test": 512, "turns": 3, "size": (64, 64), "seed": 0, "targets": False, "workers": 2},
            "rollout": {
                "turns": 3,
                "noise": "iteration",
                "reconstruct": True,
                "temperature": 0.7,
                "flow": _section(FlowConfig, without=("kernel",)),
                "kernel": _section(Kernel),
                "window": _section(WindowConfig),
                "slots": _section(Slots),
                "prompt": _section(IntentPrompt),
            },
            "rewards": {
                "use": ("if", "cc", "ga"),
                "weights": {"if": 0.3, "cc": 0.3, "ga": 0.4, "trajectory_grade": 1.0},  # of those in use; or subset -> such
                "detector": "tabletop",  # or "grounding_dino"; "http": a server; or "none": the whole picture counts as background
                "features": "tabletop",  # or "dinov3", in JAX; "dinov3_torch"; "http": a server; or "vit": the checkpoint's own, untrained
                "grounding_dino": {"folder": "", "device": "cpu", "threshold": 0.25},  # boxes at or below it are not even looked at
                "dinov3": {"folder": "", "device": "cpu", "size": 0},  # of PyTorch alone, the device; side of the picture, 0: the folder's
                "answerer": "tabletop",  # or "vlm": the model of the section below
                "vlm": {
                    **_section(VlmConfig),
                    **_section(EndpointsConfig),
                    "language": "en",  # of the prompts; or zh
                    "votes": 1,  # answers per question, averaged; give a temperature above 0 with more
                    "soft": False,  # IF scores the probability of yes, not the word
                    "cache": "",  # a file on a local disk that keeps every answer; empty: none
                    "cache_mode": "use",  # or replay: what is not in the file is an error
                },
                "arithmetic": "fixed",  # of IF, CC and GA; or edit_r2, edival: as published, defects included, to compare numbers
                "trajectory_grade": {"whole": False},  # whole: one question a trajectory, about its last turn, and one score
                "detector_http": {
                    **_section(RemoteDetectorConfig),
                    **_section(EndpointsConfig, urls=("http://127.0.0.1:8100/v1",)),
                    "cache": "",
                    "cache_mode": "use",
                },
                "features_http": {
                    **_section(RemoteFeaturesConfig),
                    **_section(EndpointsConfig, urls=("http://127.0.0.1:8101/v1",), max_response_bytes=300_000_000),
                    "cache": "",  # large: a picture's features take 4 (1 + h w) D bytes, 1 MB of ViT-L/16 at 256x256 pixels
                    "cache_mode": "use",
                },
                "inset": 0.2,  # of a box's side, cut off once the background may change; the reference has 0
                "workers": 2,
                "max_error_share": 0.05,  # of a step's or an evaluation's verdicts: above it the run stops
                "min_valid_weight": 0.0,  # share of the weight that applies to a turn which must have a score, else the turn is masked
            },
            "advantage": _section(AdvantageConfig),
            "objective": {"image": _objective("image", ImageObjectiveConfig), "intent": _objective("intent", IntentObjectiveConfig)},
            "old_policy": _section(Schedule),
            "ema": _section(Schedule),
            "optimizer": _section(OptimizerConfig),
            "step": _section(StepConfig),
            "supervised": _section(SupervisedConfig),
            "autoencoder": _section(AutoencoderConfig),
            "evaluate": _section(EvaluationConfig),
            "doctor": _section(DoctorConfig),
            "loop": {
                **_section(LoopConfig, steps=30),
                "keep": 2,  # checkpoints, beside the healthy one and the best
                "keep_every": 0,  # a checkpoint of so many steps, 2 and 3 times as many, ... is kept for good; 0: none
                "record_every": 5,
                "record_groups": 4,
                "spool": True,  # every turn of a half-done rollout goes to disk, so that a stop costs at most one
                "save_frozen": False,  # WORKDIR/base: a copy of the model it starts from, so that model.checkpoint may go
            },
            "profile": _section(ProfileConfig),
            "compile_cache": _section(CompileCacheConfig),
            "hosts": {name: value for name, value in _section(HostsConfig).items() if name in ("join_s", "silence_s", "stuck_s")},
        }
    )


def tabletop(config: ConfigDict) -> ConfigDict:
    """What suits the shipped tiny base: its pictures' size, short questions in the words it knows, few denoising steps, mild guidance."""
    config.tabletop.size = (48, 48)
    config.rollout.prompt.update(system="Resolve.", question="{history} Now: {instruction}", entry="{number}. {instruction}")
    config.rollout.slots.update(instruction=72, later=36, system=6, question=124, intent=24)
    config.rollout.flow.update(grid_points=9, text_scale=2.0, image_scale=1.0)
    config.rollout.window.last = 4
    config.data.remember = True
    return config


def on(config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """The config with the dotted values of a variant. Raises ValueError naming the variants there are."""
    if variant not in variants:
        raise ValueError(f"there is no variant {variant!r}; this config has {', '.join(variants)}.")
    for name, value in variants[variant].items():
        *groups, last = name.split(".")
        section = config
        for group in groups:
            section = section[group]
        section[last] = value
    return config


def supervised() -> ConfigDict:
    """Flow matching and intent text on ground-truth sessions of the embedded world."""
    config = edit_r2()
    config.recipe, config.train = "supervised", "full"
    config.parts = ("decoder", "latent", "vit", "connector")
    config.tabletop.targets = True
    config.data.update(sessions=64, group=1)
    return config


def autoencoder() -> ConfigDict:
    """The autoencoder on the pictures of ground-truth sessions."""
    config = supervised()
    config.recipe, config.parts = "autoencoder", ("vae",)
    return config


def _objective(family: str, cls: type) -> dict[str, Any]:
    """A term's section: what its kinds share, and one section per kind under its name."""
    kinds = {kind: _section(catalogue.named(family, kind).Config) for kind in catalogue.names(family)}
    return {**_section(cls, without=("settings",)), **kinds}


def _section(cls: type, *, without: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    """The defaults of a dataclass as a config section; `values` replaces some or supplies missing ones."""
    section = {}
    for field in dataclasses.fields(cls):
        if field.name not in without:
            section[field.name] = values.get(field.name, field.default)
            if section[field.name] is dataclasses.MISSING:
                raise ValueError(f"{cls.__name__}.{field.name} has no default; a preset must supply it.")
    return section
