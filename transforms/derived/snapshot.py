"""Stored files as they were when they were listed, while other processes replace them.

A file is replaced by a rename, so a hard link keeps its bytes. Where the file system has no hard links, it is
copied.
"""

import os
import shutil
from pathlib import Path
from typing import Self

from transforms.derived.stored_files import StoredFile, Version, read_version


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
            link = self._folder / f"{len(self._links)}.parquet"
            self._links[file.name] = link
            if _keep(self._output / file.name, link) != file.version:
                raise ChangedFile(file.name)
        return self._links[file.name]


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
