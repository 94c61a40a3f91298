"""The stream of sessions: an endless one for training, and each session once for evaluation.

What step k of the stream holds is a pure function of (seed, k): position i of the endless stream is session order(seed, i // N)[i % N] of
N, a new order in every epoch, and step k holds positions k*P to k*P + P - 1. So a stream is resumed by its step alone, on any number of
processes. Letters: N sessions in the source, P sessions in a step, G times that each of them comes in a row.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from editr2_jax.data.images import Buckets, fit
from editr2_jax.records import Sample, Session

_THREADS, _STEPS_AHEAD = 2, 2  # decoding is cheap beside a step of training; a step ahead costs its pictures in memory


class Source(Protocol):
    """Sessions by number. Thread-safe: pictures are read in the background."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Session, Callable[[str], np.ndarray]]:
        """A session, and the function from the path of one of its pictures to uint8 pixels [H, W, 3]."""
        ...


class Remembered:
    """A source that decodes every picture once and keeps it: for small pictures that come again in every epoch."""

    def __init__(self, source: Source):
        self._source, self._pictures = source, {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Session, Callable[[str], np.ndarray]]:
        session, read = self._source[index]

        def remember(path: str) -> np.ndarray:
            if path not in self._pictures:
                self._pictures[path] = read(path)  # two threads may both decode it; the result is the same
            return self._pictures[path]

        return session, remember


class Prefixes:
    """Every prefix of every session as a session of one turn that asks for all of it at once: what a single pass draws."""

    def __init__(self, source: Source):
        self._source = source
        self._places = [(index, turn) for index in range(len(source)) for turn in range(len(source[index][0].turns))]
        self._whole: dict[str, tuple[Session, int]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Session, Callable[[str], np.ndarray]]:
        whole, turn = self._places[index]
        session, read = self._source[whole]
        texts = [one.instruction.strip().rstrip(".") for one in session.turns[: turn + 1]]
        asked = dataclasses.replace(session.turns[turn], instruction=". ".join(texts), target=None, intent=None)
        prefix = dataclasses.replace(session, id=f"{session.id}#{turn + 1}", turns=(asked,))
        self._whole[prefix.id] = session, turn
        return prefix, read

    def whole(self, prefix: Session) -> tuple[Session, int]:
        """The session that a prefix was made of, and the turn that it reaches to."""
        return self._whole[prefix.id]


class Stream(Iterator[list[Sample]]):
    """Steps without end, made by `stream`. `step` is the number of the step that comes next, and all there is to resume from."""

    def __init__(self, load: Callable[[int], list[Sample]], start_step: int):
        self._load, self._running = load, None
        self.set_state(start_step)

    def __next__(self) -> list[Sample]:
        if self._running is None:
            self._running = _prefetched(self._load, self.step)
        try:
            samples = next(self._running)
        except BaseException:
            self.close()  # what was read ahead lies behind the step that failed: asked again, it is this step that comes
            raise
        self.step += 1
        return samples

    def at(self, step: int) -> list[Sample]:
        """What any step holds; the stream stays where it is."""
        return self._load(step)

    def get_state(self) -> int:
        return self.step

    def set_state(self, step: int) -> None:
        """Goes on with `step`, forwards or back."""
        if step < 0:
            raise ValueError(f"A stream starts at step 0 or later, not at {step}.")
        self.close()
        self.step = int(step)

    def close(self) -> None:
        """Stops reading ahead. The stream may still be asked for more."""
        if self._running is not None:
            self._running.close()
        self._running = None


