"""Stored files as they were at one moment, while other processes replace them.

A file is replaced by a rename, so a hard link keeps its bytes. Where the file system has no hard links, it is
copied.
"""

import os
import shutil
from collections.abc import Hashable
from pathlib import Path
from threading import RLock
from typing import Self

from transforms.core.durable_files import read_version
from transforms.sinks.parquet.output_files import OutputFile


class ChangedFile(Exception):  # noqa: N818 (an answer, not only an error)
    """A stored file was replaced or removed since it was listed."""


class FileSnapshot:
    """Links to stored files in an empty folder, as long as it is open. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[OutputFile, tuple[Path, Hashable]] = {}
        self._count = 0
        self._lock = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for link, _ in self._held.values():
            link.unlink(missing_ok=True)

    def hold(self, file: OutputFile) -> Hashable | None:
        """Keep a file of this machine as it is now, in place of what was kept of it; its version, None if
        there is none."""
        return self._hold(file, None)

    def find(self, file: OutputFile) -> Path | None:
        """The path of the kept file; of one that is not kept its own."""
        return self._held[file][0] if file in self._held else file.path

    def link(self, file: OutputFile, version: Hashable) -> Path:
        """The path at which a file stays as it is.

        Of a file on object storage it is a copy; a batch that changes it in the meantime ends with deriving.

        Raises:
            ChangedFile: it is not at this version any more, and was not kept.
        """
        with self._lock:
            if file not in self._held:
                self._hold(file, version)
            link, kept = self._held.get(file, (None, None))
        if link is None or kept != version:
            raise ChangedFile(str(file))
        return link

    def _hold(self, file: OutputFile, version: Hashable | None) -> Hashable | None:
        with self._lock:
            if file in self._held:
                self._held.pop(file)[0].unlink()
            link = self._folder / f"{self._count}.parquet"
            self._count += 1
            kept = _keep(file.path, link) if file.path else _fetch(file, link, version)
            if kept is not None:
                self._held[file] = link, kept
            return kept


def _keep(path: Path, link: Path) -> Hashable | None:
    """Link or copy a file; the version of what was kept, None if the file is gone."""
    try:
        os.link(path, link)
        return read_version(link.stat())
    except FileNotFoundError:
        return None
    except FileExistsError:  # a link of a pass that died: to write there would write into the stored file
        raise
    except OSError:
        return _copy(path, link)


def _copy(path: Path, copy: Path) -> Hashable | None:
    try:
        with path.open("rb") as file, copy.open("xb") as target:
            shutil.copyfileobj(file, target)
            return read_version(os.fstat(file.fileno()))
    except FileNotFoundError:
        return None


def _fetch(file: OutputFile, copy: Path, version: Hashable | None) -> Hashable | None:
    stored = file.get()
    if stored is None:
        return None
    with copy.open("xb") as target:
        target.write(stored.data)
    return version
