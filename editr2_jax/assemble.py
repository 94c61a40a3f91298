"""A locked config and a workdir become objects: the only room that knows every other.

Sections of the config carry the names of the parts' dataclass fields, so a section is its part's settings and nothing else.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
from etils import epath
from flax import nnx

from editr2_jax import presets
from editr2_jax.data import images, pipeline
from editr2_jax.data.tokenizer import FILES as tokenizer_files
from editr2_jax.data.tokenizer import Tokenizer, train_tiny
from editr2_jax.flow.kernels import Kernel
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models import logical_axes
from editr2_jax.models import network as networks
from editr2_jax.models.bagel import bagel, vae_start
from editr2_jax.models.bagel import config as sizes
from editr2_jax.models.execution import Execution
from editr2_jax.models.lora import LoraConfig
from editr2_jax.models.network import Network
from editr2_jax.objectives import catalogue
from editr2_jax.objectives.image_objective import ImageObjectiveConfig
from editr2_jax.objectives.intent_objective import IntentObjectiveConfig
from editr2_jax.objectives.joint_objective import ObjectiveConfig
from editr2_jax.policies.context import Slots
from editr2_jax.policies.dialogue import PolicyConfig
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.porting import bagel_weights, byte_ranges
from editr2_jax.porting import export as porting_export
from editr2_jax.rl.policy_average import Schedule
from editr2_jax.rollouts import in_context_cot
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.rollouts.player import Player, RolloutConfig, Weights
from editr2_jax.runtime import keys, places
from editr2_jax.runtime import mesh as meshes
from editr2_jax.runtime.hosts import HostsConfig
from editr2_jax.runtime.mesh import Layouts, MeshConfig
from editr2_jax.tabletop import world
from editr2_jax.training.state import Averages

T = TypeVar("T")
ASSETS = Path(__file__).parent / "assets"
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")}


def settings(cls: type[T], section: Mapping[str, Any], **more: Any) -> T:
    """A part's frozen dataclass from its config section; `more` supplies fields that live elsewhere."""
    names = {field.name for field in dataclasses.fields(cls)} - set(more)
    if unknown := set(section) - names:
        raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}; it has {', '.join(sorted(names))}.")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}, **more)


