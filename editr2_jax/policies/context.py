"""The dialogue as the model's prefix: with everything, without the current instruction, without pictures.

Letters: B rows (rollouts), S slots of the full cache, L latent tokens, C numbers in a token, T tokens of an instruction.

Two caches serve three guidance branches: the branch without the instruction sees the full cache through a mask that hides the latest
instruction, at the rotary position before it; the branch without pictures has a cache of its own that only instructions enter, at
positions counted from 0. Source: BAGEL's published inference (golden case d) and Edit-R2's incremental contexts (case m).
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from editr2_jax.models import kv_cache
from editr2_jax.models.bagel.bagel import Bagel, PictureTokens, empty_cache
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.models.execution import Execution
from editr2_jax.models.kv_cache import KVCache

BRANCHES = 3  # full context, without the instruction, without pictures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What a dialogue has put before the model so far."""

    full: KVCache
    text: KVCache  # instructions alone
    instruction: Bool[Array, "B S"]  # slots of the latest instruction, as long as no picture follows it
    rope_before: Int[Array, "B"]  # rotary position at which that instruction begins

    @property
    def rows(self) -> int:
        return self.instruction.shape[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """Which slots the branches of one turn see, and the rotary positions they draw or write at. Small: caches are not in it."""

    full: Bool[Array, "B S"]
    without_instruction: Bool[Array, "B S"]
    without_pictures: Bool[Array, "B Stext"]
    start: Int[Array, "B 3"]  # in the order of the three fields above


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """Slots of the full cache that one piece of a dialogue takes."""

    kind: str  # latents, seen (a picture, between its markers), instruction, system, question
    turn: int | None  # of a picture: the turn that starts from it; None for what is asked, which every turn asks in the same place
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """How many slots each kind of segment takes; with these the capacity of every cache is known before anything runs."""

    instruction: int = 64  # of turn 0, which may state a rule; begin and end tokens included
    later: int = 48  # instructions and intents of later turns, likewise
    system: int = 96  # the system prompt of intent reconstruction; the default one takes about 70
    question: int = 128
    intent: int = 32  # sampled tokens of an intent at most, the end token included

    def __post_init__(self):
        if self.later > self.instruction:
            raise ValueError(f"Slots: later turns have {self.later} slots, turn 0 only {self.instruction}; turn 0 needs at least as many.")

    def of_turn(self, turn: int) -> int:
        """Slots of the instruction of a turn."""
        return self.later if turn else self.instruction

    def capacity(self, model: BagelConfig, *, turns: int, height: int, width: int) -> tuple[int, int]:
        """Slots of the (full, text) caches for a dialogue of `turns` turns over pictures of one size."""
        words = self.instruction + (turns - 1) * self.later
        return turns * picture_slots(model, height, width) + words + self.scratch, words

    def layout(self, model: BagelConfig, *, turns: int, height: int, width: int) -> tuple[Segment, ...]:
        """Where in the full cache what is read of such a dialogue stands, in order; behind it the question, as a replay puts it."""
        pieces = []
        for turn in range(turns):
            latents, seen = _picture_parts(model, height, width)
            pieces += [("latents", turn, latents), ("seen", turn, seen), ("instruction", turn, self.of_turn(turn))]
        pieces += [("system", None, self.system), ("question", None, self.question)]
        starts = itertools.accumulate((size for *_, size in pieces[:-1]), initial=0)
        return tuple(Segment(kind=kind, turn=turn, start=at, stop=at + size) for (kind, turn, size), at in zip(pieces, starts, strict=True))

    @property
    def scratch(self) -> int:
        """Slots behind the dialogue in which an intent is thought over, and which the next segment takes again."""
        return self.system + self.question + self.intent + 1


def picture_slots(model: BagelConfig, height: int, width: int) -> int:
    """Slots of one picture: latent block and ViT block, each between two markers."""
    return sum(_picture_parts(model, height, width))


def _picture_parts(model: BagelConfig, height: int, width: int) -> tuple[int, int]:
    seen_width, seen_height = model.vit_transform.shape(width, height)
    latents = (height // model.token_pixels) * (width // model.token_pixels)
    return latents + 2, (seen_height // model.vit.patch) * (seen_width // model.vit.patch) + 2


def begin(model: Bagel, picture: UInt8[Array, "B H W 3"], *, capacity: tuple[int, int]) -> Context:
    """A context that holds the source picture."""
    return add_picture(model, blank(model, picture.shape[0], capacity), picture)


def blank(model: Bagel, rows: int, capacity: tuple[int, int]) -> Context:
    """A context that holds nothing."""
    dtype = model.decoder.embed.dtype
    slots = map(model.decoder.execution.slots, capacity)
    full, text = (empty_cache(model.config, rows=rows, capacity=size, dtype=dtype) for size in slots)
    return Context(full=full, text=text, instruction=jnp.zeros((rows, full.capacity), bool), rope_before=full.rope)


def served(run: Execution, groups: int, group: int) -> int:
    """How many members one reading of a source picture serves: the whole group, wherever groups have their devices to themselves. Where a
    device holds parts of several groups, reading it for every member, in place, costs less than moving what was read."""
    return group if run.layout is None or groups % run.layout.parts("batch") == 0 else 1


def of_sources(model: Bagel, picture: PictureTokens, size: tuple[int, int], *, serves: int, capacity: tuple[int, int]) -> Context:
    """Contexts of source pictures, each of them for `serves` rows (see `served`)."""
    run, rows = model.decoder.execution, picture.latents.shape[0]
    context = add_tokens(model, blank(model, rows, capacity), run.constrain(picture, "batch"), size)
    return placed(repeat(context, serves), run)


def add_picture(model: Bagel, context: Context, picture: UInt8[Array, "B H W 3"]) -> Context:
    """A picture, perceived and read; see `add_tokens`."""
    return add_tokens(model, context, model.perceive(picture), picture.shape[1:3])


def add_tokens(model: Bagel, context: Context, picture: PictureTokens, size: tuple[int, int]) -> Context:
    """The picture enters the full context only; right after it, nothing is left to hide."""
    full = model.append_picture(context.full, picture, size)
    return Context(full=full, text=context.text, instruction=jnp.zeros_like(context.instruction), rope_before=full.rope)


def add_instruction(model: Bagel, context: Context, ids: Int[Array, "B T"], count: Int[Array, "B"]) -> Context:
    """The instruction enters both caches; in the full one it is remembered as the part that guidance hides."""
    slots = jnp.arange(context.full.capacity)
    start = context.full.length
    return Context(
        full=model.append_text(context.full, ids, count),
        text=model.append_text(context.text, ids, count),
        instruction=jnp.broadcast_to((slots >= start) & (slots < start + ids.shape[1]), context.instruction.shape),
        rope_before=context.full.rope,
    )


_CACHE_AXES = KVCache(
    k=("layers", "batch", "heads", "sequence"), v=("layers", "batch", "heads", "sequence"), valid=("batch",), rope=("batch",), length=()
)
AXES = Context(full=_CACHE_AXES, text=_CACHE_AXES, instruction=("batch",), rope_before=("batch",))  # logical axes of a context's arrays


def placed(context: Context, run: Execution) -> Context:
    """The context, told where its rows, heads and slots lie."""
    return jax.tree.map(lambda axes, leaf: run.constrain(leaf, *axes), AXES, context, is_leaf=lambda node: isinstance(node, tuple))


def sight(context: Context) -> Sight:
    """What the three branches see now."""
    return Sight(
        full=context.full.valid,
        without_instruction=context.full.valid & ~context.instruction,
        without_pictures=context.text.valid,
        start=jnp.stack([context.full.rope, context.rope_before, context.text.rope], axis=1),
    )


def views(context: Context, seen: Sight, branches: int = BRANCHES, scratch: int = 0) -> tuple[View, ...]:
    """The first `branches` guidance branches as attention views; the last `scratch` slots of the full cache hold nothing to see."""
    end = context.full.capacity - scratch
    visible = jnp.stack([seen.full, seen.without_instruction][: min(branches, 2)], axis=1)[:, :, :end]
    full = View(k=context.full.k, v=context.full.v, visible=visible)
    if branches < BRANCHES:
        return (full,)
    return full, View(k=context.text.k, v=context.text.v, visible=seen.without_pictures[:, None])


def repeat(context: Context, times: int) -> Context:
    """Each row `times` times in a row: the members of a group share their source picture's encoding."""
    return Context(
        full=kv_cache.repeat(context.full, times),
        text=kv_cache.repeat(context.text, times),
        instruction=jnp.repeat(context.instruction, times, axis=0),
        rope_before=jnp.repeat(context.rope_before, times, axis=0),
    )


def pad_tokens(rows: list[list[int]], length: int, *, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as int32 [B, length] and counts [B]; a list that is too long is refused, naming what it is."""
    too_long = max((len(row) for row in rows), default=0)
    if too_long > length:
        raise ValueError(f"{what} takes {too_long} tokens but has {length} slots; raise rollout.slots for it or shorten the text.")
    ids = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, np.asarray([len(row) for row in rows], np.int32)
