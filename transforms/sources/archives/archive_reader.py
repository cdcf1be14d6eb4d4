"""Archives -> messages: files of reports or envelopes, as NDJSON (plain, gzip, zstd) or Parquet. Usable on
its own.

    archives = pipeline | ReadArchives(find_files(["archive/**/*.ndjson.gz"]))
    archives.messages         # RecordBatches of the schema RAW: source, message_id, received_at, payload
    archives.rejected         # RecordBatches of the schema REJECTED: envelopes that break the rule, and why
    archives.unreadable  # (file, reason)

The meaning of a line or a row is defined in `transforms.envelopes.envelope_lines` and
`transforms.sources.archives.parquet_files`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from typing import NamedTuple, SupportsInt, TypeVar

import apache_beam as beam
import pyarrow as pa

from schemas.kinds import KINDS
from transforms.core import arrow_coder  # noqa: F401 (carries what leaves here)
from transforms.core.reach import get_machine, verify_reach
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.sources.archives.archive_files import (
    ArchiveFiles,
    FileRange,
    identify_content,
    is_object,
    is_parquet,
    locate_file,
    make_absolute,
    open_file,
    read_lines,
)
from transforms.sources.archives.decompression import PAYLOAD_BYTES, DamagedError, cut_chunks, drop_mark
from transforms.sources.archives.envelope_chunks import decode_lines
from transforms.sources.archives.line_ranges import LineNumber, count_lines_before, read_range
from transforms.sources.archives.long_lines import LongLine
from transforms.sources.archives.parquet_files import decode_rows, read_rows
from transforms.sources.archives.parts import PART_BYTES, Part, cut_parts
from transforms.validation.message_kinds import give_kind

CHUNK_BYTES = 16 << 20
_SMALL = 4
"""A chunk is small below this part of the size that is asked for."""
OnBytes = Callable[[int], object]
T = TypeVar("T")


class Chunk(NamedTuple):
    """Messages of a part of a file, or of several small files: `messages` (RAW) and `rejected` (REJECTED)."""

    messages: pa.RecordBatch
    rejected: pa.RecordBatch

    def of_kind(self, kind: str | None) -> "Chunk":
        """The same messages, of a kind that was given with their file, if one was."""
        return Chunk(*(give_kind(batch, kind) for batch in self)) if kind else self


class Unreadable(NamedTuple):
    """A file that cannot be read, or not to its end, and why. What could be read of it is in chunks, which
    may come later."""

    file: str
    reason: str


def _printable(path: str) -> str:
    """The path as Unicode: a byte that is not UTF-8 becomes `\\xNN`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_chunks(
    file: str | FileRange,
    chunk_bytes: int = CHUNK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Chunk | Unreadable]:
    """The messages of a file, or of a range of it, about `chunk_bytes` at a time and in its order; last, why
    it cannot be read further.

    `on_bytes` is called with how many more bytes of the file on disk are done. `payload_bytes`: how long
    a payload may be; of a line that cannot hold such a one, a part is read
    (`transforms.sources.archives.long_lines`).
    """
    read = locate_file(file) if isinstance(file, str) else file
    last = read.size if read.end is None else read.end
    done = read.start
    try:
        longest = KINDS[read.kind].limit_payload(payload_bytes) if read.kind else payload_bytes
        chunks = _read_rows if is_parquet(read.path) else partial(_read_lines, payload_bytes=longest)
        for chunk, place in chunks(read, chunk_bytes):
            place = min(place, last) if read.is_cut else place
            if on_bytes and place > done:
                on_bytes(place - done)
                done = place
            yield chunk.of_kind(read.kind)
        if on_bytes and done < last:
            on_bytes(last - done)
    except DamagedError as error:
        yield Unreadable(_printable(read.path), str(error))
    except OSError as error:
        yield Unreadable(_printable(read.path), f"cannot be read ({error.strerror or error})")


def _read_lines(read: FileRange, chunk_bytes: int, payload_bytes: int) -> Iterator[tuple[Chunk, int]]:
    """The chunks of a file of lines, and how far into the file each reaches."""
    with open_file(read) as file:
        if read.is_cut and file.seek(0, os.SEEK_END) < read.size:
            raise DamagedError("is shorter than it was when the run began")
        pieces = read_range(file, read.start, read.end) if read.is_cut else read_lines(read, file)
        count_before = cache(partial(_count_lines_before, read))
        for number, text in cut_chunks(
            pieces if read.start else drop_mark(pieces), chunk_bytes, payload_bytes
        ):
            line = LineNumber(count_before, number) if read.start else number
            yield _decode(text, line), file.tell()


def _decode(text: bytes | LongLine, number: SupportsInt) -> Chunk:
    if isinstance(text, LongLine):
        return Chunk(make_empty(RAW), text.message(number))
    return Chunk(*decode_lines(text, number)[:2])


