"""Which files are archives, and how they are found."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from transforms.sources.archives.decompression import gunzip, read_plain, unzstd

PARQUET = ".parquet"
LINES: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    text + ending: read
    for ending, read in (("", read_plain), (".gz", gunzip), (".zst", unzstd))
    for text in (".ndjson", ".jsonl", ".json")
}
"""How to read a file of lines, by the end of its name."""

NO_ARCHIVE = "truth.json"
"""The generator's record of the expected fates; it is beside the archives, and is not one."""


class NoArchiveError(ValueError):
    """A pattern that matches no archive."""


@dataclass(frozen=True)
class Files:
    """The paths of a run's files, sorted."""

    paths: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def total_bytes(self) -> int:
        """Their size on disk; what cannot be read counts as nothing."""
        return sum(map(measure_file, self))


def measure_file(path: str) -> int:
    """The size of a file in bytes; 0 if it cannot be found out."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def find_files(patterns: Sequence[str]) -> Files:
    """The archives that any of the patterns means, each file once.

    A pattern is a file, a folder (all archives below it) or a glob with `*`, `?`, `[...]` and `**`.

    Raises:
        NoArchiveError: a pattern matches no archive.
    """
    paths: dict[str, str] = {}
    for path in sorted({path for pattern in patterns for path in _match_pattern(pattern)}):
        paths.setdefault(os.path.realpath(path), path)
    return Files(tuple(paths.values()))


def _match_pattern(pattern: str) -> Iterable[str]:
    found = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    folders = [path for path in found if os.path.isdir(path)]
    below = (glob.glob(os.path.join(glob.escape(folder), "**"), recursive=True) for folder in folders)
    archives = {os.path.normpath(path) for path in chain(found, *below) if _is_archive(path)}
    if not archives:
        known = ", ".join([*LINES, PARQUET])
        raise NoArchiveError(
            f"{pattern!r} matches no archive; an archive is a file whose name ends in {known}"
        )
    return archives


def _is_archive(path: str) -> bool:
    name = os.path.basename(path).lower()
    return name.endswith((*LINES, PARQUET)) and name != NO_ARCHIVE and not os.path.isdir(path)


def is_parquet(path: str) -> bool:
    """Whether an archive holds rows, and not lines."""
    return path.lower().endswith(PARQUET)


def choose_reader(path: str) -> Callable[[BinaryIO], Iterator[bytes]]:
    """How to read an archive of lines."""
    return next(read for end, read in LINES.items() if path.lower().endswith(end))
