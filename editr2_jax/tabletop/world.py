"""The tabletop world as sessions: deterministic from (split, seed, index), in memory or as an ordinary session folder.

Train and test never meet: they draw from different streams, and a hash of the dialogue's words and cells (no jitter, no texture) settles
which of the two may have it, so no test session is a training session that lies a little differently.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from editr2_jax.data import instruction_grammar
from editr2_jax.records import SUBSETS, Session
from editr2_jax.tabletop import dialogues, edits, render, scene
from editr2_jax.tabletop.dialogues import Dialogue

SPLITS = ("train", "test")
TEST_SHARE = 4  # one in so many dialogues can be in test only
FORMAT = 2  # raise it when the same (split, seed, index) gives another session
_CHUNK = 64  # sessions that a worker process takes at a time


def make_dialogue(
    split: str, seed: int, index: int, *, turns: int = 3, subset: str | None = None, size: tuple[int, int] = (64, 64)
) -> Dialogue:
    """Dialogue number `index` of a split, with its scenes. subset None: plain, memory, understanding by turns. Cells follow `size`."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of the tabletop world; the splits are {', '.join(SPLITS)}.")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index count from 0, got seed={seed}, index={index}.")
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(b"tabletop"), zlib.crc32(split.encode()), seed, index]))
    grid = scene.grid_for(size)
    while True:
        dialogue = dialogues.sample(rng, subset or SUBSETS[index % len(SUBSETS)], turns=turns, grid=grid)
        if home_of(dialogue) == split:
            return dialogue


def home_of(dialogue: Dialogue) -> str:
    """The one split that may have this dialogue."""
    digest = hashlib.blake2b(dialogues.fingerprint(dialogue).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "little") % TEST_SHARE == 0 else "train"


def make_session(
    split: str, seed: int, index: int, *, turns: int = 3, subset: str | None = None, size: tuple[int, int] = (64, 64)
) -> tuple[Session, UInt8[np.ndarray, "H W 3"], tuple[UInt8[np.ndarray, "H W 3"], ...]]:
    """(session, source picture, ground-truth picture after each turn); paths are relative to the folder that would hold them."""
    dialogue = make_dialogue(split, seed, index, turns=turns, subset=subset, size=size)
    source, *targets = [render.render(each, size) for each in dialogue.scenes]
    return session_of(dialogue, split, index), source, tuple(targets)


def session_of(dialogue: Dialogue, split: str, index: int) -> Session:
    """The dialogue as a record."""
    stem = f"{split}_{index:06d}"
    targets = tuple(f"images/{stem}_{t + 1}.png" for t in range(len(dialogue.edits)))
    turns = dialogues.turns_of(dialogue, targets)
    caption = scene.caption(dialogue.scenes[0])
    return Session(id=f"{split}/{stem}", image=f"images/{stem}.png", turns=turns, subset=dialogue.subset, caption=caption)


def arrays(
    split: str,
    seed: int,
    start: int,
    stop: int,
    *,
    turns: int = 3,
    subset: str | None = None,
    size: tuple[int, int] = (64, 64),
    workers: int = 0,
) -> tuple[UInt8[np.ndarray, "N T+1 H W 3"], list[Session]]:
    """Sessions start..stop-1 in bulk: pictures[n, 0] is the source, pictures[n, t + 1] the truth after turn t.

    workers: processes to share the work, 0 for none.
    """
    make = functools.partial(_pictures, split, seed, turns=turns, subset=subset, size=size)
    pictures = np.empty((max(stop - start, 0), turns + 1, *size, 3), np.uint8)
    sessions: list[Session] = []
    for part, described in _in_parts(make, range(start, stop), workers):
        pictures[len(sessions) : len(sessions) + len(described)] = part
        sessions.extend(described)
    return pictures, sessions


def write_folder(
    path: str | os.PathLike,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    turns: int = 3,
    subset: str | None = None,
    size: tuple[int, int] = (64, 64),
    targets: bool = True,
    workers: int = 0,
) -> None:
    """Writes a session folder: counts["train"] and counts["test"] sessions, pictures as PNG, SPLIT_metadata.jsonl.

    A split's metadata appears last and at once, so a split that can be loaded is whole. What is there already with the same settings is
    kept; a split with other settings is refused (ValueError). targets: also write the ground-truth pictures. workers: as in `arrays`.
    """
    folder = Path(path).absolute()
    for split, count in counts.items():
        if split not in SPLITS or count < 1:
            raise ValueError(f"counts[{split!r}] = {count}: give a positive number for {' or '.join(SPLITS)}.")
        settings = {
            "format": FORMAT,
            "seed": seed,
            "count": count,
            "turns": turns,
            "subset": subset,
            "size": list(size),
            "targets": targets,
        }
        if not _is_written(folder, split, settings):
            make = functools.partial(_write_part, folder, split, seed, turns=turns, subset=subset, size=size, targets=targets)
            (folder / "images").mkdir(parents=True, exist_ok=True)
            lines = [line for part in _in_parts(make, range(count), workers) for line in part]
            _replace_file(folder / f"{split}_world.json", json.dumps(settings) + "\n")
            _replace_file(folder / f"{split}_metadata.jsonl", "".join(lines))


