"""Runs put together: training with its evaluations, the doctor, editing by hand. `cli` parses and calls; what happens is said here.

Everything a run writes lies in its workdir: checkpoints/STEP, metrics.jsonl, sessions/STEP, eval/STEP, report/. The same command again
goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from editr2_jax import assemble, judging, resuming
from editr2_jax.assemble import Model
from editr2_jax.data import images, pipeline, session_source
from editr2_jax.doctor import checks, known_pairs
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.known_pairs import Pair
from editr2_jax.doctor.settings import DoctorConfig
from editr2_jax.doctor.subject import Subject
from editr2_jax.evaluation import pictures, report
from editr2_jax.held_out import Evaluations, evaluate, merged
from editr2_jax.objectives.autoencoder_objective import AutoencoderConfig
from editr2_jax.objectives.supervised_objective import SupervisedConfig
from editr2_jax.policies.image_policy import FlowConfig
from editr2_jax.records import Sample, Session, Turn
from editr2_jax.resuming import RESUMABLE, At, Keeper, arrays_of, fresh_state, on_own_base, saved_state, state_at
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.in_context_cot import IntentPrompt
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import keys, signals, workdir
from editr2_jax.runtime.compile_cache import CompileCacheConfig
from editr2_jax.runtime.hosts import Hosts, joined
from editr2_jax.runtime.metrics import MetricsWriter
from editr2_jax.runtime.pointers import LATEST
from editr2_jax.runtime.profiling import ProfileConfig
from editr2_jax.runtime.signals import Interrupted
from editr2_jax.training import edit_r2, loop, session_log, supervised
from editr2_jax.training.edit_r2 import EditR2, StepConfig, StepRecord
from editr2_jax.training.loop import LoopConfig
from editr2_jax.training.seeing import Seeing
from editr2_jax.training.state import OptimizerConfig, TrainState
from editr2_jax.training.supervised import AutoencoderRecipe, Supervised
from editr2_jax.training.train_batch import AdvantageConfig
from editr2_jax.training.update import Updater
from editr2_jax.training.useful_flops import Work

Say = Callable[[str], None]
RECIPES = ("edit_r2", "supervised", "autoencoder")
__all__ = ["RECIPES", "RESUMABLE", "arrays_of", "fresh_state", "saved_state", "state_at", "train", "evaluate", "examine", "edit"]


def train(config, directory: Path, *, say: Say, hosts: Hosts | None = None, stop_requested: Callable[[], bool] | None = None) -> str:
    """Runs a config to its end, or to the signal that stops it; returns one line of result.

    hosts: those that run it together, joined before any device was used; None runs it alone. stop_requested: whether this one was asked
    to stop; None asks the process's own signals.
    """
    if config.recipe not in RECIPES:
        raise ValueError(f"recipe is {config.recipe!r}; choose one of {', '.join(RECIPES)}.")
    if config.recipe == "edit_r2":
        assemble.refuse_contradictions(config)
    with contextlib.ExitStack() as until:
        stop_requested = stop_requested or until.enter_context(signals.stop_flag())
        hosts = hosts or until.enter_context(joined(assemble.hosts(config), stacks=directory))
        say = say if hosts.first else _silent
        mine = workdir.exclusive(directory, within_s=lock_patience(config, hosts)) if hosts.first else contextlib.nullcontext()
        until.enter_context(mine)
        watched = assemble.settings(ProfileConfig, config.profile), assemble.settings(CompileCacheConfig, config.compile_cache)
        seeing = until.enter_context(Seeing.of(*watched, directory, say=say))
        with hosts.phase("start"):
            resuming.keep_base(config, directory, hosts, say=say)
            model = assemble.model(on_own_base(config, directory), say=say)
            data = shared_data(config, directory, hosts, say=say)
            say(told_size(model, config))
            keeper = until.enter_context(Keeper(config, directory, model, hosts=hosts, say=say))
            state = resuming.resume(keeper.checkpoints, fresh_state(config, model))
        stop = lambda: hosts.agree(stop_requested())  # noqa: E731
        return _train(config, directory, model, data, keeper, state, hosts, stop, say, seeing)


def _train(
    config,
    directory: Path,
    model: Model,
    data: Path,
    keeper: Keeper,
    state: TrainState,
    hosts: Hosts,
    stop: Callable[[], bool],
    say: Say,
    seeing: Seeing,
) -> str:
    """The run from a state on."""
    settings, player, first = _loop(config), assemble.player(config, model.network), int(state.step)
    optimizer = assemble.settings(OptimizerConfig, config.optimizer).build()
    stream = training_stream(config, model, data, first, say=say)
    recipe = make_recipe(
        config, model, player, optimizer, directory, first_step=first, hosts=hosts, store=keeper.verdicts, spool=keeper.spool, stop=stop,
        seeing=seeing,
    )  # fmt: skip
    if config.recipe == "edit_r2" and config.doctor.before and first == 0:
        _examine_before(config, model, recipe, data, say)
    evaluate = _evaluations(config, directory, model, player, data, keeper, hosts, say, stop)
    evaluate = seeing.phase("evaluation")(evaluate)  # timed at every call
    goes_on = _complete(evaluate, state, say) if (first == 0 and config.evaluate.before) or _due(config, state) else True

    def save(state: TrainState) -> None:
        with hosts.phase("save", step=int(state.step)):
            keeper.save(state)

    judging = (
        recipe.suite if isinstance(recipe, EditR2) else contextlib.nullcontext()
    )  # what is asked is answered, and kept, before it ends
    with judging, MetricsWriter(directory, start=first, total=settings.steps, watch=_WATCHED[config.recipe]) as out:
        look = lambda state: evaluate(state) if _due(config, state) else None  # noqa: E731
        run = {"recipe": recipe, "config": settings, "out": out, "save": save, "stop_requested": stop, "look": look, "seeing": seeing}
        state = loop.run(state, stream, **run) if goes_on else state
    stream.close()
    finished = goes_on and int(state.step) >= settings.steps and _complete(evaluate, state, say)
    if not hosts.first:
        return ""
    report.write(directory)
    return report.result(directory) if finished else f"stopped at step {int(state.step)} of {settings.steps}; the same command goes on."


def _complete(evaluate: Callable[[TrainState], Any], state: TrainState, say: Say) -> bool:
    """Evaluates a state that is saved, or not begun; False where it was asked to stop before the end."""
    try:
        evaluate(state)
    except Interrupted as stop:
        say(f"evaluation of step {int(state.step)}: {stop}")
        return False
    return True


def lock_patience(config, hosts: Hosts) -> float:
    """Seconds for which a workdir that is in use is waited for: a disk that hosts share may take a lost one for alive for a while."""
    return config.hosts.join_s if hosts.count > 1 else 0.0


def _silent(text: str) -> None:
    """For hosts that do not speak."""


def shared_data(config, directory: Path, hosts: Hosts, *, say: Say) -> Path:
    """The session folder of a run; the embedded world is written by the first host, the others wait for it."""
    if hosts.first:
        assemble.data_folder(config, directory, say=say)
    hosts.barrier("data")
    return assemble.data_folder(config, directory)


_WATCHED = {
    "edit_r2": {"reward": "reward/mean", "if": "reward/if/mean", "kept": "filter/kept_turn_2", "loss": "loss/total"},
    "supervised": {"flow": "supervised/flow", "captions": "supervised/caption_accuracy", "intents": "supervised/intent_accuracy"},
    "autoencoder": {"l1": "autoencoder/l1", "l2": "autoencoder/l2", "kl": "autoencoder/kl"},
}


def _evaluations(
    config, directory: Path, model: Model, player: Player, data: Path, keeper: Keeper, hosts: Hosts, say: Say, stop: Callable[[], bool]
) -> Callable[[TrainState], Any]:
    """Held-out play for Edit-R2 on data with a test split; supervised recipes are judged by what is trained on top of them."""
    if config.recipe == "edit_r2" and "test" in session_source.splits(data):
        lasting = {"hosts": hosts, "keeper": keeper, "should_stop": stop}
        return Evaluations(config, directory, model, player.quiet(turns=config.evaluate.turns), data, say, **lasting)
    if config.recipe == "edit_r2":
        say(f"{data} has no test split, so there is nothing to evaluate on.")
    return lambda state: None


def _loop(config) -> LoopConfig:
    section = {name: config.loop[name] for name in ("steps", "save_every", "log_every")}
    return assemble.settings(LoopConfig, section)


def _due(config, state: TrainState) -> bool:
    every, step = config.evaluate.every, int(state.step)
    return bool(every) and step % every == 0 and step < config.loop.steps


def told_size(model: Model, config) -> str:
    """One line about the model."""
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))  # noqa: E731
    learns, frozen = count(model.trainable), count(model.frozen)
    where = jax.default_backend()
    return f"{config.recipe}: {learns / 1e6:.2f} M parameters learn ({config.train}), {frozen / 1e6:.2f} M are frozen, on {where}"


def training_stream(config, model: Model, data: Path, start: int, *, say: Say = lambda text: None) -> pipeline.Stream:
    """The sessions of a run from a step on: all of a step's, on every host. They are words and a few pictures, and a host that knows
    them all needs to ask no other; which rows lie with it is the mesh's business, so the order does not depend on the number of hosts."""
    source = session_source.SessionFolder(data, "train", drop_invalid=config.data.drop_invalid)
    if source.dropped:
        every = source.dropped + len(source)
        say(f"{source.dropped} of {every} training sessions have an invalid annotation and are left out; `data check {data}` names them.")
    if config.recipe == "edit_r2":
        collect.refuse_long(source.sessions, assemble.rollout(config), model.tokenizer)
    elif config.recipe == "supervised":
        supervised.refuse_untaught(source.sessions)
    return pipeline.stream(
        pipeline.Remembered(source) if config.data.remember else source,
        seed=config.seed,
        groups_per_step=config.data.sessions,
        group_size=config.data.group,
        start_step=start,
        shuffle=config.data.shuffle,
        buckets=assemble.buckets(config, model.config),
        targets=config.recipe != "edit_r2",
    )


