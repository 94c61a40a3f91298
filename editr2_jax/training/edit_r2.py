"""The Edit-R2 step: play sessions, score them, turn scores into credit, learn from words and pictures at once.

Source: Edit-R2 (arXiv 2606.05950).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from editr2_jax.records import Sample
from editr2_jax.rewards import suite as suites
from editr2_jax.rewards.panel import Asked, Panel
from editr2_jax.rewards.suite import Pending, Scores, Suite
from editr2_jax.rollouts import collect
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.rollouts.spool import Spool
from editr2_jax.runtime import keys
from editr2_jax.runtime.hosts import Hosts
from editr2_jax.runtime.signals import Interrupted
from editr2_jax.training import state as states
from editr2_jax.training import train_batch, useful_flops
from editr2_jax.training.seeing import Seeing
from editr2_jax.training.session_log import After
from editr2_jax.training.state import Averages, TrainState
from editr2_jax.training.train_batch import AdvantageConfig, Credit
from editr2_jax.training.update import Chunk, Updater
from editr2_jax.training.useful_flops import Work


class RatioError(RuntimeError):
    """A fresh rollout does not have ratio one: sampler and loss disagree, and training would learn from the disagreement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How one step is cut up."""

    updates: int = 1  # optimizer updates per step; later ones are slightly off-policy
    rows: int = 64  # rollouts in one compiled pass, a multiple of the group size
    image_tolerance: float = 1e-4  # largest |log ratio| of a fresh rollout's denoising steps
    intent_tolerance: float = 1e-3  # and of its tokens, between decoding one by one and the teacher-forced pass

    def __post_init__(self):
        for name in ("updates", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"StepConfig.{name} is {getattr(self, name)}; give at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step produced, for whoever wants to look at it."""

    step: int
    rollouts: tuple[Rollout, ...]
    scores: tuple[Scores, ...]
    credits: tuple[Credit, ...]
    after: Callable[[int], After]  # asks about a batch of rollouts under the new weights: a pass over it


