"""Benchmarks put together: a folder of pictures and a session folder become scores, tables and pages; several of them a comparison.

What a scoring leaves in its workdir: scores.jsonl (every verdict, with its requests), leaderboard.json, tables.md, tables.tex, index.html,
all of them functions of pictures, sessions, judge and the caller's date; scoring.json (what was scored), asked.jsonl (what each call of
`score` had to ask), verdicts/ and answers.sqlite (what was answered, so that nothing is asked twice).
"""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax import assemble, held_out, judging, resuming
from editr2_jax.data import session_source
from editr2_jax.evaluation import tables
from editr2_jax.evaluation.benchmarks import agreement as agreements
from editr2_jax.evaluation.benchmarks import comparison, leaderboard, page, picture_folder, rendering, scoring, tracing
from editr2_jax.evaluation.benchmarks.comparison import Run
from editr2_jax.evaluation.benchmarks.leaderboard import Circumstances
from editr2_jax.evaluation.benchmarks.picture_folder import Drawn, Meta
from editr2_jax.evaluation.benchmarks.scoring import Asked
from editr2_jax.records import Session
from editr2_jax.rewards.suite import Suite
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.runtime import workdir

Say = Callable[[str], None]
SETTINGS, ASKED, AGREEMENT = "scoring.json", "asked.jsonl", "agreement.json"
FORMAT = 1  # of scoring.json


def score(
    config,
    directory: Path,
    *,
    pictures: str | Path,
    data: str,
    split: str = "test",
    sessions: int = 0,
    turns: int = 0,
    size: str = "drawn",
    partial: bool = False,
    benchmark: str = "",
    date: str | None = None,
    model: str = "",
    training_judge: Mapping[str, Any] | None = None,
    say: Say,
) -> dict[str, Any]:
    """Scores a folder of pictures and writes everything; returns leaderboard.json and, under "asked", what it had to ask.

    sessions, turns: the first of the split, and of each dialogue; 0 all. size: see scoring.Asked. partial: score what is there. date:
    YYYY-MM-DD, not looked up. model, training_judge: a name, and an identity as judges.identity gives it, where meta.json does not tell.
    Raises BadPictures for a folder with something wrong in it, TooManyErrors above rewards.max_error_share.
    """
    leaderboard.refuse_unknown(benchmark, date)  # before anything is asked, which may take hours
    if sessions < 0 or turns < 0:
        raise ValueError(f"sessions is {sessions}, turns is {turns}; give how many of the first are scored, or 0 for all.")
    root = Path(pictures).expanduser().absolute()
    told = {"format": FORMAT, "pictures": str(root), "data": data, "split": split, "sessions": sessions, "turns": turns}
    told |= {"size": size, "partial": partial}
    _refuse_another(directory, told)
    source, drawn, meta, warned = _folder(told, say)
    meta = dataclasses.replace(meta, model=model or meta.model, training_judge=training_judge or meta.training_judge)
    judging = resuming.judging(config)
    counted: dict[str, float] = {}
    with VerdictStore(directory / "verdicts", fingerprint=workdir.fingerprint(judging)) as store:
        tracer = tracing.Tracer(store)
        try:
            records = _scored(config, directory, told, source, drawn, meta, say, store=store, watch=tracer, counted=counted)
            counted["verdicts/stored"] = _verdicts(records) - tracer.given
        finally:  # what was asked was paid for, also by a call that was given up
            counted["verdicts/asked"] = tracer.given
            _note(directory / ASKED, counted)
    about = Circumstances(
        benchmark=benchmark,
        split=split,
        date=date,
        size=size,
        meta=meta,
        rewards=resuming.plain(config.rewards),
        rewards_hash=workdir.fingerprint(judging),
        train=_train_types(data, say),
        flags=leaderboard.count_flags(source.flags, {found.session.id for found in drawn}),
        warnings=warned,
    )
    board = leaderboard.make(records, about)
    _write(directory, board, records)
    workdir.write_json(directory / SETTINGS, told)
    return board | {"asked": counted}


