"""Where the pictures of sessions lie: as files below their folder, on a local disk or behind an address such as gs://bucket/folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from editr2_jax.runtime import places


class Pictures(Protocol):
    """Encoded pictures by their paths. Thread-safe: pictures are read in the background."""

    def has(self, path: str) -> bool: ...

    def encoded(self, path: str) -> bytes | None:
        """The bytes of the file; None where they lie at `path` on a local disk. Raises ValueError where there are none."""
        ...


class Loose:
    """Pictures as files. A remote folder is listed once, not asked for every file."""

    def __init__(self):
        self._listed: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        if "://" not in path:
            return os.path.isfile(path)
        folder, _, name = path.rpartition("/")
        if folder not in self._listed:
            there = places.place(folder)
            self._listed[folder] = frozenset(file.name for file in there.iterdir()) if there.exists() else frozenset()
        return name in self._listed[folder]

    def encoded(self, path: str) -> bytes | None:
        if "://" not in path:
            return None
        try:
            return places.place(path).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing; put the picture there or remove its session.") from error


class Several:
    """Pictures of folders side by side, each of which has its own."""

    def __init__(self, folders: Mapping[str, Pictures]):
        self._folders = folders

    def has(self, path: str) -> bool:
        return self._of(path).has(path)

    def encoded(self, path: str) -> bytes | None:
        return self._of(path).encoded(path)

    def _of(self, path: str) -> Pictures:
        for folder, pictures in self._folders.items():
            if path.startswith(f"{folder}/"):
                return pictures
        raise ValueError(f"{path} is no picture of {', '.join(self._folders)}; give a path that one of the sessions names.")
