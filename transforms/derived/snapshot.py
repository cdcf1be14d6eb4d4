"""Stored files as they were when they were listed, while other processes replace them.

A file is replaced by a rename, so a hard link keeps its bytes. Where the file system has no hard links, it is
copied.
"""

import os
import shutil
from pathlib import Path
from typing import Self

from transforms.derived.stored_files import StoredFile, read_version


class ChangedFile(Exception):  # noqa: N818 (an answer, not only an error)
    """A stored file was replaced or removed since it was listed."""


class Snapshot:
    """Links to stored files in a folder, as long as it is open."""

    def __init__(self, output: Path, folder: Path) -> None:
        self._output, self._folder = output, folder
        self._links: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for link in self._links.values():
            link.unlink(missing_ok=True)

    def link(self, file: StoredFile) -> Path:
        """The path at which the file stays as it is.

        Raises:
            ChangedFile: it is another one by now.
        """
        if file.name not in self._links:
            self._links[file.name] = self._folder / f"{len(self._links)}.parquet"
            self._keep(self._output / file.name, self._links[file.name])
        link = self._links[file.name]
        if read_version(link.stat()) != file.version:
            raise ChangedFile(file.name)
        return link

    def _keep(self, path: Path, link: Path) -> None:
        try:
            try:
                os.link(path, link)
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                _copy(path, link)
        except FileNotFoundError as error:
            raise ChangedFile(str(path)) from error


def _copy(path: Path, link: Path) -> None:
    """Copy a file with its time of change."""
    with path.open("rb") as file, link.open("wb") as copy:
        shutil.copyfileobj(file, copy)
        stat = os.fstat(file.fileno())
    os.utime(link, ns=(stat.st_atime_ns, stat.st_mtime_ns))