def agreement(config, directory: Path, *, count: int, times: int, seed: int, say: Say, again=None) -> dict[str, Any]:
    """Asks the judge of a scoring a part of its questions again; writes agreement.json and returns its content.

    config: the scoring's, by which its questions are found, and their answers where they are kept. again: one that differs from it in how
    the judge is asked now; None asks as before. Raises ValueError where nothing was asked in words.
    """
    if times < 2 or count < 1:
        raise ValueError(f"ask at least one question, and each at least twice; got questions={count}, times={times}.")
    if not (directory / SETTINGS).is_file():
        raise ValueError(f"{directory / SETTINGS}: not found; give a folder that `score` has written.")
    again = config if again is None else again
    if again.rewards.vlm.language != config.rewards.vlm.language:
        raise ValueError(
            "rewards.vlm.language is a part of the questions, which are asked again as they were; score in the other language."
        )
    collector, listener = agreements.Collector(), agreements.Collector()
    found_again = _hear(config, directory, collector, some=(count, seed), say=say)
    if not collector.heard:
        raise ValueError(
            f"{directory}: no question was asked in words (detectors and features alone, or soft=True); there is nothing to ask again."
        )
    _, suite = _suite(again, directory, watch=listener, use=("ga",))  # the one that needs a judge and nothing else
    with suite:
        lines = agreements.probe(
            collector.heard,
            listener.inner,
            questions_at_most=count,
            times=times,
            seed=seed,
            workers=again.rewards.workers,
            progress=lambda done: say(f"asked again: {done} questions") if done % 50 == 0 else None,
        )
        counted = _added(found_again, suite.counted())
    vlm = again.rewards.vlm
    judge = {"answerer": again.rewards.answerer} | (
        {"model": vlm.model, "temperature": vlm.temperature} if again.rewards.answerer == "vlm" else {}
    )
    found = {
        "format": FORMAT,
        "times": times,
        "seed": seed,
        "judge": judge,
        "kinds": agreements.summarise(lines, seed=seed),
        "asked": counted,
    }
    workdir.write_json(directory / AGREEMENT, tables.plain(found | {"questions": lines}))
    return found


def _hear(config, directory: Path, collector: agreements.Collector, *, some: tuple[int, int], say: Say) -> dict[str, float]:
    """Has a scoring's questions about some dialogues asked once more, each as it was; what the services counted meanwhile."""
    told = workdir.read_json(directory / SETTINGS)
    source, drawn, meta, _ = _folder(told, say)
    _, suite = _suite(config, directory, watch=collector)
    with suite:
        earlier = suite if "if" in config.rewards.use else None
        scoring.score(_some(drawn, *some), _asked(config, suite, told, source, meta, earlier=earlier))
        return suite.counted()


def compare(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes comparison.json, tables.md, tables.tex and index.html of several scorings; returns the first's content."""
    if any((out / name).exists() for name in (SETTINGS, leaderboard.FILE)):
        raise ValueError(f"{out} holds the tables of a scoring, which would be written over; give another --out.")
    runs = [Run(name=name, board=leaderboard.read(folder), records=tables.read(folder / tables.SCORES)) for name, folder in _named(folders)]
    board = comparison.make(runs)
    workdir.write_json(out / comparison.FILE, board)
    pages = [urllib.parse.quote(os.path.relpath(folder / "index.html", out)) for _, folder in _named(folders)]
    _write_texts(out, board, (), pages=pages)
    return board


def _refuse_another(directory: Path, told: Mapping[str, Any]) -> None:
    """Tables of other pictures would be written over, though everything else about them may be alike."""
    before = workdir.read_json(directory / SETTINGS) if (directory / SETTINGS).exists() else told
    if changed := [name for name in ("pictures", "data", "split") if before[name] != told[name]]:
        name = changed[0]
        raise ValueError(f"{directory} holds the scores of {name} {before[name]!r}, not {told[name]!r}; give another --workdir.")


def _folder(told: Mapping[str, Any], say: Say) -> tuple[session_source.SessionFolder, list[Drawn], Meta, list[str]]:
    """Sessions and pictures. Raises BadPictures where something is wrong that may not be."""
    if told["size"] not in picture_folder.SIZES:
        raise ValueError(f"size is {told['size']!r}; choose from {', '.join(picture_folder.SIZES)}.")
    root = Path(told["pictures"])
    source = session_source.SessionFolder(told["data"], told["split"], drop_invalid=False)
    sessions = source.sessions[: told["sessions"] or None]
    sessions = tuple(dataclasses.replace(session, turns=session.turns[: told["turns"] or None]) for session in sessions)
    meta = picture_folder.read_meta(root) if root.is_dir() else Meta()
    sizes = {session.id: source.size(session.image) for session in sessions} if told["size"] == "drawn" else None
    drawn, problems = picture_folder.look(root, sessions, sizes, others=source.sessions)
    if problems and not told["partial"]:
        raise picture_folder.BadPictures(problems, partial_helps=True)
    for problem in problems[:20]:
        say(str(problem))
    warned = [f"{len(problems)} problems with the pictures: " + _kinds(problems)] if problems else []
    return source, drawn, meta, warned


def _kinds(problems: Sequence[picture_folder.Problem]) -> str:
    kinds = [problem.kind for problem in problems]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) + "."


