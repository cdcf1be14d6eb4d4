"""How archives are divided among readers. A part is some small files, or a range of a large file.

A range has the lines that begin in it, so each line of a file is in exactly one range. Plain files of lines
and Parquet files (by groups of rows) can be cut into ranges; gzip, zstd and encrypted files have to be read
from their beginning.
"""

from collections.abc import Iterable

from transforms.sources.archives.archive_files import FileRange, is_parquet

PART_BYTES = 32 << 20
"""About how much text a part has. A larger part makes the last reader end later; each part has a cost of its
own."""
COMPRESSION = 8
"""About how much text a byte of a compressed file or of Parquet stands for."""


Part = tuple[FileRange, ...]


def cut_parts(files: Iterable[FileRange], part_bytes: int = PART_BYTES) -> list[Part]:
    """Whole files as parts of at most about `part_bytes` of text, those with most text first.

    Small files that follow each other are in one part. Ranges of a file are of one size, and in its order.
    """
    parts: list[tuple[int, Part]] = []
    small: list[FileRange] = []
    small_bytes = 0
    for file in files:
        text_bytes = estimate_text(file)
        if text_bytes >= part_bytes:
            ranges = cut_file(file, -(-text_bytes // part_bytes))
            parts += [(text_bytes // len(ranges), (each,)) for each in ranges]
            continue
        if small and small_bytes + text_bytes > part_bytes:
            parts.append((small_bytes, tuple(small)))
            small, small_bytes = [], 0
        small.append(file)
        small_bytes += text_bytes
    if small:
        parts.append((small_bytes, tuple(small)))
    return [part for _, part in sorted(parts, key=lambda part: part[0], reverse=True)]


def cut_file(file: FileRange, count: int) -> list[FileRange]:
    """A whole file as `count` ranges, each of a byte at least; as it is if it cannot be cut."""
    can_be_cut = file.is_plain or is_parquet(file.path)
    count = max(1, min(count, file.size)) if can_be_cut else 1
    edges = [file.size * i // count for i in range(count)]
    return [file._replace(start=start, end=end) for start, end in zip(edges, [*edges[1:], None])]


def estimate_text(file: FileRange) -> int:
    """About how many bytes of text there are in a file, or in a range of it."""
    octets = (file.size if file.end is None else file.end) - file.start
    return octets if file.is_plain or file.is_encrypted else octets * COMPRESSION
