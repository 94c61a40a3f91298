"""Pictures of a session folder in ArrayRecord shards: few large files in place of many small ones.

    DIR/SPLIT_metadata.jsonl                               as in any session folder: sessions load, and come in order, from here
    DIR/sessions-SPLIT.array_record-00000-of-00004         record k, counted through the shards, is line k: a tf.train.Example with
                                                           id, session (the line), image and targets (files as they were)
    DIR/manifest.json                                      counts and SHA-256 digests of them
    DIR/features.json, DIR/dataset_info.json               with `--to=tfds`: tfds.builder_from_directory(DIR) opens the same shards

Written by data/convert.py. tensorflow is not needed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editr2_jax.data.session_record import Kind, Problem
from editr2_jax.records import Session
from editr2_jax.runtime import places

MANIFEST, FORMAT, VERSION = "manifest.json", "editr2_jax session shards", 1
NAME = "sessions"  # of the data set, in file names
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # tfds' own
_AGAIN = "copy the whole folder again, or convert once more."


def file_name(split: str, shard: int, shards: int) -> str:
    return f"{NAME}-{split}.array_record-{shard:05}-of-{shards:05}"


def pictures_of(session: Session) -> list[str]:
    """Paths of the pictures in a session's record: its source, then its targets where every turn has one."""
    targets = [turn.target for turn in session.turns]
    return [session.image, *targets] if None not in targets else [session.image]


@functools.cache
def features() -> Any:
    """What a record holds, as tfds features."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    return kinds.FeaturesDict(
        {"id": kinds.Text(), "session": kinds.Text(), "image": kinds.Image(), "targets": kinds.Sequence(kinds.Image())}
    )


def is_sharded(folder: Any) -> bool:
    return (folder / MANIFEST).exists()


def digest(file: Any) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def damage(folder: Any, split: str) -> list[Problem]:
    """Files of a split that are missing, or are not what the manifest says."""
    told = _told(folder, split)
    problems = []
    for entry in (told["metadata"], *told["shards"]):
        file = folder / entry["file"]
        wrong = "is missing" if not file.exists() else "" if digest(file) == entry["sha256"] else f"differs from its digest in {MANIFEST}"
        if wrong:
            problems.append(Problem(file=str(file), line=0, kind=Kind.PICTURE, message=f"the file {wrong}; {_AGAIN}"))
    return problems


class Sharded:
    """The pictures of one split by the paths that its sessions give.

    A shard is opened when the first of its pictures is asked for; one behind an address is then copied to a temporary folder, for
    ArrayRecord reads local files alone.
    """

    def __init__(self, folder: Any, split: str, sessions: Sequence[Session]):
        """sessions: all lines of the metadata file. Raises ValueError where shards, metadata and manifest do not belong together."""
        told = _told(folder, split)
        metadata = folder / told["metadata"]["file"]
        sizes = [shard["sessions"] for shard in told["shards"]]
        if not len(sessions) == sum(sizes) == told["sessions"] or digest(metadata) != told["metadata"]["sha256"]:
            raise ValueError(f"{metadata}: not the file that {MANIFEST} speaks of; its shards hold other sessions: {_AGAIN}")
        self._files = [folder / shard["file"] for shard in told["shards"]]
        for file in self._files:
            if not file.exists():
                raise ValueError(f"{file} is missing, a shard of the split {split}; {_AGAIN}")
        self._places = [(shard, number) for shard, size in enumerate(sizes) for number in range(size)]  # of the records, in their order
        self._sizes, self._opened, self._lock, self._temporary = sizes, {}, threading.Lock(), None
        self._where = {
            path: (record, number) for record, session in enumerate(sessions) for number, path in enumerate(pictures_of(session))
        }

    def has(self, path: str) -> bool:
        return path in self._where

    def encoded(self, path: str) -> bytes:
        """The file of a picture, byte for byte. Raises ValueError for a path that no session has."""
        if path not in self._where:
            raise ValueError(f"{path} is no picture of these shards; give a path that one of the sessions names.")
        record, picture = self._where[path]
        shard, number = self._places[record]
        found = _parser().parse_example(self._records(shard)[number])
        return bytes(found["image"] if picture == 0 else found["targets"][picture - 1])

    def _records(self, shard: int) -> Sequence[bytes]:
        import grain

        with self._lock:
            if shard not in self._opened:
                records = grain.sources.ArrayRecordDataSource(str(self._at_hand(self._files[shard])))
                if len(records) != self._sizes[shard]:
                    raise ValueError(f"{self._files[shard]}: {len(records)} sessions, {self._sizes[shard]} in {MANIFEST}; {_AGAIN}")
                self._opened[shard] = records
            return self._opened[shard]

    def _at_hand(self, file: Any) -> Path:
        if places.is_local(file):
            return file
        self._temporary = self._temporary or tempfile.TemporaryDirectory()  # goes with the last user of the pictures
        copy = Path(self._temporary.name) / file.name
        with file.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        return copy


@functools.cache
def _parser() -> Any:
    from tensorflow_datasets.core import example_parser

    return example_parser.ExampleParserNp(features().get_serialized_info())


def _told(folder: Any, split: str) -> Mapping[str, Any]:
    """What the manifest says of a split."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{file}: format {manifest['format']!r} {manifest['version']}, not {FORMAT!r} {VERSION}; convert once more.")
        told = manifest["splits"][split]
        return {name: told[name] for name in ("sessions", "metadata", "shards")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a manifest that tells of the split {split} ({error!r}); {_AGAIN}") from error
