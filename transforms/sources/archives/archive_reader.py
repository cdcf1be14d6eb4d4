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
    cut_blocks,
    gunzip,
    read_plain,
    unzstd,
)
from transforms.sources.archives.envelope_blocks import decode_lines
from transforms.sources.archives.long_lines import LongLine
from transforms.sources.archives.parquet_files import decode_rows, read_rows

BLOCK_BYTES = 16 << 20
_SMALL = 4
"""A block is small below this part of the size that is asked for."""
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


class Block(NamedTuple):
    """Messages of a part of a file, or of several small files: `messages` (RAW) and `rejected` (REJECTED)."""

    messages: pa.RecordBatch
    rejected: pa.RecordBatch


class Unreadable(NamedTuple):
    """A file that cannot be read, or not to its end, and why. What could be read of it is in blocks, which
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


def read_blocks(
    path: str,
    block_bytes: int = BLOCK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Block | Unreadable]:
    """The messages of one file, about `block_bytes` of it at a time and in its order; last, why it cannot be
    read further.

    `on_bytes` is called with how many more bytes of the file on disk are done. `payload_bytes`: how long
    a payload may be; of a line that cannot hold such a one, a part is read
    (`transforms.sources.archives.long_lines`).
    """
    is_parquet = path.lower().endswith(PARQUET)
    parts = (
        _read_row_blocks(path, block_bytes)
        if is_parquet
        else _read_line_blocks(path, block_bytes, payload_bytes)
    )
    reported = 0
    try:
        for block, position in parts:
            if on_bytes and position > reported:
                on_bytes(position - reported)
                reported = position
            yield block
    except DamagedError as error:
        yield Unreadable(_printable(path), str(error))
    except OSError as error:
        yield Unreadable(_printable(path), f"cannot be read ({error.strerror or error})")


def _read_line_blocks(path: str, block_bytes: int, payload_bytes: int) -> Iterator[tuple[Block, int]]:
    """The file's blocks, and how far into it each reaches."""
    read = next(read for end, read in LINES.items() if path.lower().endswith(end))
    with open(path, "rb") as file:
        for number, text in cut_blocks(read(file), block_bytes, payload_bytes):
            raw, bad = (
                (make_empty(RAW), text.message(number))
                if isinstance(text, LongLine)
                else decode_lines(text, number)[:2]
            )
            yield Block(raw, bad), file.tell()


def _read_row_blocks(path: str, block_bytes: int) -> Iterator[tuple[Block, int]]:
    """The file's blocks, and how far into it each reaches."""
    size = os.path.getsize(path)
    first_row = 1
    for batch, share in read_rows(path, block_bytes):
        raw, bad, rows = decode_rows(batch, first_row)
        first_row += rows
        yield Block(raw, bad), int(size * share)


def read_files(
    paths: Iterable[str],
    block_bytes: int = BLOCK_BYTES,
    on_bytes: OnBytes | None = None,
    payload_bytes: int = PAYLOAD_BYTES,
) -> Iterator[Block | Unreadable]:
    """`read_blocks` of each file in turn, those of small files together; a thread reads the next while the
    caller works on one."""
    blocks = chain.from_iterable(read_blocks(path, block_bytes, on_bytes, payload_bytes) for path in paths)
    return read_ahead(_merge_small(blocks, block_bytes // _SMALL))


def _merge_small(blocks: Iterable[Block | Unreadable], least_bytes: int) -> Iterator[Block | Unreadable]:
    """The same messages in blocks of at least so many bytes, but for the last: each batch has a cost
    of its own."""
    parts: list[Block] = []
    size = 0
    for block in blocks:
        if isinstance(block, Unreadable):
            yield block
            continue
        parts.append(block)
        size += block.messages.nbytes + block.rejected.nbytes
        if size >= least_bytes:
            yield _merge_blocks(parts)
            parts, size = [], 0
    if parts:
        yield _merge_blocks(parts)


def _merge_blocks(blocks: Sequence[Block]) -> Block:
    return Block(concat([block.messages for block in blocks]), concat([block.rejected for block in blocks]))


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
    a block ahead. `payload_bytes`: see `read_blocks`.
    """

    def __init__(
        self,
        files: Iterable[str],
        block_bytes: int = BLOCK_BYTES,
        on_bytes: OnBytes | None = None,
        readers: int | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        super().__init__()
        self.files = tuple(files)
        self.readers = readers or len(self.files)
        self.block_bytes = block_bytes
        self.on_bytes = on_bytes
        self.payload_bytes = payload_bytes

    def expand(self, root: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        outputs = beam.ParDo(_Read(self.block_bytes, self.on_bytes, self.payload_bytes)).with_output_types(
            pa.RecordBatch, rejected=pa.RecordBatch, unreadable=tuple[str, str]
        )
        parts = [self.files[reader :: self.readers] for reader in range(self.readers)]
        return (
            root
            | beam.Create(parts, reshuffle=False)
            | outputs.with_outputs("rejected", "unreadable", main="messages")
        )


class _Read(beam.DoFn):
    def __init__(self, block_bytes: int, on_bytes: OnBytes | None, payload_bytes: int) -> None:
        self.block_bytes, self.on_bytes, self.payload_bytes = block_bytes, on_bytes, payload_bytes

    def process(self, files: Sequence[str]) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        for block in read_files(files, self.block_bytes, self.on_bytes, self.payload_bytes):
            if isinstance(block, Unreadable):
                yield beam.pvalue.TaggedOutput("unreadable", tuple(block))
                continue
            if block.messages.num_rows:
                yield block.messages
            if block.rejected.num_rows:
                yield beam.pvalue.TaggedOutput("rejected", block.rejected)
