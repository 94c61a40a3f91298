"""Play: every turn of every session, to a rollout.

Before each later turn the model says what it is to draw (intent), then draws it, then sees what it drew. The picture that is scored is the
picture that the next turn sees, bit for bit. Scores are asked for as soon as a turn's pictures exist, while the next turn is under way.
Letters: P sessions, G group, B = P * G rows, T turns, W stochastic steps, K intent tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from editr2_jax.flow import sde_window
from editr2_jax.models.bagel.bagel import PictureTokens
from editr2_jax.policies.context import pad_tokens
from editr2_jax.policies.dialogue import Played, Script
from editr2_jax.policies.intent_policy import Intent
from editr2_jax.records import Episode, Sample, Session
from editr2_jax.rollouts import in_context_cot
from editr2_jax.rollouts.player import Player, RolloutConfig, Weights
from editr2_jax.rollouts.spool import Spool
from editr2_jax.rollouts.spool import Turn as Spooled
from editr2_jax.runtime import keys, rows
from editr2_jax.runtime.signals import Interrupted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """All that one batch of sessions produced."""

    samples: tuple[Sample, ...]  # B, the members of a group in a row
    played: Played
    pictures: np.ndarray  # uint8 [B, T, H, W, 3]; on several processes, zeros in the rows that are not here
    intents: tuple[tuple[str | None, ...], ...]  # [B][T] what conditioned the picture; None for the instruction itself
    answers: tuple[tuple[str | None, ...], ...]  # [B][T] what the model wrote
    fallback: np.ndarray  # bool [B, T]: the answer had no intent in it, the instruction stood in
    here: np.ndarray  # bool [B]: the rows that belong to this process


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """What sessions must share to be played in one batch."""

    height: int  # pixels
    width: int
    turns: int


def shape_of(sample: Sample, turns: int) -> Shape:
    """The shape of a session of which at most `turns` turns are played."""
    return Shape(*sample.picture.shape[:2], min(turns, len(sample.session.turns)))


OnTurn = Callable[[int, Sequence[Episode | None]], None]


def play(
    player: Player,
    weights: Weights,
    samples: Sequence[Sample],
    *,
    key: jax.Array,
    tokenizer,
    iteration: int | None = None,
    seed: int | None = None,
    on_turn: OnTurn = lambda *_: None,
    spool: Spool | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Rollout:
    """Plays sessions of one `Shape`. `samples` holds each session G times in a row.

    Args:
        key: of all that this iteration draws.
        iteration: its number, which a sliding window depends on.
        seed: the run's, which the initial noise that a dialogue keeps for the run depends on.
        on_turn: on_turn(t, episodes) is called with the episodes of a turn as soon as its pictures are there; None stands for the rows
            of other processes.
        spool: keeps every turn as soon as it is done; the turns that it has are not drawn again. The rollout is the same bit for bit.
        should_stop: asked after every turn; the same in all processes.

    Raises:
        Interrupted: asked to stop, after a turn, the last one too; the turn is in the spool.
        ValueError: words have no room in their slots; or the config asks for an iteration or a seed that is not told.
    """
    config, count = player.config, len(samples)
    group = sum(sample.group == samples[0].group for sample in samples)
    size = samples[0].picture.shape[:2]
    source = np.stack([sample.picture for sample in samples[::group]])
    turns = shape_of(samples[0], config.turns).turns
    instructions = [[turn.instruction for turn in sample.session.turns[:turns]] for sample in samples]
    streams = _Streams.of(samples, key)
    start = noise_keys(player, samples, key=key, seed=seed)

    sources, serves = player.sources(source, group)
    tokens = player.perceive(weights, sources)
    context = player.begin(weights, tokens, size=size, serves=serves, turns=turns)
    perceived = [jax.tree.map(lambda x: jnp.repeat(x, serves, axis=0), tokens)]
    load = (lambda t: None) if spool is None else spool.load
    spooled = load(0)
    texts = [(row[0], None, False) for row in instructions]  # per row: what conditions the picture, the answer, whether it fell back
    segments, intent = _no_question(config, count), _no_intent(config, count)
    pictures, on_device, parts, words = [], [], [], []
    for t in range(turns):
        ids = pad_tokens(
            [_wrap(tokenizer, text) for text, *_ in texts], config.policy.slots.of_turn(t), what=f"the instruction of turn {t}"
        )
        context = player.instruct(weights, context, *ids)
        if spooled is None:
            steps = _stochastic_steps(player, streams, t, iteration)
            picture, drawn = player.draw(weights, context, start(t), streams.member("steps", t), steps, size=size)
        else:
            picture, drawn = spooled.picture, spooled.drawn
        done = Spooled(picture=picture, drawn=drawn, intent=intent, texts=tuple(texts))
        parts.append((ids, segments, intent, drawn))
        words.append(texts)
        ahead = load(t + 1) if spooled is not None and t + 1 < turns else None  # a turn is worth nothing without those before it
        if t + 1 < turns:
            perceived.append(player.perceive(weights, picture))
            context = player.read(weights, context, perceived[-1], size=size)
            if config.reconstruct:
                segments = _question(tokenizer, config, instructions, t + 1)
                if ahead is None:
                    context, intent = player.think(weights, context, segments, streams.member("intent", t + 1))
                else:
                    intent = ahead.intent
        on_device.append(picture)
        pictures.append(rows.local(picture))  # waits for this turn's pictures only: what follows is already under way
        if spool is not None and spooled is None:
            spool.store(t, done)
        here = rows.owned(picture)
        on_turn(t, [_episode(sample, pictures, i) if here[i] else None for i, sample in enumerate(samples)])
        if should_stop():
            raise Interrupted(f"stopped after turn {t} of {turns}.")
        if t + 1 < turns:
            texts = list(ahead.texts if ahead else _read(tokenizer, config, intent, instructions, t + 1))
        spooled = ahead
    return _rollout(samples, np.stack(pictures, axis=1), _stack(source, on_device, parts, perceived), words, here)


def refuse_long(sessions: Sequence[Session], config: RolloutConfig, tokenizer) -> None:
    """Raises ValueError naming a session whose words have no room in their slots: before a run, not when its turn comes."""
    slots, asks = config.policy.slots, config.reconstruct and config.turns > 1
    if asks:
        pad_tokens([_wrap(tokenizer, config.prompt.system)], slots.system, what="the system prompt of intent reconstruction")
    for session in sessions:
        texts = [turn.instruction for turn in session.turns[: config.turns]]
        for t, text in enumerate(texts):
            pad_tokens([_wrap(tokenizer, text)], slots.of_turn(t), what=f"session {session.id}: the instruction of turn {t}")
            if t and asks:
                question = _wrap(tokenizer, in_context_cot.question(config.prompt, texts, t))
                pad_tokens([question], slots.question, what=f"session {session.id}: the question before turn {t}")


def _episode(sample: Sample, pictures: Sequence[np.ndarray], row: int) -> Episode:
    return Episode(session=sample.session, pictures=(sample.picture, *(batch[row] for batch in pictures)))


_STREAMS = {"noise": 0, "window": 1, "steps": 2, "intent": 3}


@dataclasses.dataclass(frozen=True)
class _Streams:
    """Random streams of the rows: one for a whole group, or each member's own. They do not depend on who else is in the batch."""

    key: jax.Array
    groups: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample], key: jax.Array) -> _Streams:
        return cls(key, *(np.asarray([getattr(sample, name) for sample in samples], np.uint32) for name in ("group", "member")))

    def group(self, name: str, turn: int) -> jax.Array:
        return _cut(self.key, _STREAMS[name] + len(_STREAMS) * turn, self.groups, np.zeros_like(self.members))

    def member(self, name: str, turn: int) -> jax.Array:
        return _cut(self.key, _STREAMS[name] + len(_STREAMS) * turn, self.groups, self.members)

    def everyone(self, name: str) -> jax.Array:
        """One for all sessions and turns: that of session 0's first."""
        return _cut(self.key, _STREAMS[name], np.zeros_like(self.groups), np.zeros_like(self.members))


