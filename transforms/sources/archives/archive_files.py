"""Which files are archives, and how they are found."""

import glob
import io
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, NamedTuple, cast

from schemas.kinds import KINDS
from transforms.core.key_wrapping import KeyFinder
from transforms.envelopes.encrypted_segments import ENDING
from transforms.sources.archives.decompression import gunzip, read_plain, unzstd
from transforms.sources.archives.encrypted_files import decrypt_lines, find_closed

PARQUET = ".parquet"
LINES: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    text + ending: read
    for ending, read in (("", read_plain), (".gz", gunzip), (".zst", unzstd))
    for text in (".ndjson", ".jsonl", ".json")
}
"""How to read a file of lines, by the end of its name."""
_PLAIN = tuple(end for end, read in LINES.items() if read is read_plain)
ENCRYPTED = tuple(text + ENDING for text in (".ndjson", ".jsonl", ".json"))
"""The ends of the names of encrypted files of lines."""

OBJECT_BYTES = 8 << 20
"""How much of an object is read with one request."""

NO_ARCHIVES = ("truth.json", "_keys.json")
"""What is beside archives and is none: the generator's record of the expected fates, and the list of keys."""


class NoArchiveError(ValueError):
    """A pattern that matches no archive."""


class FileRange(NamedTuple):
    """What of a file begins at byte `start` or later, and before byte `end` (None: to the file's end).

    `size`: the file's bytes when it was found; 0 if unknown. `version`: of an object, what identifies its
    content; None if unknown. `kind`: which kind its messages are, by the name of the schema; None if each
    message's own source tells. `keys`: what opens it if it is encrypted; `is_closed`: whether its writer has
    said in it where it ends.
    """

    path: str
    start: int = 0
    end: int | None = None
    size: int = 0
    version: str | None = None
    kind: str | None = None
    keys: KeyFinder | None = None
    is_closed: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether the rest of the file is in other ranges."""
        return self.start > 0 or self.end is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether it is an encrypted file of lines."""
        return _get_name(self.path).endswith(ENCRYPTED)

    @property
    def is_plain(self) -> bool:
        """Whether it is a file of lines, neither compressed nor encrypted."""
        return _get_name(self.path).endswith(_PLAIN)


@dataclass(frozen=True)
class ArchiveFiles:
    """The whole files of a run, by path."""

    whole: tuple[FileRange, ...]

    def __iter__(self) -> Iterator[str]:
        return (file.path for file in self.whole)

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def total_bytes(self) -> int:
        """Their size on disk; what cannot be read counts as nothing."""
        return sum(file.size for file in self.whole)

    @property
    def local(self) -> list[str]:
        """The paths of this machine, or of folders that it shares: objects are reached from everywhere."""
        return [path for path in self if not is_object(path)]


def find_files(patterns: Sequence[str], keys: KeyFinder | None = None) -> ArchiveFiles:
    """The archives that any of the patterns means, each file once. `keys`: what opens encrypted ones.

    A pattern is a file, a folder (all archives below it) or a glob with `*`, `?`, `[...]` and `**`; or a URL
    of objects (`transforms.sources.archives.object_files.find_objects`). `=` and the name of a schema behind
    it say which kind its messages are (`split_kind`).

    Raises:
        NoArchiveError: a pattern matches no archive, or two give a file different kinds.
        ValueError: a URL has another form.
        Refused, Unavailable: a bucket cannot be listed.
    """
    found: dict[str, FileRange] = {}
    matches = {
        file._replace(kind=kind)
        for pattern, kind in map(split_kind, patterns)
        for file in _match_pattern(pattern)
    }
    for file in sorted(matches, key=lambda file: (file.path, file.kind or "")):
        place = file.path if is_object(file.path) else os.path.realpath(file.path)
        known = found.setdefault(place, file)
        if known.kind and file.kind and file.kind != known.kind:
            raise NoArchiveError(f"{file.path} is given as {known.kind} and as {file.kind}")
        found[place] = known._replace(kind=known.kind or file.kind)
    closed = find_closed([file.path for file in found.values()])
    return ArchiveFiles(
        tuple(
            file._replace(keys=keys, is_closed=file.path in closed) if file.is_encrypted else file
            for file in found.values()
        )
    )