def make_recipe(
    config,
    model: Model,
    player: Player,
    optimizer,
    directory: Path,
    *,
    first_step: int,
    hosts: Hosts | None = None,
    store: VerdictStore | None = None,
    spool: Callable[..., Any] | None = None,
    stop: Callable[[], bool] | None = None,
    seeing: Seeing | None = None,
) -> loop.Recipe:
    """What happens in a step of this config. What follows `first_step` is of a run that lasts: its hosts, and what it keeps."""
    if config.recipe == "autoencoder":
        settings = assemble.settings(AutoencoderConfig, config.autoencoder)
        return AutoencoderRecipe(model.network, model.frozen, optimizer=optimizer, config=settings, seed=config.seed)
    policy = assemble.policy(config)
    if config.recipe == "supervised":
        if "vae" in config.parts:
            raise ValueError("parts names vae, but the supervised recipe does not train it; train it first, with recipe=autoencoder.")
        return Supervised(
            model.network,
            model.frozen,
            optimizer=optimizer,
            config=assemble.settings(SupervisedConfig, config.supervised),
            slots=policy.slots,
            prompt=assemble.settings(IntentPrompt, config.rollout.prompt),
            tokenizer=model.tokenizer,
            seed=config.seed,
            remember=config.data.remember,
        )
    suite = judging.suite(config, lambda: merged(model.network, model.weights), store=store)
    lasting = {"hosts": hosts, "spool": spool, "should_stop": stop, "seeing": seeing}
    lasting = {name: value for name, value in lasting.items() if value is not None}
    told = {"tokenizer": model.tokenizer, "flow": policy.flow, "suite": suite}
    updater = Updater(model.network, assemble.objective(config), policy, optimizer)
    return EditR2(
        player=player,
        updater=updater,
        suite=suite,
        tokenizer=model.tokenizer,
        frozen=model.frozen,
        seed=config.seed,
        averages=assemble.averages(config),
        advantage=assemble.settings(AdvantageConfig, config.advantage),
        config=assemble.settings(StepConfig, config.step),
        record=lambda record: _record(config, directory, record, speaks=hosts is None or hosts.first, **told),
        first_step=first_step,
        to_play=model.to_play,
        work=Work(
            model=model.config,
            play=player.config,
            rank=config.lora.rank if config.train == "lora" else 0,
            reference=updater.objective.image.needs_reference,
        ),
        **lasting,
    )


