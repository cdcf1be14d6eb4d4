"""Stored files as they were at one moment, while other processes replace them.

A file is replaced by a rename, so a hard link keeps its bytes. Where the file system has no hard links, it is
copied.
"""

import os
import shutil
from pathlib import Path
from threading import RLock
from typing import Self

Version = tuple[int, int, int]
"""Inode, size and time of change in nanoseconds: a file that was replaced has another one."""


class ChangedFile(Exception):  # noqa: N818 (an answer, not only an error)
    """A stored file was replaced or removed since it was listed."""


class Snapshot:
    """Links to stored files in a folder, as long as it is open. Threads may share it."""

    def __init__(self, output: Path, folder: Path) -> None:
        self._output, self._folder = output, folder
        self._held: dict[str, tuple[Path, Version]] = {}
        self._count = 0
        self._lock = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for link, _ in self._held.values():
            link.unlink(missing_ok=True)

    def hold(self, name: str) -> Version | None:
        """Keep a file as it is now, in place of what was kept of it; None if there is none."""
        with self._lock:
            if name in self._held:
                self._held.pop(name)[0].unlink()
            link = self._folder / f"{self._count}.parquet"
            self._count += 1
            version = _keep(self._output / name, link)
            if version is not None:
                self._held[name] = link, version
            return version

    def find(self, name: str) -> Path:
        """The path of the kept file; of one that is not kept its own."""
        return self._held[name][0] if name in self._held else self._output / name

    def link(self, name: str, version: Version) -> Path:
        """The path at which a file stays as it is.

        Raises:
            ChangedFile: it is not at this version any more, and was not kept.
        """
        with self._lock:
            if name not in self._held:
                self.hold(name)
            link, kept = self._held.get(name, (None, None))
        if link is None or kept != version:
            raise ChangedFile(name)
        return link


def read_version(stat: os.stat_result) -> Version:
    """The version of a file."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _keep(path: Path, link: Path) -> Version | None:
    """Link or copy a file; the version of what was kept, None if the file is gone."""
    try:
        os.link(path, link)
        return read_version(link.stat())
    except FileNotFoundError:
        return None
    except OSError:
        return _copy(path, link)


def _copy(path: Path, copy: Path) -> Version | None:
    try:
        with path.open("rb") as file, copy.open("wb") as target:
            shutil.copyfileobj(file, target)
            return read_version(os.fstat(file.fileno()))
    except FileNotFoundError:
        return None