def split_kind(pattern: str) -> tuple[str, str | None]:
    """A pattern without `=SCHEMA`, and that kind, if it ends in the name of one."""
    rest, mark, name = pattern.rpartition("=")
    return (rest, name) if mark and name in KINDS else (pattern, None)


def locate_file(path: str) -> FileRange:
    """A whole file, under its path or URL."""
    return FileRange(path) if is_object(path) else FileRange(path, size=_measure_file(path))


def make_absolute(file: FileRange) -> FileRange:
    """The same file under a path that does not depend on the working folder."""
    return file if is_object(file.path) else file._replace(path=os.path.abspath(file.path))


def _measure_file(path: str) -> int:
    """The size of a file in bytes; 0 if it cannot be found out."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _match_pattern(pattern: str) -> list[FileRange]:
    archives = _match_objects(pattern) if is_object(pattern) else _match_paths(pattern)
    if not archives:
        known = ", ".join([*LINES, *ENCRYPTED, PARQUET])
        kinds = f", and behind = may be {', '.join(KINDS)}" if "=" in os.path.basename(pattern) else ""
        raise NoArchiveError(
            f"{pattern!r} matches no archive; an archive is a file whose name ends in {known}{kinds}"
        )
    return archives


def _match_objects(pattern: str) -> list[FileRange]:
    from transforms.sources.archives.object_files import find_objects

    found = (FileRange(url, size=size, version=version) for url, size, version in find_objects(pattern))
    return [file for file in found if _is_archive(file.path)]


def _match_paths(pattern: str) -> list[FileRange]:
    found = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    folders = [path for path in found if os.path.isdir(path)]
    below = (glob.glob(os.path.join(glob.escape(folder), "**"), recursive=True) for folder in folders)
    archives = (os.path.normpath(path) for path in chain(found, *below))
    return [locate_file(path) for path in archives if _is_archive(path) and not os.path.isdir(path)]


def is_object(path: str) -> bool:
    """Whether a path is the URL of an object."""
    return path.startswith(("s3://", "gs://"))


def _get_name(path: str) -> str:
    """The end of a file's path, in lower case: without the options of a URL."""
    name = os.path.basename(path.rpartition("?")[0] if is_object(path) and "?" in path else path)
    return name.lower()


def _is_archive(path: str) -> bool:
    name = _get_name(path)
    return name.endswith((*LINES, *ENCRYPTED, PARQUET)) and name not in NO_ARCHIVES


def open_file(file: FileRange) -> BinaryIO:
    """The file, to be read from its beginning. `tell` and `seek` work if they do for what it is.

    Raises:
        OSError: it cannot be opened, is not there any more or, of an object, is another one.
        Refused, Unavailable: the object store cannot be used.
    """
    if not is_object(file.path):
        return open(file.path, "rb")
    from transforms.sources.archives.object_files import ObjectReader

    reader = ObjectReader(file.path, file.size, file.version)
    return cast(BinaryIO, io.BufferedReader(reader, OBJECT_BYTES))


def identify_content(file: FileRange, opened: BinaryIO) -> Hashable:
    """What an opened file has in common with no other content: to keep what was found out of it."""
    if is_object(file.path):
        return file.path, file.version
    found = os.fstat(opened.fileno())
    return file.path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_parquet(path: str) -> bool:
    """Whether an archive holds rows, and not lines."""
    return _get_name(path).endswith(PARQUET)


def read_lines(file: FileRange, opened: BinaryIO) -> Iterator[bytes]:
    """The text of an archive of lines, a piece at a time.

    Raises:
        DamagedError: it cannot be decompressed or decrypted; after the text before that.
        Refused, Unavailable: its key is not available.
    """
    if file.is_encrypted:
        return decrypt_lines(opened, file.path, file.keys, file.is_closed)
    read = next(read for end, read in LINES.items() if _get_name(file.path).endswith(end))
    return read(opened)