def choose(key: str, name: str, known: Mapping[str, T]) -> T:
    """What a config calls `name`. Raises ValueError with the key and the names there are."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"{key}: there is no {name!r}{f', did you mean {near[0]!r}' if near else ''}; choose from {', '.join(sorted(known))}."
        )
    return known[name]


def checkpoint_folder(name: str) -> Path | epath.Path:
    """The folder of a checkpoint: a path, an address such as gs://bucket/folder, or the name of one that ships with the package."""
    if "://" in name:
        folder = byte_ranges.place(name)
        if not (folder / "llm_config.json").exists():
            raise ValueError(f"model.checkpoint: {name} holds no llm_config.json; give the address of a checkpoint's folder.")
        return folder
    shipped = ASSETS / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if shipped.is_dir():
        return shipped
    here = ", ".join(sorted(path.name for path in ASSETS.iterdir() if (path / "llm_config.json").is_file())) if ASSETS.is_dir() else "none"
    raise ValueError(
        f"model.checkpoint: {name!r} is no folder, nor a shipped checkpoint ({here}); give the folder that holds llm_config.json."
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """A model taken apart, with its config and tokenizer."""

    config: sizes.BagelConfig
    network: Network
    trainable: nnx.State
    frozen: nnx.State  # as the update wants it
    tokenizer: Tokenizer
    layouts: Layouts | None = None  # None: one device
    frozen_in_play: nnx.State | None = None  # a copy in the layout of play; None where both want the same

    @property
    def weights(self) -> Weights:
        """The untrained model's weights, for play."""
        return self.to_play(self.trainable)

    def to_play(self, trainable: nnx.State) -> Weights:
        """Weights for play: what learns is moved to where play wants it; the frozen ones are there already."""
        if self.frozen_in_play is None:
            return Weights(trainable=trainable, frozen=self.frozen)
        return Weights(trainable=logical_axes.place(trainable, self.layouts.rollout), frozen=self.frozen_in_play)


def model(config, *, say: Callable[[str], None] = lambda text: None) -> Model:
    """Reads the checkpoint, attaches adapters or marks what full training trains; over the devices of the mesh, where there are several.

    say: takes a line about how much has been read now and then.
    """
    folder = checkpoint_folder(config.model.checkpoint)
    layouts = meshes.layouts(settings(MeshConfig, config.mesh))
    where = None if layouts is None else logical_axes.placing(layouts.train)
    whole = bagel_weights.load_folder(folder, dtype=dtype_of(config), sharding=where, say=say)
    if config.train == "lora":
        network, trainable, frozen = networks.with_adapter(whole, settings(LoraConfig, config.lora), key=keys.at(config.seed, "adapter"))
    elif config.train == "full":
        network, trainable, frozen = networks.whole(whole, tuple(config.parts))
    else:
        raise ValueError(f"train is {config.train!r}; choose lora or full.")
    network = network.run_as(*executions(config, layouts))
    tokenizer = matching_tokenizer(folder, whole.config)
    if layouts is None:
        return Model(whole.config, network, trainable, frozen, tokenizer)
    refuse_indivisible(config, layouts, whole.config)
    trainable, frozen = (logical_axes.place(part, layouts.train) for part in (trainable, frozen))
    in_play = logical_axes.place(frozen, layouts.rollout) if layouts.differ else None
    return Model(whole.config, network, trainable, frozen, tokenizer, layouts, in_play)


def sizes_of(config) -> sizes.BagelConfig:
    """The sizes of a config's model: its checkpoint's, or the preset `model.size` where no checkpoint is at hand."""
    if not config.model.size:
        return bagel_weights.read_config(checkpoint_folder(config.model.checkpoint))
    return choose("model.size", config.model.size, sizes.PRESETS)()


def dtype_of(config) -> jnp.dtype:
    """The type of a config's model. Raises ValueError naming those there are."""
    return choose("model.dtype", config.model.dtype, DTYPES)


def abstract(config, layouts: Layouts | None, *, platform: str = "") -> tuple[Network, nnx.State, nnx.State]:
    """The network of a config, and the shapes of what learns and of what is frozen: nothing is read, no array is made."""
    shapes = bagel.abstract(sizes_of(config), dtype_of(config))
    if config.train == "lora":
        network, trainable, frozen = networks.abstract_adapter(shapes, settings(LoraConfig, config.lora))
    elif config.train == "full":
        network, trainable, frozen = networks.whole(shapes, tuple(config.parts))
    else:
        raise ValueError(f"train is {config.train!r}; choose lora or full.")
    return network.run_as(*executions(config, layouts, platform=platform)), trainable, frozen


def on_one_device(config):
    """The config of a run, to be looked at on one device whatever mesh the run had."""
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.mesh.update(data=1, fsdp=-1, tensor=1, sequence=1)
    return alone


def refuse_indivisible(config, layouts: Layouts | None, size: sizes.BagelConfig) -> None:
    """Raises ValueError where the mesh does not cut rows or heads evenly."""
    if layouts is None:
        return
    passes = {"step.rows": config.step.rows, "evaluate.rows": config.evaluate.rows}
    if config.recipe == "edit_r2" and config.data.group <= config.step.rows:
        group, sessions = config.data.group, config.data.sessions
        groups = min(config.step.rows // group, sessions)
        passes[f"a batch of {groups} groups of {group} rollouts (data.group in step.rows={config.step.rows})"] = groups * group
        if last := sessions % groups:
            passes[f"a step's last batch, of {last} groups of {group} rollouts (data.sessions={sessions})"] = last * group
    for name, rows in passes.items():
        for layout in layouts:
            layout.check_divides(name, "batch", rows)
    for layout in layouts:
        layout.check_divides("the number of key-value heads", "heads", size.decoder.kv_heads)


def executions(config, layouts: Layouts | None, *, platform: str = "") -> tuple[Execution, Execution, Execution]:
    """How learning runs the model, how play does (nothing is kept there for a way back), and how play writes words."""
    own = {name: config.model[name] for name in ("unroll", "remat", "attention")}
    learn = Execution(**own, layout=layouts and layouts.train, platform=platform)
    play = dataclasses.replace(learn, remat="none", layout=layouts and layouts.rollout)
    return learn, play, dataclasses.replace(play, layout=layouts and layouts.words)


def matching_tokenizer(folder: Path | epath.Path, config: sizes.BagelConfig) -> Tokenizer:
    """The folder's tokenizer. Raises ValueError when its markers are not the ones that the model was configured with."""
    with byte_ranges.at_hand(folder, tokenizer_files) as here:
        tokenizer = Tokenizer(here)
    given = (tokenizer.bos, tokenizer.eos, tokenizer.vision_start, tokenizer.vision_end)
    if given != dataclasses.astuple(config.tokens):
        raise ValueError(
            f"{folder}: the tokenizer's markers (begin, end, picture start and end) are {given}, "
            f"the model's {dataclasses.astuple(config.tokens)}; "
            "take tokenizer and weights from one checkpoint."
        )
    return tokenizer


def policy(config) -> PolicyConfig:
    """What sampling and learning agree on."""
    rollout = config.rollout
    flow = settings(FlowConfig, rollout.flow, kernel=settings(Kernel, rollout.kernel))
    return PolicyConfig(flow=flow, temperature=rollout.temperature, slots=settings(Slots, rollout.slots))


def rollout(config) -> RolloutConfig:
    """How sessions are played."""
    section = config.rollout
    own = {name: section[name] for name in ("turns", "noise", "reconstruct")}
    window, prompt = settings(WindowConfig, section.window), settings(IntentPrompt, section.prompt)
    return RolloutConfig(**own, policy=policy(config), window=window, prompt=prompt)


def hosts(config, **which: Any) -> HostsConfig:
    """How long the hosts of a run wait for each other; `which` they are is the command line's business, so that a run may change it."""
    return settings(HostsConfig, {**config.hosts, **which})


def player(config, network: Network) -> Player:
    """Compiled play; `.quiet()` is without noise."""
    return Player(network, rollout(config))


def refuse_contradictions(config) -> None:
    """Raises ValueError where two sections of a config cannot both hold: at once, not when the first step comes."""
    image, advantage, group, rows = config.objective.image, config.advantage, config.data.group, config.step.rows
    if min(config.data.sessions, group, rows, config.step.updates) < 1:
        raise ValueError(
            f"data.sessions={config.data.sessions}, data.group={group}, step.rows={rows}, step.updates={config.step.updates}: "
            "each must be at least 1."
        )
    if group > rows:
        raise ValueError(
            f"data.group is {group} but step.rows is {rows}, and a group is never cut; set step.rows to a multiple of the group size."
        )
    batches = -(-config.data.sessions // (rows // group))  # of sessions that all have one shape
    if batches < config.step.updates:
        raise ValueError(
            f"step.updates is {config.step.updates}, but {config.data.sessions} sessions of {group} rollouts make {batches} batch(es) of "
            f"step.rows={rows}, and each update learns from batches of its own; lower step.rows or step.updates."
        )
    if advantage.filter != "off" and advantage.filter_reward not in config.rewards.use:
        raise ValueError(
            f"advantage.filter is {advantage.filter!r} but the reward it looks at, {advantage.filter_reward!r}, is not in rewards.use; "
            "add it there or set advantage.filter=off."
        )
    if config.rewards.arithmetic != "fixed" and config.rewards.answerer == "vlm" and config.rewards.vlm.soft:
        raise ValueError(
            f"rewards.arithmetic={config.rewards.arithmetic} counts words and rewards.vlm.soft=True probabilities; "
            "set rewards.vlm.soft=False, or rewards.arithmetic=fixed."
        )
    chosen, kernel = objective(config), config.rollout.kernel.kind
    if config.train == "full" and chosen.needs_reference:
        raise ValueError(
            f"the objectives {image.kind!r} and {config.objective.intent.kind!r} with objective.image.kl_weight is {image.kl_weight} and "
            f"objective.intent.kl_weight is {config.objective.intent.kl_weight} compare with a reference, "
            "but train is 'full', which keeps none; set objective.image.kl_weight=0 and objective.intent.kl_weight=0, or train=lora."
        )
    if image.weight and chosen.image.replays and not config.rollout.window.size:
        raise ValueError(
            f"objective.image.kind={image.kind} learns from stochastic steps, but rollout.window.size is 0, which draws none; "
            "give the window a size, or take an objective that looks at the path to the picture, such as nft."
        )
    _refuse_idle(config, chosen)
    kernels = getattr(chosen.image.objective, "KERNELS", None)
    if image.weight and kernels and kernel not in kernels:
        raise ValueError(
            f"objective.image.kind={image.kind} compares Gaussian steps, which the kernel {kernel!r} does not draw; "
            f"set rollout.kernel.kind to one of {', '.join(kernels)}."
        )


def _refuse_idle(config, chosen: ObjectiveConfig) -> None:
    """Settings under which something would be drawn, weighed or counted in vain."""
    image, played, advantage = chosen.image, rollout(config), config.advantage
    if image.weight and not played.window.count and played.noise != "member" and config.data.group > 1:
        raise ValueError(
            f"rollout.window.size is 0, so nothing but the initial noise tells the pictures of a group apart, and rollout.noise="
            f"{played.noise} gives all of them the same; set rollout.noise=member."
        )
    if not image.replays and image.times == "grid" and image.draws > (steps := played.policy.flow.steps):
        raise ValueError(
            f"objective.image.draws is {image.draws}, but the grid has {steps} steps; draw at most as many, or times=continuous."
        )
    if advantage.normalise_by_kept and chosen.intent.reduction in ("token_mean", "sum_nonempty"):
        raise ValueError(
            f"objective.intent.reduction={chosen.intent.reduction} is a mean over what teaches already; "
            "set advantage.normalise_by_kept=False."
        )
    weighs_reward = [term.kind for term in (image, chosen.intent) if getattr(term.settings, "weighting", "") == "reward"]
    if weighs_reward and (advantage.transform != "none" or advantage.grouping == "trajectory"):
        raise ValueError(
            f"objective {weighs_reward[0]!r} weighs by the turn's own reward (weighting=reward), which advantage.transform="
            f"{advantage.transform} and advantage.grouping={advantage.grouping} do not change; choose weighting=best or exp."
        )


def objective(config) -> ObjectiveConfig:
    """The joint objective's settings: of each term what all kinds share, and the chosen kind's own section."""
    parts = {}
    for family, cls in (("image", ImageObjectiveConfig), ("intent", IntentObjectiveConfig)):
        section = dict(config.objective[family])
        kinds = {kind: section.pop(kind) for kind in catalogue.names(family)}
        chosen = catalogue.named(family, section["kind"])
        parts[family] = settings(cls, section, settings=settings(chosen.Config, kinds[section["kind"]]))
    return ObjectiveConfig(**parts)


def averages(config) -> Averages:
    """The policies that follow the one that learns."""
    return Averages(old=settings(Schedule, config.old_policy), ema=settings(Schedule, config.ema))


def buckets(config, model_config: sizes.BagelConfig) -> images.Buckets:
    """The sizes that pictures are worked on: those of data.shapes, or what the model's own VAE transform makes of each picture."""
    rule = model_config.vae_transform
    shapes = tuple(_shape(text, rule.stride, rule.max_size) for text in config.data.shapes)
    return images.Buckets(max_size=rule.max_size, min_size=rule.min_size, stride=rule.stride, shapes=shapes)


def _shape(text: str, stride: int, longest: int) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", str(text))
    height, width = map(int, found.groups()) if found else (0, 0)
    if not 0 < min(height, width) <= max(height, width) <= longest or height % stride or width % stride:
        raise ValueError(f"data.shapes has {text!r}; give HEIGHTxWIDTH in pixels, both multiples of {stride} and at most {longest}.")
    return height, width


def data_folder(config, workdir: Path, *, say: Callable[[str], None] = lambda text: None) -> Path:
    """The session folder of a run: the one it names, or the embedded world, written once below the workdir."""
    if config.data.path:
        return places.place(config.data.path)
    folder, world_config = workdir / "data", config.tabletop
    if not (folder / "test_metadata.jsonl").exists():
        say(f"writing {world_config.train} training and {world_config.test} held-out sessions of the embedded world to {folder}")
    world.write_folder(  # keeps what is there already, and refuses it if it is another world's
        folder,
        counts={"train": world_config.train, "test": world_config.test},
        seed=world_config.seed,
        turns=world_config.turns,
        size=tuple(world_config.size),
        targets=world_config.targets,
        workers=world_config.workers,
    )
    return folder


class First:
    """The first `count` sessions of a source."""

    def __init__(self, source: pipeline.Source, count: int):
        self._source, self._count = source, min(count, len(source)) if count else len(source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int):
        return self._source[index]


def make_checkpoint(folder: Path, *, seed: int) -> str:
    """A fresh checkpoint of the embedded world's size: a tokenizer that knows the world's words, and first weights; says what it made."""
    size = sizes.tabletop()
    prompt = presets.tabletop(presets.edit_r2()).rollout.prompt
    words = world.vocabulary_sentences(20000)
    framed = [in_context_cot.answer(text) for text in words]  # so that the tags around an answer become few tokens
    asked = [f"{prompt.system} {prompt.question} " + " ".join(f"{number}." for number in range(10))] * 2000
    sentences = [*words, *framed, *asked]
    beside = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    train_tiny(sentences, size.decoder.vocab, beside)
    matching_tokenizer(beside, size)
    fresh = bagel.create(size, key=keys.at(seed, "model"))
    vae_start.start_as_blocks(fresh.vae)
    porting_export.write_folder(fresh, beside)
    beside.rename(folder)
    return f"{size.decoder.vocab} tokens, first weights from seed {seed}"
