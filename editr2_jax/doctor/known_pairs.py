"""Outcomes whose worth is known: right ones, and wrong ones beside them. The rewards see pixels and annotations, as in training.

    of the embedded world   right: the scene after the edit; wrong: a mistake of tabletop/mistakes.py
    of a session folder     right: the ground-truth picture, where there is one; wrong: nothing happened
What asks whether all else stayed is shown the right outcome (or the source itself), and the same with its blocks shuffled and its colours
inverted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from editr2_jax.records import Episode, Sample, Session
from editr2_jax.tabletop import mistakes, render, world
from editr2_jax.tabletop import scene as scenes

_BLOCKS = 4  # a side, in a shuffled picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two outcomes of one turn."""

    what: str  # e.g. "color_alter, wrong colour"
    right: Episode | None  # None: what would be right is not known
    wrong: Episode
    of_edit: bool  # False: of what the edit should have left alone


def of_world(count: int, *, seed: int, turns: int, size: tuple[int, int]) -> list[Pair]:
    """Pairs of `count` dialogues of every subset, earlier turns being right."""
    made = []
    for index in range(count):
        dialogue = world.make_dialogue("train", seed, index, turns=turns, size=size)
        turn, rng = index % turns, np.random.default_rng([seed, index])
        session = world.session_of(dialogue, "train", index)
        right = tuple(render.render(scene, size) for scene in dialogue.scenes[: turn + 2])
        mistake = scenes.pick(rng, mistakes.of_edit(dialogue, turn, rng))
        what = f"{session.turns[turn].task_type}, {mistake.name}"
        made += _both(session, right, render.render(mistake.scene, size), what)
    return made


def of_samples(samples: Sequence[Sample]) -> list[Pair]:
    """Pairs of the first turns of some sessions, with their ground-truth pictures or without."""
    made = []
    for sample in samples:
        session, picture = sample.session, sample.picture
        what = f"{session.turns[0].task_type}, nothing changed"
        if sample.targets:
            made += _both(session, (picture, sample.targets[0]), picture, what)
            continue
        nothing = Episode(session=session, pictures=(picture, picture))
        spoilt = Episode(session=session, pictures=(picture, shuffled(picture)))
        made.append(Pair(what=what, right=None, wrong=nothing, of_edit=True))
        made.append(Pair(what="shuffled", right=nothing, wrong=spoilt, of_edit=False))
    return made


def shuffled(picture: np.ndarray) -> np.ndarray:
    """A picture of the same size in which nothing is as it was: blocks in the reverse order, colours inverted."""
    rows = [np.array_split(row, _BLOCKS, axis=1)[::-1] for row in np.array_split(picture, _BLOCKS, axis=0)[::-1]]
    return 255 - np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _both(session: Session, right: Sequence[np.ndarray], wrong: np.ndarray, what: str) -> list[Pair]:
    """The pair of the edit and that of all else; `right` holds the source and every outcome so far."""
    episode = lambda last: Episode(session=session, pictures=(*right[:-1], last))  # noqa: E731
    return [
        Pair(what=what, right=episode(right[-1]), wrong=episode(wrong), of_edit=True),
        Pair(what="shuffled", right=episode(right[-1]), wrong=episode(shuffled(right[-1])), of_edit=False),
    ]