@jax.jit
def _cut(key, number, groups, members):
    stream = jax.random.fold_in(key, number)
    return jax.vmap(lambda g, m: jax.random.fold_in(jax.random.fold_in(stream, g), m))(groups, members)


def _stochastic_steps(player: Player, streams: _Streams, turn: int, iteration: int | None) -> jax.Array:
    """The stochastic steps [B, W] of a turn's pictures. A group shares them; the noise of a step is each member's own."""
    window = player.window
    streams_of_rows = streams.everyone("window") if window.share == "batch" else streams.group("window", turn)
    return sde_window.steps(window, streams_of_rows, iteration)


def noise_keys(player: Player, samples: Sequence[Sample], *, key: jax.Array, seed: int | None = None) -> Callable[[int], jax.Array]:
    """The rows' keys [B] of a turn's initial noise, as `play` takes them. Play without noise starts from the group's."""
    streams = _Streams.of(samples, key)
    shared_by = player.config.noise if player.draws else "iteration"
    if shared_by == "dialogue":
        if seed is None:
            raise ValueError("noise='dialogue': initial noise that lasts for the run depends on the run's seed; give play the seed.")
        dialogues = np.asarray([keys.text_seed(_said(sample.session), seed) for sample in samples], np.uint32)
        return lambda turn: _of_dialogues(dialogues, turn)
    return lambda turn: (streams.member if shared_by == "member" else streams.group)("noise", turn)


