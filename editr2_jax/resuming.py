"""What a run keeps so that it can be stopped at any moment and go on as if it had not been: checkpoints, verdicts, half-done rollouts.

A checkpoint holds the state before a step; everything else of the run is a function of seed and step. What a step had drawn and what its
judges had said when it was stopped lies beside it, and is taken from there when the step comes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from editr2_jax import assemble
from editr2_jax.assemble import Model
from editr2_jax.porting import convert
from editr2_jax.records import Sample
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.rollouts import spool as spools
from editr2_jax.rollouts.player import Weights
from editr2_jax.rollouts.spool import Spool
from editr2_jax.runtime import rows, workdir
from editr2_jax.runtime.checkpoints import Checkpoints
from editr2_jax.runtime.hosts import Hosts
from editr2_jax.runtime.mesh import MeshConfig
from editr2_jax.runtime.pointers import LATEST
from editr2_jax.runtime.workdir import flat
from editr2_jax.services.endpoints import EndpointsConfig
from editr2_jax.training import state as states
from editr2_jax.training.state import OptimizerConfig, TrainState

_SPOOL, _BASE = "spool", "base"
JUDGE_ADDRESS = tuple(  # where a service is and how patiently it is asked does not change what it says
    f"rewards.{section}.{name}"
    for section in ("vlm", "detector_http", "features_http")
    for name in (*(field.name for field in dataclasses.fields(EndpointsConfig)), "cache", "cache_mode")
)
HARDWARE = (  # what suits the machines of a run: it may go on on others, but not in the middle of a rollout
    *(f"mesh.{field.name}" for field in dataclasses.fields(MeshConfig)),
    *("model.unroll", "model.remat", "model.attention", "step.rows", "evaluate.rows"),
)
RESUMABLE = (  # what may be changed between two starts of a run
    *HARDWARE,
    *("hosts.join_s", "hosts.silence_s", "hosts.stuck_s", "data.remember", "tabletop.workers"),
    *("rewards.workers", "rewards.max_error_share"),
    *("loop.steps", "loop.save_every", "loop.log_every", "loop.keep", "loop.keep_every", "loop.save_frozen", "loop.record_every"),
    *("evaluate.every", "evaluate.strips"),
    *("doctor.before", "doctor.sessions", "doctor.members", "doctor.pairs"),
    *("profile.steps", "profile.phases", "profile.python", "profile.everyone", "profile.peak_tflops"),
    *("compile_cache.folder", "compile_cache.shared", "compile_cache.min_seconds"),
    *JUDGE_ADDRESS,
    *("rewards.grounding_dino.device", "rewards.dinov3.device"),
)


class Keeper:
    """The lasting things of one run in its workdir; a context manager. On several hosts each makes one, and the same calls."""

    def __init__(self, config, directory: Path, model: Model, *, hosts: Hosts, say: Callable[[str], None]):
        self._config, self._directory, self._model, self._say = config, directory, model, say
        self._settings = {"config": workdir.fingerprint(_deciding(config)), "seed": config.seed, "hardware": _hardware(config)}
        self._layout = model.layouts and model.layouts.rollout
        self._digest: tuple[int, str] = (-1, "")  # of the weights that play a step
        with contextlib.ExitStack() as opened:
            rewards = workdir.fingerprint(judging(config))
            self.checkpoints = opened.enter_context(
                Checkpoints(directory / "checkpoints", keep=config.loop.keep, keep_every=config.loop.keep_every)
            )
            self.verdicts = opened.enter_context(
                VerdictStore(directory / "verdicts", fingerprint=rewards, process=hosts.index, processes=hosts.count)
            )
            self._opened = opened.pop_all()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(*error)

    def save(self, state: TrainState) -> None:
        """The state, and where the run stands: data position and random streams are functions of seed and step. What led to an earlier
        checkpoint is not needed any more once that is complete."""
        step, latest = int(state.step), self.checkpoints.latest_step()
        if latest is not None:
            spools.clear_before(self._directory / _SPOOL, latest)
            self.verdicts.forget(latest)
        if latest == step:
            return
        meta = {"step": step, "seed": self._config.seed, "next_index": step * self._config.data.sessions}
        self.checkpoints.save(step, arrays_of(state), meta)
        self.checkpoints.confirm(step)  # losses and gradients that are no numbers end a run before they are saved

    def tell_best(self, step: int, reward: float) -> None:
        """A held-out reward: the best checkpoint is kept for good."""
        if step in self.checkpoints.steps():
            self.checkpoints.report(step, reward, metric="eval/reward")

    def spool(self, weights: Weights, samples: Sequence[Sample], *, step: int, batch: int) -> Spool | None:
        """The place of a batch's turns; `weights` are those that play it."""
        self.verdicts.step = step
        if not self._config.loop.spool:
            return None
        if self._digest[0] != step:
            self._digest = step, spools.weights_digest(weights.trainable)
        place = {} if self._layout is None else {"take": rows.held, "place": self._placing(len(samples))}
        settings = self._settings | {"weights": self._digest[1]}
        return Spool(self._directory / _SPOOL, samples, step=step, batch=batch, settings=settings, say=self._say, **place)

    def _placing(self, count: int) -> Callable[[np.ndarray], Any]:
        """Rows from disk to where play puts them: pictures and latents are cut by rows, what hosts read of them lies whole everywhere."""
        divides = count % self._layout.parts("batch") == 0
        cut, whole = self._layout.sharding("batch" if divides else None), self._layout.sharding()
        return lambda array: rows.placed(array, cut, count) if array.ndim > 2 else jax.device_put(array, whole)