def _record(config, directory: Path, record: StepRecord, *, flow: FlowConfig, speaks: bool, **told) -> None:
    """Keeps a few groups of some steps for the inspector; `told`: what `session_log.write` reads them with."""
    if (config.loop.record_every and record.step % config.loop.record_every == 0) or record.step + 1 == config.loop.steps:
        folder, first = directory / "sessions" / str(record.step), (record.rollouts[0], record.scores[0], record.credits[0])
        grid = flow.grid(first[0].played.clean.shape[2]).tolist()
        after = record.after(0)  # a pass over the batch, on all hosts
        if speaks:
            session_log.write(folder, record.step, *first, groups=config.loop.record_groups, after=after, grid=grid, **told)


# The doctor ----------------------------------------------------------------------------------------------------------------------


def examine(config, *, run: Path | None, only: Sequence[str] = (), say: Say) -> Iterator[Finding]:
    """The doctor's findings on a config, as they come: on the last checkpoint of `run`, or on the untrained model.

    Reads from a run's workdir and writes nothing there but the data folder, where that is missing. Raises ValueError for a config that
    cannot be assembled.
    """
    if config.recipe != "edit_r2":
        raise ValueError(f"the doctor examines runs of recipe=edit_r2; this config's recipe is {config.recipe!r}.")
    names, settings = checks.chosen(only), assemble.settings(DoctorConfig, config.doctor)
    with tempfile.TemporaryDirectory(prefix="editr2_doctor_") as scratch:
        model = assemble.model(on_own_base(config, run))
        data = assemble.data_folder(config if run else _small_world(config), run or Path(scratch))
        state = saved_state(config, model, run) if run and any((run / "checkpoints").glob("[0-9]*")) else None
        plays = model.trainable if state is None else state.plays
        say(told_size(model, config) + ("; untrained" if state is None else f"; step {int(state.step)} of {run}"))
        optimizer = assemble.settings(OptimizerConfig, config.optimizer).build()
        recipe = make_recipe(config, model, assemble.player(config, model.network), optimizer, Path(scratch), first_step=0)
        weights = model.to_play(plays)
        begun = workdir.read_json(run / "versions.json") if run and (run / "versions.json").exists() else {}
        with recipe.suite:
            yield from checks.run(_subject(config, settings, model, weights, recipe, data, begun), names)