@dataclasses.dataclass(frozen=True)
class EditR2:
    """The recipe: everything a step needs besides state and sessions."""

    player: Player
    updater: Updater
    suite: Suite
    tokenizer: object
    frozen: nnx.State
    seed: int
    advantage: AdvantageConfig
    config: StepConfig
    averages: Averages = Averages()
    credit: Callable[..., tuple[Credit, dict[str, float]]] = train_batch.credit  # one of your own takes and gives what this one does
    record: Callable[[StepRecord], None] = lambda record: None
    first_step: int = 0  # of this process: its rollout is checked for ratio one
    to_play: Callable[[nnx.State], Weights] | None = None  # where play wants what learns, and its frozen weights; None: as they lie
    hosts: Hosts | None = None  # those that run this together; None: this one alone
    spool: Callable[..., Spool | None] = lambda weights, samples, *, step, batch: None  # keeps the turns of half-done rollouts
    should_stop: Callable[[], bool] = lambda: False  # asked between turns, while judges think, before an update; alike on all hosts
    seeing: Seeing = dataclasses.field(default_factory=Seeing)  # keeps the time of the phases
    work: Work | None = None  # what its share of the devices' peak is counted by

    def step(self, state: TrainState, sessions: Sequence[Sample], step: int) -> tuple[TrainState, dict[str, float]]:
        """One step over P sessions, each G times in a row. Returns the new state and the step's metrics."""
        weights = Weights(trainable=state.plays, frozen=self.frozen)
        with self._phase("rollout", step):
            rollouts, pending = self.play(weights if self.to_play is None else self.to_play(state.plays), sessions, step)
        sent = self.seeing.now()
        with self._told("recall", step):
            old, gap = self._behaviour(weights, rollouts, step)
        if self.asks_again:
            self.seeing.follow("recall", sent, old)  # goes on while judges are waited for
        with self._phase("reward_wait", step):
            asked = [Asked(rollout.samples, turns, rollout.here) for rollout, turns in zip(rollouts, pending, strict=True)]
            scores = Panel(self.suite, self.hosts, should_stop=self.should_stop).collect(asked)
        metrics = _rewards(rollouts, scores) | self.suite.counted() | gap
        if layout := self.player.network.execution.layout:
            metrics["idle/repeated_share"] = layout.repeated_share([len(rollout.samples) for rollout in rollouts])
        credits, told = self.credits(rollouts, scores)
        chunks = [chunk_of(rollout, part) for rollout, part in zip(rollouts, credits, strict=True)]
        behaviour = {id(chunk): log_probs for chunk, log_probs in zip(chunks, old, strict=True)}
        dealt, key = _deal(chunks, self.config.updates), keys.at(self.seed, "objective", step)
        with self._phase("update", step):
            state, learned, divergence = self.updater.step(state, self.frozen, dealt, old=behaviour, key=key, pause=self._pause)
            state, averaged = states.follow(state, self.averages, updates=self.config.updates)

        def after(batch: int) -> After:
            now = Weights(trainable=state.trainable, frozen=self.frozen)
            images, words = self.updater.ask_again(now, rollouts[batch].played, as_loss=True)  # as the first step's check: one program
            return After(image_log_prob=np.asarray(images), intent_log_prob=np.asarray(words), kl=divergence.get(id(chunks[batch])))

        self.record(StepRecord(step=step, rollouts=tuple(rollouts), scores=tuple(scores), credits=tuple(credits), after=after))
        useful = None if self.work is None else useful_flops.of_step(self.work, rollouts, asks_again=self.asks_again)
        return state, metrics | told | learned | averaged | self.seeing.times(useful)

    def play(self, weights: Weights, sessions: Sequence[Sample], step: int) -> tuple[list[Rollout], list[list[Pending]]]:
        """Plays all sessions in batches of one shape; judges start on a turn while the next one is drawn."""
        rollouts, pending, panel, player = [], [], Panel(self.suite, self.hosts), self.seeing.player(self.player)
        stream = {"key": keys.at(self.seed, "rollout", step), "iteration": step, "seed": self.seed}
        for number, batch in enumerate(batches(sessions, turns=self.player.config.turns, rows=self.config.rows)):
            turns: list[Pending] = []
            on_turn = lambda t, episodes, turns=turns: turns.append(panel.submit(episodes))  # noqa: E731
            stops = {"spool": self.spool(weights, batch, step=step, batch=number), "should_stop": self.should_stop}
            rollouts.append(collect.play(player, weights, batch, **stream, tokenizer=self.tokenizer, on_turn=on_turn, **stops))
            pending.append(turns)
        return rollouts, pending

    @contextlib.contextmanager
    def _phase(self, name: str, step: int) -> Iterator[None]:
        """A part of the step at whose end its results are here: timed, and told to whoever waits for this host."""
        with self._told(name, step), self.seeing.phase(name):
            yield

    def _told(self, name: str, step: int) -> contextlib.AbstractContextManager[None]:
        """What this host is doing, for whoever waits for it."""
        return contextlib.nullcontext() if self.hosts is None else self.hosts.phase(name, step=step)

    def _pause(self) -> None:
        if self.should_stop():
            raise Interrupted("stopped before an update; its rollouts are in the spool.")

    @property
    def asks_again(self) -> bool:
        """Whether the update learns against log-probabilities of its own pass; else against the sampler's."""
        return self.config.updates > 1 or not self.updater.loss_guides or self.updater.objective.intent.mismatch_cap > 0

    def _behaviour(
        self, weights: Weights, rollouts: Sequence[Rollout], step: int
    ) -> tuple[list[tuple[jax.Array, jax.Array]], dict[str, float]]:
        """Log-probabilities of what was played under the policy that played it, and how far the sampler's are from the loss's.

        Both are compared at the first step of a process. With one update per step nothing lies between play and update: the sampler's
        serve, and the update's own first ratio tells the same gap at every step. Later updates of a step need those of the loss's own
        pass, or their ratios would carry the sampler's rounding; so does a loss that asks another velocity than the sampler followed, and
        one that corrects for the sampler. What is reported never depends on where a process began.
        """
        sampled = [(rollout.played.image_log_prob, rollout.played.intent_log_prob) for rollout in rollouts]
        same, needed = self.updater.loss_guides, self.asks_again
        ask = lambda **how: [self.updater.ask_again(weights, rollout.played, **how) for rollout in rollouts]  # noqa: E731
        again, first, gap = ask() if needed else sampled, step == self.first_step, {}
        if first or (needed and same):
            gap = _sampler_gap(rollouts, again if needed and same else ask(as_loss=same))
        if first:
            self._check_ratio(gap)
        return again, gap if needed and same else {}

    def credits(self, rollouts: Sequence[Rollout], scores: Sequence[Scores]) -> tuple[list[Credit], dict[str, float]]:
        """Advantages over all batches of the step at once, cut back into the batches."""
        turns = max(score.combined.shape[1] for score in scores)
        together = lambda rows, fill: train_batch.pad_turns(rows, turns, fill)  # noqa: E731
        made, metrics = self.credit(
            {name: together([score.values[name] for score in scores], np.nan) for name in scores[0].values},
            {name: together([score.weights[name] for score in scores], 0.0) for name in scores[0].weights},
            np.asarray([sample.group for rollout in rollouts for sample in rollout.samples]),
            together([rollout.fallback for rollout in rollouts], False),
            self.advantage,
            played=together([np.ones_like(rollout.fallback) for rollout in rollouts], False),
        )
        edges = itertools.accumulate((len(rollout.samples) for rollout in rollouts), initial=0)
        return [made.rows(start, stop) for start, stop in itertools.pairwise(edges)], metrics

    def _check_ratio(self, metrics: dict[str, float]) -> None:
        for area, limit in (("image", self.config.image_tolerance), ("intent", self.config.intent_tolerance)):
            gap = metrics[f"{area}/sampler_log_ratio_max"]
            if not gap <= limit:
                raise RatioError(
                    f"a fresh rollout's {area} log-probabilities differ from the loss's by up to {gap:.3g} (limit {limit:.3g}), "
                    "so its ratio is not one and training would start from noise. "
                    "Sampler and loss must share precision, guidance and contexts."
                )


