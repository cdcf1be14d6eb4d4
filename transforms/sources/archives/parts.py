"""How archives are divided among readers. A part is some small files, or a range of a large file.

A range has the lines that begin in it, so each line of a file is in exactly one range. Plain files of lines
and Parquet files (by groups of rows) can be cut into ranges; gzip and zstd have to be read from their
beginning.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transforms.sources.archives.archive_files import choose_reader, is_parquet
from transforms.sources.archives.decompression import read_plain

PART_BYTES = 32 << 20
"""About how much text a part has. A larger part makes the last reader end later; each part has a cost of its
own."""
COMPRESSION = 8
"""About how much text a byte of a compressed file or of Parquet stands for."""


class FileRange(NamedTuple):
    """What of a file begins at byte `start` or later, and before byte `end` (None: to the file's end).

    `size`: the file's bytes when it was cut; 0 if unknown.
    """

    path: str
    start: int = 0
    end: int | None = None
    size: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether the rest of the file is in other ranges."""
        return self.start > 0 or self.end is not None


Part = tuple[FileRange, ...]


def cut_parts(sizes: Iterable[tuple[str, int]], part_bytes: int = PART_BYTES) -> list[Part]:
    """Files, given as (path, bytes), as parts of at most about `part_bytes` of text, those with most text
    first.

    Small files that follow each other are in one part. Ranges of a file are of one size, and in its order.
    """
    parts: list[tuple[int, Part]] = []
    small: list[FileRange] = []
    small_bytes = 0
    for path, size in sizes:
        text_bytes = size if is_plain(path) else size * COMPRESSION
        if text_bytes >= part_bytes:
            ranges = cut_file(path, size, -(-text_bytes // part_bytes))
            parts += [(text_bytes // len(ranges), (each,)) for each in ranges]
            continue
        if small and small_bytes + text_bytes > part_bytes:
            parts.append((small_bytes, tuple(small)))
            small, small_bytes = [], 0
        small.append(FileRange(path, size=size))
        small_bytes += text_bytes
    if small:
        parts.append((small_bytes, tuple(small)))
    return [part for _, part in sorted(parts, key=lambda part: part[0], reverse=True)]


def cut_file(path: str, size: int, count: int) -> list[FileRange]:
    """A file of `size` bytes as `count` ranges, each of a byte at least; as a whole if it cannot be cut."""
    count = max(1, min(count, size)) if is_plain(path) or is_parquet(path) else 1
    edges = [size * i // count for i in range(count)]
    return [FileRange(path, start, end, size) for start, end in zip(edges, [*edges[1:], None])]


def deal_parts(parts: Sequence[Part], readers: int) -> list[Part]:
    """The parts as one for each reader; about equal, if those with most text come first."""
    dealt = [sum(parts[reader::readers], ()) for reader in range(readers)]
    return [part for part in dealt if part]


def is_plain(path: str) -> bool:
    """Whether a file is lines of text that is not compressed."""
    return not is_parquet(path) and choose_reader(path) is read_plain