def stream(
    source: Source,
    *,
    seed: int,
    groups_per_step: int,
    group_size: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
    shuffle: bool = True,
    buckets: Buckets | None = None,
    targets: bool = False,
) -> Stream:
    """An endless stream of steps: lists of P * G samples, the members of a group in a row.

    groups_per_step: P, of all processes together; process i of n gets the i-th part of every step, so that the parts of all processes one
    behind the other are the same step on any number of them. buckets: the sizes pictures are brought to; None leaves them as they are.
    targets: also read the ground-truth pictures of sessions that have them. A picture is decoded once for its group and is read-only.
    Raises ValueError for numbers that do not fit together; a picture that cannot be read raises when its step comes.
    """
    local = _share(groups_per_step, process_index, process_count, "groups_per_step")
    if group_size < 1 or len(source) < 1:
        raise ValueError(f"group_size is {group_size}, the source has {len(source)} sessions; both must be at least 1.")
    order = _order(len(source), seed, shuffle)

    def load(step: int) -> list[Sample]:
        first = step * groups_per_step + process_index * local
        positions = range(first, first + local)
        return [
            member
            for position in positions
            for member in _members(_sample(source, order(position), position, buckets, targets), group_size)
        ]

    return Stream(load, start_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one size and number of turns. Only the first `real` count: the others repeat the last one, to fill the batch."""

    samples: list[Sample]
    real: int


def once(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    buckets: Buckets | None = None,
    targets: bool = False,
) -> Iterator[Batch]:
    """Every session once, in order, in full batches of equal picture size and number of turns.

    batch_size: sessions of all processes together; process i of n gets the i-th part of every batch. Sessions of a rarer size wait until
    their batch is full, or for the end, where what is left is padded. The `group` of a sample is the number of its session in the source.
    """
    local = _share(batch_size, process_index, process_count, "batch_size")
    waiting: dict[tuple, list[Sample]] = {}
    part = slice(process_index * local, (process_index + 1) * local)
    for index in range(len(source)):
        sample = _sample(source, index, index, buckets, targets)
        shape = (*sample.picture.shape, len(sample.session.turns))
        waiting.setdefault(shape, []).append(sample)
        if len(waiting[shape]) == batch_size:
            yield _padded(waiting.pop(shape), batch_size, part)
    for samples in waiting.values():
        yield _padded(samples, batch_size, part)


def _padded(samples: Sequence[Sample], size: int, part: slice) -> Batch:
    full = [*samples, *[samples[-1]] * (size - len(samples))]
    return Batch(samples=full[part], real=min(max(len(samples) - part.start, 0), part.stop - part.start))


def _share(total: int, process_index: int, process_count: int, name: str) -> int:
    """How many of `total` groups are one process's; a group is never split."""
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index} of {process_count} processes; give one in [0, {process_count}).")
    if total < 1 or total % process_count:
        raise ValueError(f"{name} is {total} for {process_count} processes; give a positive multiple of {process_count}.")
    return total // process_count


def _order(sessions: int, seed: int, shuffle: bool) -> Callable[[int], int]:
    """Position in the endless stream -> number of the session."""
    import grain

    order = grain.MapDataset.range(sessions)
    if shuffle:
        order = order.seed(seed).shuffle()  # before repeat: a new order in every epoch, and each session once in it
    order = order.repeat()
    return lambda position: int(order[position])


def _prefetched(load: Callable[[int], list[Sample]], start: int):
    import grain

    steps = grain.MapDataset.range(start, sys.maxsize).map(load)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_STEPS_AHEAD)))


def _sample(source: Source, index: int, group: int, buckets: Buckets | None, targets: bool) -> Sample:
    session, read = source[index]
    picture = _checked(read(session.image), session)
    shape = buckets.choose(*picture.shape[:2]) if buckets else picture.shape[:2]
    paths = [turn.target for turn in session.turns] if targets else []
    drawn = [] if None in paths else [_checked(read(path), session) for path in paths]
    picture, *drawn = (_frozen(fit(one, shape)) for one in (picture, *drawn))
    return Sample(session=session, picture=picture, targets=tuple(drawn), group=group)


def _members(sample: Sample, group_size: int) -> list[Sample]:
    return [dataclasses.replace(sample, member=member) for member in range(group_size)]


def _checked(picture: np.ndarray, session: Session) -> np.ndarray:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"Session {session.id}: a picture is {picture.dtype}{list(picture.shape)}; give uint8 [H, W, 3].")
    return picture


def _frozen(picture: np.ndarray) -> np.ndarray:
    """A view that cannot be written to: the members of a group share it."""
    view = picture.view()
    view.flags.writeable = False
    return view
