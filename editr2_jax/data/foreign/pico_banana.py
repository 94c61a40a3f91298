"""Pico-Banana-400K, multi-turn: one JSON object per line, an edit in words and a picture for every turn.

    {"files": [{"id": "original_input_image", "url": address}, {"id": "edit_turn1", "url": path}, ..., {"id": "final_image", "url": path}],
     "metadata_edit_turn_prompts": [text, ...], "local_input_image": path}

The picture of the last turn is final_image. The source is looked for at local_input_image, which the mapping script of the release adds and
which must lie below the folder of pictures, else under the last part of its address; the others at their paths below that folder, or under
their names in it. A session tells no types of ours and no objects, so its turns are free-form. Source: the Pico-Banana-400K repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from editr2_jax.data.foreign.writing import Found, first_file, free_form, inside
from editr2_jax.data.session_record import Complaints, Problem, parse_json, short

_PROMPTS = "metadata_edit_turn_prompts"


def read(table: Path, images: Path, split: str) -> tuple[list[Found], list[Problem]]:
    """The sessions of a file, in its order, and what is wrong with the other lines."""
    found, problems = [], []
    with table.open("rb") as stream:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                bad = Complaints(str(table), line)
                record = parse_json(text, bad)
                session = None if record is None else _found(record, images, split, bad)
                found += [] if session is None else [session]
                problems += bad.problems
    return found, problems


def _found(record: Mapping[str, Any], images: Path, split: str, bad: Complaints) -> Found | None:
    prompts, urls = record.get(_PROMPTS), _urls(record.get("files"))
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        bad(f"{_PROMPTS} is {short(prompts)}; a line of the multi-turn file has a list of texts there.")
        return None
    names = ["original_input_image", *(f"edit_turn{t}" for t in range(1, len(prompts))), "final_image"]
    for name in names:
        if name not in urls:
            bad(f"files has no {name}, and {len(prompts)} prompts want {', '.join(names)}.")
    if bad.problems:
        return None
    paths = [PurePosixPath(urlsplit(urls[name]).path) for name in names]
    id = paths[-1].stem
    pictures = {f"images/{id}/{name}{path.suffix}": _file(images, path) for name, path in zip(names, paths, strict=True)}
    local = record.get("local_input_image")
    if isinstance(local, str):
        pictures[next(iter(pictures))] = first_file(*inside(images, local))
    source, *targets = pictures
    fields = {"id": f"{split}/{id}", "image": source, "subset": "plain", "target": targets}
    return Found(file=bad.file, line=bad.line, record=fields | free_form(prompts), pictures=pictures)


def _urls(files: Any) -> dict[str, str]:
    """id -> address of the entries that are sound."""
    entries = [entry for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    return {entry["id"]: entry["url"] for entry in entries if isinstance(entry.get("id"), str) and isinstance(entry.get("url"), str)}


def _file(images: Path, path: PurePosixPath) -> Path | None:
    return first_file(*inside(images, path), images / path.name) if path.name else None
