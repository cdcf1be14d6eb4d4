"""Archives -> messages: files of reports or envelopes, as NDJSON (plain, gzip, zstd) or Parquet. Usable on
its own.

    archives = pipeline | ReadArchives(find_files(["archive/**/*.ndjson.gz"]))
    archives.messages         # RecordBatches of the schema RAW: source, message_id, received_at, payload
    archives.rejected         # RecordBatches of the schema REJECTED: envelopes that break the rule, and why
    archives.unreadable  # (file, reason)

The meaning of a line or a row is defined in `transforms.envelopes.envelope_lines` and
`transforms.sources.archives.parquet_files`.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, NamedTuple, TypeVar

import apache_beam as beam
import pyarrow as pa

from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.sources.archives.decompression import (
    PAYLOAD_BYTES,
    DamagedError,
    cut_chunks,
    gunzip,
    read_plain,
    unzstd,
)
from transforms.sources.archives.envelope_chunks import decode_lines
from transforms.sources.archives.long_lines import LongLine
from transforms.sources.archives.parquet_files import decode_rows, read_rows

CHUNK_BYTES = 16 << 20
_SMALL = 4
"""A chunk is small below this part of the size that is asked for."""
PARQUET = ".parquet"
LINES: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    text + ending: read
    for ending, read in (("", read_plain), (".gz", gunzip), (".zst", unzstd))
    for text in (".ndjson", ".jsonl", ".json")
}
"""How to read a file of lines, by the end of its name."""

NO_ARCHIVE = "truth.json"
"""The generator's record of the expected fates; it is beside the archives, and is not one."""

OnBytes = Callable[[int], object]
T = TypeVar("T")


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
        return sum(os.path.getsize(path) for path in self if os.path.exists(path))


class Chunk(NamedTuple):
    """Messages of a part of a file, or of several small files: `messages` (RAW) and `rejected` (REJECTED)."""

    messages: pa.RecordBatch
    rejected: pa.RecordBatch


class Unreadable(NamedTuple):
    """A file that cannot be read, or not to its end, and why. What could be read of it is in chunks, which
    may come later."""

    file: str
    reason: str


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


def _printable(path: str) -> str:
    """The path as Unicode: a byte that is not UTF-8 becomes `\\xNN`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_chunks(
    path: str,
    chunk_bytes: int = CHUNK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Chunk | Unreadable]:
    """The messages of one file, about `chunk_bytes` of it at a time and in its order; last, why it cannot be
    read further.

    `on_bytes` is called with how many more bytes of the file on disk are done. `payload_bytes`: how long
    a payload may be; of a line that cannot hold such a one, a part is read
    (`transforms.sources.archives.long_lines`).
    """
    is_parquet = path.lower().endswith(PARQUET)
    parts = (
        _read_row_chunks(path, chunk_bytes)
        if is_parquet
        else _read_line_chunks(path, chunk_bytes, payload_bytes)
    )
    reported = 0
    try:
        for chunk, position in parts:
            if on_bytes and position > reported:
                on_bytes(position - reported)
                reported = position
            yield chunk
    except DamagedError as error:
        yield Unreadable(_printable(path), str(error))
    except OSError as error:
        yield Unreadable(_printable(path), f"cannot be read ({error.strerror or error})")


def _read_line_chunks(path: str, chunk_bytes: int, payload_bytes: int) -> Iterator[tuple[Chunk, int]]:
    """The file's chunks, and how far into it each reaches."""
    read = next(read for end, read in LINES.items() if path.lower().endswith(end))
    with open(path, "rb") as file:
        for number, text in cut_chunks(read(file), chunk_bytes, payload_bytes):
            raw, bad = (
                (make_empty(RAW), text.message(number))
                if isinstance(text, LongLine)
                else decode_lines(text, number)[:2]
            )
            yield Chunk(raw, bad), file.tell()


def _read_row_chunks(path: str, chunk_bytes: int) -> Iterator[tuple[Chunk, int]]:
    """The file's chunks, and how far into it each reaches."""
    size = os.path.getsize(path)
    first_row = 1
    for batch, share in read_rows(path, chunk_bytes):
        raw, bad, rows = decode_rows(batch, first_row)
        first_row += rows
        yield Chunk(raw, bad), int(size * share)


def read_files(
    paths: Iterable[str],
    chunk_bytes: int = CHUNK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Chunk | Unreadable]:
    """`read_chunks` of each file in turn, those of small files together; a thread reads the next while the
    caller works on one."""
    chunks = chain.from_iterable(read_chunks(path, chunk_bytes, on_bytes, payload_bytes) for path in paths)
    return read_ahead(_merge_small(chunks, chunk_bytes // _SMALL))


def _merge_small(chunks: Iterable[Chunk | Unreadable], least_bytes: int) -> Iterator[Chunk | Unreadable]:
    """The same messages in chunks of at least so many bytes, but for the last: each batch has a cost
    of its own."""
    parts: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if isinstance(chunk, Unreadable):
            yield chunk
            continue
        parts.append(chunk)
        size += chunk.messages.nbytes + chunk.rejected.nbytes
        if size >= least_bytes:
            yield _merge_chunks(parts)
            parts, size = [], 0
    if parts:
        yield _merge_chunks(parts)


def _merge_chunks(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(concat([chunk.messages for chunk in chunks]), concat([chunk.rejected for chunk in chunks]))


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items (none is None), each of them made by a thread while the caller works on the one before."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


class ReadArchives(beam.PTransform):
    """Nothing -> `messages` (RAW), `rejected` (REJECTED) and `unreadable` (file, reason).

    `on_bytes` is pickled with the transform, so it must be a function of a module. `readers`: how many
    workers can read at once, by default as many as there are files; each reads its files one after the other,
    a chunk ahead. `payload_bytes`: see `read_chunks`.
    """

    def __init__(
        self,
        files: Iterable[str],
        chunk_bytes: int = CHUNK_BYTES,
        on_bytes: OnBytes | None = None,
        readers: int | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        super().__init__()
        self.files = tuple(files)
        self.readers = readers or len(self.files)
        self.chunk_bytes = chunk_bytes
        self.on_bytes = on_bytes
        self.payload_bytes = payload_bytes

    def expand(self, root: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        outputs = beam.ParDo(_Read(self.chunk_bytes, self.on_bytes, self.payload_bytes)).with_output_types(
            pa.RecordBatch, rejected=pa.RecordBatch, unreadable=tuple[str, str]
        )
        parts = [self.files[reader :: self.readers] for reader in range(self.readers)]
        return (
            root
            | beam.Create(parts, reshuffle=False)
            | outputs.with_outputs("rejected", "unreadable", main="messages")
        )


class _Read(beam.DoFn):
    def __init__(self, chunk_bytes: int, on_bytes: OnBytes | None, payload_bytes: int) -> None:
        self.chunk_bytes, self.on_bytes, self.payload_bytes = chunk_bytes, on_bytes, payload_bytes

    def process(self, files: Sequence[str]) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        for chunk in read_files(files, self.chunk_bytes, self.on_bytes, self.payload_bytes):
            if isinstance(chunk, Unreadable):
                yield beam.pvalue.TaggedOutput("unreadable", tuple(chunk))
                continue
            if chunk.messages.num_rows:
                yield chunk.messages
            if chunk.rejected.num_rows:
                yield beam.pvalue.TaggedOutput("rejected", chunk.rejected)
