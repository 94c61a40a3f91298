"""Held-out play: by a run between its steps, and by a checkpoint of a run, whose pictures are kept for whoever scores them.

An evaluation that is complete is not made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax import assemble, judging, resuming
from editr2_jax.assemble import Model
from editr2_jax.data import pipeline, session_source
from editr2_jax.evaluation import report, runner, tables
from editr2_jax.evaluation.benchmarks import judges, picture_folder
from editr2_jax.evaluation.runner import EvaluationConfig
from editr2_jax.models.network import Network
from editr2_jax.records import Sample
from editr2_jax.resuming import At, Keeper, fresh_state, saved_state
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import workdir
from editr2_jax.runtime.hosts import Hosts
from editr2_jax.runtime.pointers import LATEST
from editr2_jax.training.state import TrainState

Say = Callable[[str], None]


class Evaluations:
    """Held-out play of a run, into eval/STEP; compiled once for all of them."""

    def __init__(
        self,
        config,
        directory: Path,
        model: Model,
        player: Player,
        data: Path,
        say: Say,
        *,
        hosts: Hosts | None = None,
        keeper: Keeper | None = None,
        keep: runner.Keep = lambda *_: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self._keep, self._should_stop = keep, should_stop
        self._config, self._directory, self._model, self._say = config, directory, model, say
        self._settings = assemble.settings(EvaluationConfig, config.evaluate)
        self._player, self._hosts, self._keeper = player, hosts, keeper
        source = session_source.SessionFolder(data, "test")
        collect.refuse_long(source.sessions, player.config, model.tokenizer)
        self._source = assemble.First(source, self._settings.sessions)

    def __call__(self, state: TrainState) -> dict[str, Any] | None:
        """Into eval/STEP, where it is not complete there. Raises Interrupted, leaving nothing there, where it was asked to stop."""
        folder, hosts, store = self._directory / "eval" / str(int(state.step)), self._hosts, self._keeper and self._keeper.verdicts
        made = (folder / tables.SUMMARY).exists()
        if made if hosts is None else hosts.agree(made):
            return None
        if store is not None:
            store.step = int(state.step)
        weights = self._model.to_play(state.shown)
        doing = contextlib.nullcontext() if hosts is None else hosts.phase("evaluation", step=int(state.step))
        with doing, judging.suite(self._config, lambda: merged(self._model.network, weights), store=store) as suite:
            outcome = runner.play(
                self._player,
                weights,
                pipeline.once(
                    self._source,
                    batch_size=min(self._settings.rows, len(self._source)),
                    buckets=assemble.buckets(self._config, self._model.config),
                ),
                suite=suite,
                tokenizer=self._model.tokenizer,
                seed=self._config.seed,
                config=self._settings,
                hosts=hosts,
                keep=self._keep,
                should_stop=self._should_stop,
                progress=lambda done: self._say(f"evaluate step {int(state.step)}: {done} of {len(self._source)} held-out sessions"),
            )
            judge = suite.counted()
        summary = runner.write(folder, outcome, judge=judge) if hosts is None or hosts.first else tables.summarise(outcome.records)
        if self._keeper is not None and summary["reward"].get("mean") is not None:
            self._keeper.tell_best(int(state.step), summary["reward"]["mean"])
        self._say(f"held-out reward at step {int(state.step)}: {tables.cell_text(summary['reward'])}")
        return summary


def evaluate(
    config,
    directory: Path,
    *,
    checkpoints_of: Path | None,
    say: Say,
    at: At = LATEST,
    drawn_in: str = "multi",
    score: bool = True,
) -> dict[str, Any] | None:
    """Plays the held-out split with a checkpoint of a run (or the untrained model); writes eval/STEP, and its pictures.

    eval/STEP/pictures is a folder as benchmarking.score reads it. at: which checkpoint. drawn_in: "single" draws every prefix of a session
    from its source at once. score: False draws only, which is all that a single pass does. Returns the summary; None where nothing was
    scored now.
    """
    if checkpoints_of is not None:
        resuming.refuse_absent(checkpoints_of, at)
    model = assemble.model(resuming.on_own_base(config, checkpoints_of))
    data = assemble.data_folder(config, directory, say=say)
    if checkpoints_of is None:
        state = fresh_state(config, model)
    else:
        state = saved_state(config, model, checkpoints_of, at)
        say(resuming.told_step(checkpoints_of, at, int(state.step)))
    player = assemble.player(config, model.network).quiet(turns=config.evaluate.turns)
    folder = directory / "eval" / str(int(state.step)) / "pictures"
    _refuse_another_pass(folder, drawn_in)
    summary = None
    if drawn_in == "multi" and score:
        keep = lambda drawn, outputs, intents: picture_folder.save(folder, drawn.session, outputs, intents)  # noqa: E731
        summary = Evaluations(config, directory, model, player, data, say, keep=keep)(state)
        report.write(directory)
    else:
        _draw(config, model, player, state, data, folder, say, single=drawn_in == "single")
    if not (folder / picture_folder.META).exists() and any(folder.glob("*")):
        picture_folder.save_meta(folder, _drawn_by(config, checkpoints_of, state, drawn_in))
    return summary


def _refuse_another_pass(folder: Path, drawn_in: str) -> None:
    """Pictures of one pass would be written over those of the other, below a meta.json that speaks of the first."""
    there = picture_folder.read_meta(folder).drawn_in
    if (folder / picture_folder.META).exists() and there != drawn_in:
        raise ValueError(f"{folder} holds the pictures of a {there} pass; give another --workdir for those of a {drawn_in} pass.")


def _draw(config, model: Model, player: Player, state: TrainState, data: Path, folder: Path, say: Say, *, single: bool) -> None:
    """Pictures alone, into a folder that is not complete yet."""
    if (folder / picture_folder.META).exists():
        return
    source = assemble.First(session_source.SessionFolder(data, "test"), config.evaluate.sessions)
    source = pipeline.Prefixes(source) if single else source
    collect.refuse_long([source[i][0] for i in range(len(source))], player.config, model.tokenizer)

    def keep(drawn: Sample, outputs: np.ndarray, intents: Sequence[str | None]) -> None:
        session, first = source.whole(drawn.session) if single else (drawn.session, 0)
        picture_folder.save(folder, session, outputs, () if single else intents, first=first)

    runner.draw(
        player,
        model.to_play(state.shown),
        pipeline.once(source, batch_size=min(config.evaluate.rows, len(source)), buckets=assemble.buckets(config, model.config)),
        tokenizer=model.tokenizer,
        seed=config.seed,
        keep=keep,
        progress=lambda done: say(f"draw step {int(state.step)}: {done} of {len(source)} {'prefixes' if single else 'sessions'}"),
    )


def _drawn_by(config, run: Path | None, state: TrainState, drawn_in: str) -> picture_folder.Meta:
    """What a folder of pictures says about us."""
    name = Path(config.model.checkpoint).name
    more = {"step": int(state.step), "config": workdir.fingerprint(resuming.plain(config)), "sessions": config.evaluate.sessions}
    return picture_folder.Meta(
        drawn_in=drawn_in,
        model=name if run is None else f"{name}, {int(state.step)} steps of {run.name}",
        made_by="editr2_jax evaluate",
        seeds={"noise": config.seed},
        training_judge=None if run is None else trained_by(run),
        more=more,
    )


def trained_by(run: Path) -> dict[str, Any] | None:
    """The judge that a run was trained with; None where its config does not say."""
    path = run / "config.json"
    return judges.identity(workdir.read_json(path)["rewards"]) if path.is_file() else None


def merged(network: Network, weights: Weights):
    """The model with its weights in it."""
    return network.policy(weights.trainable, weights.frozen)