def _said(session: Session) -> str:
    """What tells a dialogue from others, as Edit-R2 joins it; the id stands for the picture's path, which moves with the data folder."""
    return " | ".join(turn.instruction for turn in session.turns) + f"_{session.id}"


@jax.jit
def _of_dialogues(seeds, turn):
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), turn))(seeds)


def _wrap(tokenizer, text: str) -> list[int]:
    """A text segment: begin token, text, end token."""
    return [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]


def _question(tokenizer, config, instructions: Sequence[Sequence[str]], turn: int):
    """The segments that ask for the intents of a turn: system prompt and question, as (ids, counts) each."""
    system = _wrap(tokenizer, config.prompt.system)
    questions = [_wrap(tokenizer, in_context_cot.question(config.prompt, texts, turn)) for texts in instructions]
    return (
        pad_tokens([system] * len(questions), config.policy.slots.system, what="the system prompt of intent reconstruction"),
        pad_tokens(questions, config.policy.slots.question, what=f"the question before turn {turn}"),
    )


def _no_question(config, rows: int):
    empty = lambda slots: (np.zeros((rows, slots), np.int32), np.zeros((rows,), np.int32))  # noqa: E731
    return empty(config.policy.slots.system), empty(config.policy.slots.question)


def _no_intent(config, rows: int) -> Intent:
    shape = (rows, config.policy.slots.intent)
    return Intent(tokens=np.zeros(shape, np.int32), count=np.zeros((rows,), np.int32), log_prob=np.zeros(shape, np.float32))


def _read(tokenizer, config, intent: Intent, instructions: Sequence[Sequence[str]], turn: int):
    """Per row: what conditions the picture, what the model wrote (None where not asked), and whether the instruction stands in."""
    if not config.reconstruct:
        yield from ((texts[turn], None, False) for texts in instructions)
        return
    tokens, counts = np.asarray(intent.tokens), np.asarray(intent.count)
    for row, count, texts in zip(tokens, counts, instructions, strict=True):
        written = row[:count].tolist()
        answer = tokenizer.decode([token for token in written if token != tokenizer.eos])
        text, fell_back = in_context_cot.parse(answer, texts[turn])
        if len(_wrap(tokenizer, text)) > config.policy.slots.later:  # a ramble that does not fit is no intent
            text, fell_back = texts[turn], True
        yield text, answer, fell_back


def _rollout(
    samples: Sequence[Sample], pictures: np.ndarray, played: Played, words: Sequence[Sequence[tuple]], here: np.ndarray
) -> Rollout:
    """`words` is [T][B]."""
    by_row = list(zip(*words, strict=True))
    return Rollout(
        samples=tuple(samples),
        played=played,
        pictures=pictures,
        intents=tuple(tuple(None if answer is None else text for text, answer, _ in row) for row in by_row),
        answers=tuple(tuple(answer for _, answer, _ in row) for row in by_row),
        fallback=np.asarray([[fell_back for *_, fell_back in row] for row in by_row]),
        here=here,
    )


def _stack(source: np.ndarray, pictures: list[jax.Array], parts: list, perceived: list[PictureTokens]) -> Played:
    """Puts the turns side by side on axis 1."""
    by_turn = lambda xs: jnp.stack([jnp.asarray(x) for x in xs], axis=1)  # noqa: E731
    ids, segments, intents, drawn = zip(*parts, strict=True)
    of_steps = lambda name: by_turn([getattr(one.trajectory, name) for one in drawn])  # noqa: E731
    width = ids[0][0].shape[1]  # turn 0 has the most slots
    questions = tuple(
        (by_turn([segment[k][0] for segment in segments]), by_turn([segment[k][1] for segment in segments]))
        for k in range(len(segments[0]))
    )
    return Played(
        script=Script(
            source=jnp.asarray(source),
            pictures=by_turn(pictures),
            instruction=by_turn([np.pad(i, ((0, 0), (0, width - i.shape[1]))) for i, _ in ids]),
            instruction_count=by_turn([count for _, count in ids]),
            question=questions,
            perceived=jax.tree.map(lambda *turns: by_turn(turns), *perceived),
        ),
        x=of_steps("x"),
        x_next=of_steps("x_next"),
        clean=by_turn([one.latent for one in drawn]),
        step=of_steps("step"),
        image_log_prob=of_steps("log_prob"),
        intent=by_turn([intent.tokens for intent in intents]),
        intent_count=by_turn([intent.count for intent in intents]),
        intent_log_prob=by_turn([intent.log_prob for intent in intents]),
    )
