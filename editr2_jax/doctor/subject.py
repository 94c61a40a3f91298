"""What is examined: the objects of a run, and a small batch that is played, scored and asked again once for all checks.

Everything is made when a check first wants it, so a few checks cost no more than they need. Letters: P sessions, G group, B = P * G rows,
T turns, W stochastic steps, K intent tokens, L latent tokens, C numbers in a token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from editr2_jax.assemble import Model
from editr2_jax.doctor.known_pairs import Pair
from editr2_jax.doctor.passes import Passes, Walk
from editr2_jax.doctor.settings import DoctorConfig
from editr2_jax.policies.dialogue import Played, Replay
from editr2_jax.records import Sample, Session, Verdict
from editr2_jax.rewards.suite import Pending, Scores
from editr2_jax.rollouts.collect import Rollout
from editr2_jax.rollouts.player import Player, Weights
from editr2_jax.runtime import keys
from editr2_jax.training import edit_r2
from editr2_jax.training.edit_r2 import EditR2
from editr2_jax.training.train_batch import Credit
from editr2_jax.training.update import LogProbs, Updater


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A run at one moment."""

    config: Any
    settings: DoctorConfig
    model: Model
    weights: Weights  # that play
    recipe: EditR2
    quiet: Player  # plays evaluations
    sessions: tuple[Session, ...]  # of the training split
    samples: tuple[Sample, ...]  # the small batch: groups of one shape
    pairs: tuple[Pair, ...]
    begun_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # versions that the run started on; empty where it has not

    @property
    def player(self) -> Player:
        return self.recipe.player

    @property
    def updater(self) -> Updater:
        return self.recipe.updater

    @property
    def group(self) -> int:
        """G of the small batch."""
        return sum(sample.group == self.samples[0].group for sample in self.samples)

    # Played once -----------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _played(self) -> tuple[Rollout, list[Pending]]:
        (rollout,), (pending,) = self.recipe.play(self.weights, self.samples, 0)
        return rollout, pending

    @functools.cached_property
    def rollout(self) -> Rollout:
        return self._played[0]

    @property
    def played(self) -> Played:
        return self.rollout.played

    @functools.cached_property
    def verdicts(self) -> Mapping[str, list[list[Verdict]]]:
        """By reward: [T][B], also where too many have failed for training to go on."""
        turns = self._played[1]
        return {name: [[future.result() for future in turn.futures[name]] for turn in turns] for name in self.recipe.suite.names}

    @functools.cached_property
    def scores(self) -> Scores:
        """Raises TooManyErrors as in training."""
        return self.recipe.suite.collect(self._played[1])

    @functools.cached_property
    def credit(self) -> tuple[Credit, dict[str, float]]:
        """What the small batch teaches, and the metrics of it."""
        (credit,), metrics = self.recipe.credits([self.rollout], [self.scores])
        return credit, metrics

    # Asked again -----------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def asked(self) -> LogProbs:
        """Log-probabilities of the small batch from the update's pass, of the velocity that the sampler followed."""
        return self.ask(self.played, as_loss=self.updater.loss_guides)

    @functools.cached_property
    def asked_as_loss(self) -> LogProbs:
        """And of the velocity that the loss asks for, which differs where the loss has no guidance."""
        return self.asked if self.updater.loss_guides else self.ask(self.played)

    def ask(self, played: Played, *, weights: Weights | None = None, as_loss: bool = True) -> LogProbs:
        """[B, T, W] and [B, T, K]."""
        found = self.updater.ask_again(weights or self.weights, played, as_loss=as_loss)
        return tuple(np.asarray(part) for part in found)

    @functools.cached_property
    def passes(self) -> Passes:
        return Passes(self.model.network, self.player.config.policy.slots)

    @functools.cached_property
    def replay(self) -> Replay:
        """The contexts as the update reads them again."""
        return self.passes.replay(self.weights, self.played.script)

    @functools.cached_property
    def walked(self) -> Walk:
        """The recorded steps taken again, under the sampler of training."""
        return self._walk(self.player)

    @functools.cached_property
    def walked_by_evaluation(self) -> Walk:
        """And under that of evaluation."""
        same = self.quiet.config.policy.flow == self.player.config.policy.flow
        return self.walked if same else self._walk(self.quiet)

    def _walk(self, player: Player) -> Walk:
        flow = player.config.policy.flow
        return jax.tree.map(np.asarray, self.passes.walk(self.weights, self.played, self.replay, flow=flow))

    @property
    def redraw(self) -> Callable[[np.ndarray], np.ndarray]:
        """Pictures uint8 [B, H, W, 3] through the autoencoder, as a turn that changes nothing would hand them on."""
        return lambda pictures: np.asarray(self.passes.redraw(self.weights, pictures))

    # Learned from ----------------------------------------------------------------------------------------------------------------

    def gradients(
        self, credit: Credit, *, weights: Weights | None = None, played: Played | None = None, old: LogProbs | None = None
    ) -> tuple[Any, dict[str, float]]:
        """Gradient of the loss over the small batch, and its metrics, if `credit` were what it teaches."""
        rollout = dataclasses.replace(self.rollout, played=self.played if played is None else played)
        chunk = edit_r2.chunk_of(rollout, credit)
        old = {id(chunk): self.asked_as_loss if old is None else old}
        slope = self.updater.slope(weights or self.weights, [chunk], old=old, key=keys.at(self.recipe.seed, "objective", 0))
        return slope.gradient, slope.metrics

    def lesson(self, *, image: bool, text: bool) -> Credit:
        """Every other rollout was worth it, the others were not; pictures teach, or words, or both."""
        shape = self.played.step.shape[:2]
        worth = np.broadcast_to(np.where(np.arange(shape[0]) % 2, -1.0, 1.0)[:, None], shape).astype(np.float32)
        masks = {"image_mask": np.full(shape, image), "text_mask": np.full(shape, text)}
        return Credit(reward=(worth + 1) / 2, image_advantage=worth, text_advantage=worth, **masks, why=np.full(shape, ""))

    @functools.cached_property
    def gradient_of_pictures(self) -> Any:
        return self.gradients(self.lesson(image=True, text=False))[0]

    @functools.cached_property
    def gradient_of_words(self) -> Any:
        return self.gradients(self.lesson(image=False, text=True))[0]

    def at(self, trainable: Any) -> Weights:
        """The weights with another trainable part."""
        return dataclasses.replace(self.weights, trainable=trainable)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by dotted path."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    name = lambda path: ".".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)  # noqa: E731
    return {name(path): np.asarray(leaf) for path, leaf in pairs}