def batches(sessions: Sequence[Sample], *, turns: int, rows: int) -> list[list[Sample]]:
    """Whole groups of one shape, at most `rows` rollouts each, in a stable order.

    Raises ValueError when not even one group fits.
    """
    by_shape: dict[collect.Shape, list[list[Sample]]] = {}
    for _, members in itertools.groupby(sessions, key=lambda sample: sample.group):
        group = list(members)
        if len(group) > rows:
            raise ValueError(f"a group has {len(group)} rollouts but a batch holds {rows}; set step.rows to a multiple of the group size.")
        by_shape.setdefault(collect.shape_of(group[0], turns), []).append(group)
    made = []
    for shape in sorted(by_shape):
        groups = by_shape[shape]
        per_batch = rows // len(groups[0])
        made += [list(itertools.chain(*groups[i : i + per_batch])) for i in range(0, len(groups), per_batch)]
    return made


def chunk_of(rollout: Rollout, credit: Credit) -> Chunk:
    """A batch's rollouts with what they teach, as the update takes them."""
    numbers = lambda name: np.asarray([getattr(sample, name) for sample in rollout.samples], np.uint32)  # noqa: E731
    return Chunk(played=rollout.played, credit=credit, group=numbers("group"), member=numbers("member"))


def _deal(chunks: Sequence[Chunk], updates: int) -> list[list[Chunk]]:
    """Chunks to updates, round robin. Raises ValueError when an update would get none."""
    if len(chunks) < updates:
        raise ValueError(f"{len(chunks)} batches cannot feed {updates} updates a step; lower step.rows or step.updates.")
    return [list(chunks[i::updates]) for i in range(updates)]


def _rewards(rollouts: Sequence[Rollout], scores: Sequence[Scores]) -> dict[str, float]:
    """Mean rewards per turn and over all, the share of verdicts that failed, which steps were stochastic, and how much was written."""
    metrics = {"reward/error_share": suites.error_share(scores)}
    metrics["resume/stored_share"] = float(np.mean([score.stored_share for score in scores]))
    turns = max(score.combined.shape[1] for score in scores)
    tables = {name: [score.values[name] for score in scores] for name in scores[0].values} | {"mean": [s.combined for s in scores]}
    tables |= {f"ga_{part}": [score.told("ga", part) for score in scores] for part in ("edit", "rule") if "ga" in scores[0].values}
    for name, rows in tables.items():
        table = train_batch.pad_turns(rows, turns, np.nan)
        for t in range(turns):
            column = table[:, t][~np.isnan(table[:, t])]
            if len(column):
                metrics[f"reward/{name}/turn_{t}"] = float(column.mean())
        known = table[~np.isnan(table)]
        if len(known):
            metrics["reward/mean" if name == "mean" else f"reward/{name}/mean"] = float(known.mean())
    drawn = np.concatenate([np.asarray(rollout.played.step).reshape(-1) for rollout in rollouts])
    metrics |= {f"window/step_{step}": float(share) for step, share in enumerate(np.bincount(drawn) / max(len(drawn), 1)) if share}
    lengths = np.concatenate([np.asarray(rollout.played.intent_count[:, 1:]).reshape(-1) for rollout in rollouts])
    if lengths.size:
        metrics["intent/tokens"] = float(lengths.mean())
    return metrics


def _sampler_gap(rollouts: Sequence[Rollout], old) -> dict[str, float]:
    """Largest |log ratio| between what the sampler saw and what the loss sees, before any update."""

    def largest(gaps) -> float:
        return max(float(np.max(np.abs(np.asarray(gap)), initial=0.0)) for gap in gaps)

    pairs = list(zip(rollouts, old, strict=True))
    return {
        "image/sampler_log_ratio_max": largest(rollout.played.image_log_prob - images for rollout, (images, _) in pairs),
        "intent/sampler_log_ratio_max": largest(rollout.played.intent_log_prob - words for rollout, (_, words) in pairs),
    }