def _count_lines_before(read: FileRange) -> int:
    with open_file(read) as file:
        return count_lines_before(file, read.start, identify_content(read, file))


def _read_rows(read: FileRange, chunk_bytes: int) -> Iterator[tuple[Chunk, int]]:
    """The chunks of a Parquet file, and how far into the file each reaches."""
    with open_file(read) as file:
        last = file.seek(0, os.SEEK_END) if read.end is None else read.end
        source = file if is_object(read.path) else read.path  # Arrow reads a path faster
        for first_row, batch, share in read_rows(source, chunk_bytes, read.start, read.end):
            raw, bad, _ = decode_rows(batch, first_row)
            yield Chunk(raw, bad), read.start + int((last - read.start) * share)


def read_files(
    files: ArchiveFiles | Iterable[str | FileRange],
    chunk_bytes: int = CHUNK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Chunk | Unreadable]:
    """`read_chunks` of each file in turn, those of small files together; a thread reads the next while the
    caller works on one."""
    ranges = files.whole if isinstance(files, ArchiveFiles) else files
    chunks = chain.from_iterable(read_chunks(each, chunk_bytes, on_bytes, payload_bytes) for each in ranges)
    return read_ahead(_merge_small(chunks, chunk_bytes // _SMALL))


def _merge_small(chunks: Iterable[Chunk | Unreadable], least_bytes: int) -> Iterator[Chunk | Unreadable]:
    """The same messages in chunks of at least so many bytes, but for the last, and where a kind was given
    for some files: each batch has a cost of its own."""
    parts: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if isinstance(chunk, Unreadable):
            yield chunk
            continue
        if parts and [each.schema for each in parts[-1]] != [each.schema for each in chunk]:
            yield _merge_chunks(parts)
            parts, size = [], 0
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


class Archived(NamedTuple):
    """What `ReadArchives` gives."""

    messages: beam.PCollection
    rejected: beam.PCollection
    unreadable: beam.PCollection


class ReadArchives(beam.PTransform):
    """Nothing -> `messages` (RAW), `rejected` (REJECTED) and `unreadable` (file, reason), each file once.

    `on_bytes` is pickled with the transform, so it must be a function of a module. A reader reads
    a chunk ahead. `payload_bytes`: see `read_chunks`.
    """

    def __init__(
        self,
        files: Iterable[str],
        chunk_bytes: int = CHUNK_BYTES,
        on_bytes: OnBytes | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
        part_bytes: int = PART_BYTES,
    ) -> None:
        super().__init__()
        whole = files.whole if isinstance(files, ArchiveFiles) else map(locate_file, files)
        self.files = tuple(map(make_absolute, whole))  # a worker runs in another folder
        self.part_bytes = part_bytes
        self.chunk_bytes = chunk_bytes
        self.on_bytes = on_bytes
        self.payload_bytes = payload_bytes

    def expand(self, root: beam.pvalue.PBegin) -> Archived:
        outputs = beam.ParDo(_Read(self.chunk_bytes, self.on_bytes, self.payload_bytes)).with_output_types(
            pa.RecordBatch, rejected=pa.RecordBatch, unreadable=tuple[str, str]
        )
        # Parts are tiny, so dealing them to workers costs nothing.
        parts = root | beam.Create(cut_parts(self.files, self.part_bytes), reshuffle=True)
        found = parts | outputs.with_outputs("rejected", "unreadable", main="messages")
        by_file = found.unreadable | "By file" >> beam.GroupByKey()
        # Several parts of a file can meet the same fault.
        unreadable = by_file | "Once" >> beam.MapTuple(_take_one_reason).with_output_types(tuple[str, str])
        return Archived(found.messages, found.rejected, unreadable)


def _take_one_reason(file: str, reasons: Iterable[str]) -> tuple[str, str]:
    return file, min(reasons)


class _Read(beam.DoFn):
    def __init__(self, chunk_bytes: int, on_bytes: OnBytes | None, payload_bytes: int) -> None:
        self.chunk_bytes, self.on_bytes, self.payload_bytes = chunk_bytes, on_bytes, payload_bytes
        self.launcher = get_machine()

    def process(self, part: Part) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        for file in part:
            if not is_object(file.path):
                verify_reach(file.path, self.launcher, "input")
        for chunk in read_files(part, self.chunk_bytes, self.on_bytes, self.payload_bytes):
            if isinstance(chunk, Unreadable):
                yield beam.pvalue.TaggedOutput("unreadable", tuple(chunk))
                continue
            if chunk.messages.num_rows:
                yield chunk.messages
            if chunk.rejected.num_rows:
                yield beam.pvalue.TaggedOutput("rejected", chunk.rejected)
