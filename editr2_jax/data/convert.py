"""A session folder, written again with its pictures in ArrayRecord shards (data/shards.py), which tfds can be told to open too.

Pictures keep their bytes and sessions their ids, order, subsets and flags: a stream over the copy is the stream over the original. The
folder appears when all of it is written; what stood there before is never touched.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editr2_jax.data import quality_flags, session_source, shards
from editr2_jax.data.session_source import SessionFolder
from editr2_jax.records import Session
from editr2_jax.runtime import places

LAYOUTS = ("array_record", "tfds")


def to_shards(
    path: str | Path, out: str | Path, *, to: str = "array_record", count: int = 1, subset_default: str | None = None
) -> dict[str, Any]:
    """Writes every split of a session folder; returns the manifest, {"format", "version", "splits": {split: {"sessions", "pictures",
    "metadata": {"file", "sha256"}, "shards": [{"file", "sessions", "bytes", "sha256"}]}}}.

    to: array_record, or tfds for a folder that tfds.builder_from_directory opens as well. count: shards of every split. Every picture is
    decoded on the way. Raises BadSessions and ValueError for whatever is wrong with the sessions, and for a folder that is taken.
    """
    if to not in LAYOUTS:
        raise ValueError(f"--to is {to!r}; choose one of {', '.join(LAYOUTS)}.")
    sources = {
        split: SessionFolder(path, split, subset_default=subset_default, drop_invalid=False) for split in session_source.splits(path)
    }
    for split, source in sources.items():
        if not 1 <= count <= len(source):
            raise ValueError(f"--shards is {count}, but the split {split} has {len(source)} sessions; give 1 to {len(source)}.")
    if to == "tfds" and (odd := [split for split in sources if not re.fullmatch(r"[A-Za-z0-9_-]+", split) or split == "all"]):
        raise ValueError(f"tfds knows no split {odd[0]!r}: letters, digits, _ and - alone, and not all; rename its metadata file.")
    manifest = {"format": shards.FORMAT, "version": shards.VERSION, "splits": {}}
    with places.whole_folder(out) as folder, _staged(folder) as here:
        for split, source in sources.items():
            manifest["splits"][split] = _write_split(here, split, source, count)
        flags = list(_flag_lines(sources))
        if flags:
            (here / quality_flags.FILE).write_text("".join(flags), encoding="utf-8")
        if to == "tfds":
            _describe(here, manifest["splits"])
        (here / shards.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


class _staged:
    """A local folder itself; for a remote one a temporary folder, whose files are copied there when all of them are written."""

    def __init__(self, folder: Any):
        self._folder = folder

    def __enter__(self) -> Path:
        self._temporary = None if places.is_local(self._folder) else tempfile.TemporaryDirectory()
        return Path(self._folder if self._temporary is None else self._temporary.name)

    def __exit__(self, kind, error, trace) -> None:
        if self._temporary is None:
            return
        with self._temporary as name:
            files = sorted(Path(name).iterdir(), key=lambda file: (file.suffix == ".jsonl", file.name == shards.MANIFEST))
            for file in files if kind is None else ():  # metadata after the shards: without them it would be a folder of loose pictures
                with file.open("rb") as source, (self._folder / file.name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)


def _write_split(folder: Path, split: str, source: SessionFolder, count: int) -> dict[str, Any]:
    lines = [_line(session, source) for session in source.sessions]
    metadata = folder / f"{split}_metadata.jsonl"
    metadata.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    written = []
    for shard, rows in enumerate(np.array_split(np.arange(len(lines)), count)):
        file = folder / shards.file_name(split, shard, count)
        sizes = _write_shard(file, [(source.sessions[row], lines[row]) for row in rows], source)
        written.append({"file": file.name, "sessions": len(rows), "bytes": sizes, "sha256": shards.digest(file)})
    return {
        "sessions": len(lines),
        "pictures": sum(len(shards.pictures_of(session)) for session in source.sessions),
        "metadata": {"file": metadata.name, "sha256": shards.digest(metadata)},
        "shards": written,
    }


def _line(session: Session, source: SessionFolder) -> str:
    return json.dumps(session_source.to_record(session, source.path), ensure_ascii=False)


def _write_shard(file: Path, sessions: Sequence[tuple[Session, str]], source: SessionFolder) -> int:
    """The bytes of the records written."""
    from array_record.python import array_record_module

    writer, size = array_record_module.ArrayRecordWriter(str(file), "group_size:1"), 0  # one record a chunk: they are read one by one
    try:
        for session, line in sessions:
            image, *targets = (source.encoded(path) for path in shards.pictures_of(session))
            record = shards.features().serialize_example({"id": session.id, "session": line, "image": image, "targets": targets})
            writer.write(record)
            size += len(record)
    finally:
        writer.close()
    return size


def _flag_lines(sources: dict[str, SessionFolder]) -> Iterator[str]:
    for split, source in sources.items():
        for row, session in enumerate(source.sessions):
            if session.id in source.flags:
                yield quality_flags.to_line(split, row, source.flags[session.id]) + "\n"


def _describe(folder: Path, splits: dict[str, Any]) -> None:
    """features.json and dataset_info.json, by tfds itself; its own check of the data is left out, for it needs tensorflow."""
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["sessions"] for shard in told["shards"]],
            num_bytes=sum(shard["bytes"] for shard in told["shards"]),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=shards.NAME, split=split, filetype_suffix="array_record", template=shards.TEMPLATE
            ),
        )
        for split, told in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=shards.features(),
        split_infos=infos,
        filename_template=shards.TEMPLATE,
        description="Editing sessions: `session` is the record as JSON, `image` the source picture, `targets` one picture a turn.",
        check_data=False,
    )