def _examine_before(config, model: Model, recipe: EditR2, data: Path, say: Say) -> None:
    """The checks that need no play, before step 0. Raises Unfit where one fails."""
    settings = assemble.settings(DoctorConfig, config.doctor)
    findings = list(checks.run(_subject(config, settings, model, model.weights, recipe, data, {}), checks.BEFORE))
    checks.refuse_unfit(findings)
    warnings = [f"{found.name}: {found.evidence}. {found.advice}" for found in findings if found.advice]
    say(f"doctor: {', '.join(checks.BEFORE)}: " + ("; ".join(warnings) or "nothing wrong"))


def _subject(config, settings: DoctorConfig, model: Model, weights: Weights, recipe: EditR2, data: Path, begun) -> Subject:
    """The run as the doctor sees it: the first sessions of its first step, in smaller groups."""
    source, sizes = (
        session_source.SessionFolder(data, "train", drop_invalid=config.data.drop_invalid),
        assemble.buckets(config, model.config),
    )
    members = min(settings.members, config.data.group)
    stream = pipeline.stream(
        source, seed=config.seed, groups_per_step=settings.sessions, group_size=members, shuffle=config.data.shuffle, buckets=sizes
    )
    turns = config.rollout.turns
    batch = max(edit_r2.batches(stream.at(0), turns=turns, rows=max(config.step.rows, members)), key=len)
    return Subject(
        config=config,
        settings=settings,
        model=model,
        weights=weights,
        recipe=recipe,
        quiet=recipe.player.quiet(turns=config.evaluate.turns),
        sessions=source.sessions,
        samples=tuple(batch),
        pairs=tuple(_pairs(config, settings, source, sizes)),
        begun_with=begun,
    )