def _scored(
    config, directory: Path, told: Mapping[str, Any], source, drawn: Sequence[Drawn], meta: Meta, say: Say, *, store, watch, counted: dict
) -> list[dict[str, Any]]:
    """The records; counted: takes what the services counted meanwhile, whatever comes of it."""
    settings, suite = _suite(config, directory, watch=watch, store=store)
    with suite:
        earlier = None
        if meta.drawn_in == "single" and "if" in settings.rewards.use:
            _, earlier = _suite(config, directory, watch=watch, store=store, use=("if",))
        asked = _asked(config, suite, told, source, meta, earlier=earlier)
        try:
            records = scoring.score(drawn, asked, progress=lambda done: say(f"scored {done} of {len(drawn)} dialogues"))
        finally:
            counted |= suite.counted()
            if earlier is not None:
                counted |= _added(counted, earlier.counted())
                earlier.close()
    return [tables.plain(record) for record in records]


def _note(path: Path, counted: Mapping[str, float]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(sorted(counted.items()))) + "\n")


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _verdicts(records: Sequence[Mapping[str, Any]]) -> int:
    """How many verdicts there are, on turns that have a picture."""
    return sum("verdict" in detail for record in records for one in (record, *record.get("each", ())[:-1]) for detail in _details(one))


def _details(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a record, of every reward; of an earlier instruction of a single pass, of IF."""
    return list(one["detail"].values()) if "scores" in one else [one["detail"]]


def _asked(config, suite: Suite, told: Mapping[str, Any], source, meta: Meta, *, earlier: Suite | None) -> Asked:
    read: Callable[[Session], Any] = lambda session: source.read(session.image)  # noqa: E731
    single = meta.drawn_in == "single"
    limit = config.rewards.max_error_share
    return Asked(suite=suite, read=read, size=told["size"], single=single, earlier=earlier if single else None, max_error_share=limit)


def _suite(config, directory: Path, *, watch, store: VerdictStore | None = None, use: Sequence[str] = ()) -> tuple[Any, Suite]:
    """(the config, its rewards): a model that is asked keeps its answers below the workdir, where no other place is named.

    The share of failures is judged over the whole benchmark, not over the few verdicts that are collected at a time.
    """
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.rewards.max_error_share = 1.0
        changed.rollout.turns = 0  # a dialogue is as long as it is here, however long those were that the config plays
        changed.rewards.use = tuple(use) or changed.rewards.use
        if use:  # alone, one counts whatever it counts beside others
            changed.rewards.weights = dict.fromkeys(use, 1.0)
        if changed.rewards.answerer == "vlm" and not changed.rewards.vlm.cache:
            changed.rewards.vlm.cache = str(directory / "answers.sqlite")
    return changed, judging.suite(changed, lambda: _model(config), store=store, watch=watch)


def _model(config):
    """The checkpoint's model, for its own ViT features."""
    model = assemble.model(config)
    return held_out.merged(model.network, model.weights)


def _some(drawn: Sequence[Drawn], count: int, seed: int) -> list[Drawn]:
    """Enough dialogues, at random, to hold `count` questions."""
    order = np.random.default_rng(seed).permutation(len(drawn))[:count]
    return [drawn[i] for i in sorted(order)]


def _train_types(data: str, say: Say) -> dict[str, list[str]]:
    """Subset -> types of the first edits of the train split; nothing where there is none, or none that loads."""
    if "train" not in session_source.splits(data):
        return {}
    try:
        train = session_source.SessionFolder(data, "train", drop_invalid=False, pictures=False)
    except ValueError as error:
        say(f"the train split is left out of the comparison of mixes: {str(error).splitlines()[0]}")
        return {}
    found: dict[str, list[str]] = {}
    for session in train.sessions:
        found.setdefault(session.subset, []).append(session.turns[0].task_type)
    return found


def _write(directory: Path, board: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """leaderboard.json comes last: where it is, the rest is."""
    workdir.replace_text(directory / tables.SCORES, leaderboard.score_lines(records))
    _write_texts(directory, board, records)
    workdir.write_json(directory / leaderboard.FILE, board)


def _write_texts(directory: Path, board: Mapping[str, Any], records: Sequence[Mapping[str, Any]], *, pages: Sequence[str] = ()) -> None:
    workdir.replace_text(directory / "tables.md", rendering.markdown(board))
    workdir.replace_text(directory / "tables.tex", rendering.latex(board))
    workdir.replace_text(directory / "index.html", page.page(board, records, pages=pages))


def _named(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Short names of folders: their last parts, as many as tell them apart."""
    paths = [Path(folder).expanduser().absolute() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return list(zip(names, paths, strict=True))
    raise ValueError(f"a folder is given twice: {', '.join(map(str, paths))}; give each once.")
