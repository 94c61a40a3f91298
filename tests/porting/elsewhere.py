"""A path that the operating system does not know, as behind gs://: only its own methods reach what is there."""

from pathlib import Path

from etils import epath


class Elsewhere:
    """What stands in a local folder, called gs://bucket/...; the record of a file is epath's, and nothing can be renamed."""

    def __init__(self, path: Path, called: str = "gs://bucket"):
        self._path, self._called, self.name = Path(path), called, called.rpartition("/")[2]

    def open(self, mode="r"):
        return self._path.open(mode)

    def read_text(self, encoding=None):
        return self._path.read_text(encoding=encoding)

    def read_bytes(self):
        return self._path.read_bytes()

    def write_text(self, text, encoding=None):
        return self._path.write_text(text, encoding=encoding)

    def exists(self):
        return self._path.exists()

    def is_dir(self):
        return self._path.is_dir()

    def iterdir(self):
        return (self / path.name for path in self._path.iterdir())

    def mkdir(self, parents=False, exist_ok=False):
        self._path.mkdir(parents=parents, exist_ok=exist_ok)

    def rmtree(self):
        epath.Path(self._path).rmtree()

    def stat(self):
        return epath.Path(self._path).stat()

    def __truediv__(self, name):
        return Elsewhere(self._path / name, f"{self._called}/{name}")

    def __str__(self):
        return self._called