def _pairs(config, settings: DoctorConfig, source: session_source.SessionFolder, sizes: images.Buckets) -> list[Pair]:
    """Outcomes whose worth is known: of the embedded world, or of the first sessions of a folder."""
    if not config.data.path:
        world = config.tabletop
        return known_pairs.of_world(settings.pairs, seed=world.seed, turns=world.turns, size=tuple(world.size))
    count = min(settings.pairs, len(source))
    stream = pipeline.stream(source, seed=config.seed, groups_per_step=count, shuffle=False, buckets=sizes, targets=True)
    return known_pairs.of_samples(stream.at(0))


def _small_world(config):
    """The config with a world of a few sessions: enough to examine, written at once."""
    small = config.copy_and_resolve_references()
    with small.unlocked():
        small.tabletop.update(train=min(config.tabletop.train, 64), test=1)
    return small


# By hand -------------------------------------------------------------------------------------------------------------------------


def edit(
    config, *, image: str, instructions: Sequence[str], out: Path, run: Path | None, checkpoint: str | None, seed: int, at: At = LATEST
) -> list[str]:
    """Plays one session over a picture file and writes its pictures, intents and a strip; returns a line per turn.

    at: which checkpoint of `run`, that a line before those of the turns names.
    """
    if empty := [i for i, text in enumerate(instructions) if not text.strip()]:
        raise ValueError(f"instruction {empty[0]} is empty; say what to edit.")
    with config.unlocked():
        config.rollout.turns = len(instructions)
        config.model.checkpoint = checkpoint or config.model.checkpoint
    if run is not None:
        resuming.refuse_absent(run, at)
    picture, folder = images.read_picture(image), workdir.writable(out, flag="--out")
    model = assemble.model(on_own_base(config, run))
    state = None if run is None else saved_state(config, model, run, at)
    weights = model.weights if state is None else model.to_play(state.shown)
    picture = images.fit(picture, assemble.buckets(config, model.config).choose(*picture.shape[:2]))
    sample = Sample(session=by_hand(image, instructions), picture=picture)
    player = assemble.player(config, model.network).quiet()
    collect.refuse_long([sample.session], player.config, model.tokenizer)
    rollout = collect.play(player, weights, [sample], key=keys.at(seed, "edit"), tokenizer=model.tokenizer)
    lines, turns = [] if state is None else [resuming.told_step(run, at, int(state.step))], []
    for t, (output, text) in enumerate(zip(rollout.pictures[0], instructions, strict=True)):
        pictures.save(folder / f"turn_{t}.png", output)
        intent = rollout.intents[0][t]
        turns.append({"instruction": text, "intent": intent, "answer": rollout.answers[0][t], "picture": f"turn_{t}.png"})
        lines.append(f"turn {t}: {text}" + (f"  ->  {intent}" if intent else "") + f"  ({folder / f'turn_{t}.png'})")
    pictures.save(folder / "strip.png", np.concatenate([picture, *rollout.pictures[0]], axis=1))
    workdir.write_json(folder / "session.json", {"image": str(image), "seed": seed, "turns": turns})
    return lines


def by_hand(image: str, instructions: Sequence[str]) -> Session:
    """A session without annotation: to be played, not to be scored."""
    turns = tuple(
        Turn(
            instruction=text, formatted_instruction=text, task_type="", bg_consistency=True,
            unchanged_objects=(), available_objects=(), all_objects=(),
        )
        for text in instructions
    )  # fmt: skip
    return Session(id=Path(image).stem, image=str(image), turns=turns)