def _deciding(config) -> dict[str, Any]:
    """The config without what may be changed between two starts."""
    deciding = plain(config)
    for name in RESUMABLE:
        *groups, last = name.split(".")
        section = deciding
        for group in groups:
            section = section[group]
        section.pop(last, None)
    return deciding


def _hardware(config) -> str:
    """A short name of what decides where the rows of a rollout lie, and who plays them together."""
    values = flat(plain(config))
    return workdir.fingerprint({name: values[name] for name in HARDWARE})


def judging(config) -> dict[str, Any]:
    """What verdicts depend on: the rewards' section, without the models that are not asked."""
    section, rewards = _deciding(config)["rewards"], config.rewards
    asked = {
        "vlm": rewards.answerer == "vlm",
        "detector_http": rewards.detector == "http",
        "features_http": rewards.features == "http",
        "grounding_dino": rewards.detector == "grounding_dino",
        "dinov3": rewards.features in ("dinov3", "dinov3_torch"),
    }
    return {name: value for name, value in section.items() if asked.get(name, True)}


def keep_base(config, directory: Path, hosts: Hosts, *, say: Callable[[str], None]) -> None:
    """Copies the model that a run starts from into its folder, once, where it is to need nothing else (loop.save_frozen).

    Not into every checkpoint: frozen weights do not change. The first host writes plain files, in their own types, bit for bit.
    """
    if not config.loop.save_frozen:
        return
    if hosts.first and not (directory / _BASE).is_dir():
        convert.convert(assemble.checkpoint_folder(config.model.checkpoint), directory / _BASE, say=say)
    hosts.barrier("the copy of the base")


def on_own_base(config, run: Path | None):
    """The config with the copy that a run keeps of its base in place of model.checkpoint, which may be gone; as it is where there is none.

    A config that names another checkpoint than the run's own keeps it.
    """
    if run is None or not (run / _BASE).is_dir():
        return config
    if (run / "config.json").is_file() and workdir.read_json(run / "config.json")["model"]["checkpoint"] != config.model.checkpoint:
        return config
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.model.checkpoint = str(run / _BASE)
    return own


def plain(section) -> dict[str, Any]:
    """A section of a config as JSON values."""
    return json.loads(json.dumps(section.to_dict(), default=list))


def arrays_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds, as plain dicts and tuples."""
    arrays = {"trainable": nnx.to_pure_dict(state.trainable), "moments": jax.tree.leaves(state.moments), "step": state.step}
    averages = {name: getattr(state, name) for name in ("old", "ema")}
    return arrays | {name: nnx.to_pure_dict(average) for name, average in averages.items() if average is not None}


def resume(checkpoints: Checkpoints, fresh: TrainState, step: int | str | None = None) -> TrainState:
    """The last saved state (or that of `step`, a number or a pointer's name), or the fresh one where nothing has been saved.

    Raises ValueError for a checkpoint of another model, and for a step that was not kept.
    """
    if checkpoints.latest_step() is None:
        return fresh
    wanted = arrays_of(fresh)
    arrays, _ = checkpoints.restore(wanted, step)
    arrays = jax.tree.map(_placed, wanted, arrays)
    moments = jax.tree.unflatten(jax.tree.structure(fresh.moments), arrays["moments"])
    weights = {name: _filled(getattr(fresh, name), arrays[name]) for name in ("trainable", "old", "ema") if name in arrays}
    return TrainState(moments=moments, step=arrays["step"], **weights)


def _placed(fresh: jax.Array, restored: jax.Array) -> jax.Array:
    """The restored array, tied to no device where the fresh one is not: or what was compiled for a fresh state would not serve it."""
    return restored if fresh.committed else jnp.asarray(np.asarray(restored))


def _filled(like: nnx.State, arrays: dict[str, Any]) -> nnx.State:
    state = nnx.merge_state(like)
    nnx.replace_by_pure_dict(state, arrays)
    return state


At = int | str  # which checkpoint of a run: a step, or "latest", "healthy" or "best"


def refuse_absent(run: Path, at: At) -> None:
    """Raises ValueError, listing the steps that are there, for a checkpoint that a run does not have: before a model is read for it."""
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        checkpoints.step_at(at)


def told_step(run: Path, at: At, step: int) -> str:
    """Which checkpoint was taken, in words."""
    return f"step {step} of {run}" + (f" ({at})" if isinstance(at, str) else "")


def saved_state(config, model: Model, run: Path, at: At = LATEST) -> TrainState:
    """A checkpoint of a run; raises ValueError where it does not have that one."""
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return resume(checkpoints, fresh_state(config, model), checkpoints.step_at(at))


def saved_shown(config, shapes: nnx.State, run: Path, at: At = LATEST) -> tuple[nnx.State, int]:
    """What a run learned, as it is evaluated and exported, and after how many steps: nothing else of the checkpoint is read.

    shapes: of what learns. Raises ValueError where the run does not have that checkpoint.
    """
    name = "trainable" if assemble.averages(config).ema.kind == "off" else "ema"
    target = {name: nnx.to_pure_dict(shapes), "step": jax.ShapeDtypeStruct((), np.int32)}
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        arrays, _ = checkpoints.restore(target, at, partial=True)
    return _filled(shapes, arrays[name]), int(arrays["step"])


def state_at(config, model: Model, run: Path, step: int) -> TrainState:
    """The state of a run before `step`: step 0 needs no checkpoint, for a later one raises ValueError where it was not kept."""
    fresh = fresh_state(config, model)
    if step == 0:
        return fresh
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return resume(checkpoints, fresh, step)


def fresh_state(config, model: Model) -> TrainState:
    """The state before the first step."""
    optimizer = assemble.settings(OptimizerConfig, config.optimizer).build()
    return states.create(model.trainable, optimizer, assemble.averages(config), layout=model.layouts and model.layouts.train)