def vocabulary_sentences(n: int, *, seed: int = 0) -> list[str]:
    """About fifty short sentences that together hold every word, then n of training dialogues: all that is said, and captions."""
    sentences = list(_covering_sentences())
    every, index = len(sentences) + n, 0
    while len(sentences) < every:
        dialogue = make_dialogue("train", seed, index)
        formatted = [instruction_grammar.formatted(edit) for edit in dialogue.edits]
        sentences += [*dialogue.instructions, *formatted, *dialogue.intents[1:], scene.caption(dialogue.scenes[0])]
        index += 1
    return sentences[:every]


def _covering_sentences() -> Iterator[str]:
    """Every form of every sentence once, and every value once."""
    for i in range(max(len(scene.KINDS), len(scene.COLOURS), len(scene.MATERIALS))):
        kind, colour, material = (values[i % len(values)] for values in (scene.KINDS, scene.COLOURS, scene.MATERIALS))
        yield f"Replace [{kind}] with [{scene.object_name(kind, colour=colour, material=material)}]"
    yield from (f"Add ball on the {place} of red box and make it teal" for place in scene.DIRECTIONS)
    yield from (f"Change the background to {background}, remain the ball unchanged" for background in scene.BACKGROUNDS)
    yield from (f"Replace the text '{glyph}' on sign with 'K'" for glyph in scene.GLYPHS)
    yield from (f"Change the count of ball to {count} and make them teal" for count in range(1, scene.MAX_COUNT + 1))
    yield from (f"Change {its} {attribute} to" for its in ("its", "their") for attribute in ("color", "material", "count"))
    yield from ("Change the position of ball to left of box", "Add text 'K' on the image", "Remove it", "Remove them")
    for rule in dialogues.RULES:
        yield from (
            f"{rule.format(value=values[-1], attribute=name)} {instruction_grammar.RULE_DELIMITER}Remove it"
            for name, values in edits.VOCABULARY.items()
        )


def _in_parts(make, indices: range, workers: int) -> Iterator:
    """make(part of the indices) for all parts, in order; in `workers` processes of their own, or here."""
    parts = [indices[at : at + _CHUNK] for at in range(0, len(indices), _CHUNK)]
    if workers < 1 or len(parts) < 2:
        yield from map(make, parts)
        return
    # Fresh interpreters: a fork of a process that runs JAX's threads may hang.
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(parts)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, parts)


def _pictures(split: str, seed: int, indices: Sequence[int], **settings) -> tuple[np.ndarray, list[Session]]:
    made = [make_session(split, seed, index, **settings) for index in indices]
    return np.stack([np.stack([source, *targets]) for _, source, targets in made]), [session for session, _, _ in made]


def _write_part(folder: Path, split: str, seed: int, indices: Sequence[int], *, targets: bool, **settings) -> list[str]:
    """Writes the pictures of some sessions; their lines of metadata."""
    from PIL import Image

    from editr2_jax.data import session_source

    lines = []
    for index in indices:
        session, source, drawn = make_session(split, seed, index, **settings)
        session = _below(folder, session, targets)
        files = [(session.image, source)]
        files += [(turn.target, picture) for turn, picture in zip(session.turns, drawn, strict=True) if targets]
        for file, picture in files:
            Image.fromarray(picture).save(file, compress_level=1)
        lines.append(json.dumps(session_source.to_record(session, folder), ensure_ascii=False) + "\n")
    return lines


def _below(folder: Path, session: Session, targets: bool) -> Session:
    """The session with absolute paths, or without target paths."""
    turns = tuple(dataclasses.replace(turn, target=str(folder / turn.target) if targets else None) for turn in session.turns)
    return dataclasses.replace(session, image=str(folder / session.image), turns=turns)


def _is_written(folder: Path, split: str, settings: dict) -> bool:
    """Whether that split is there as a whole; ValueError if it is there but is another one."""
    metadata, world = folder / f"{split}_metadata.jsonl", folder / f"{split}_world.json"
    if not metadata.exists():
        return False
    found = json.loads(world.read_text(encoding="utf-8")) if world.exists() else None
    if found != settings:
        raise ValueError(
            f"{metadata} holds other sessions ({found or 'of unknown origin'}) than asked for ({settings}); choose another folder."
        )
    return True


def _replace_file(file: Path, text: str) -> None:
    """The file appears whole or not at all."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
