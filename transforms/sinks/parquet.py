"""Writing a table: each row goes to its file, and a file becomes the union of what it holds and what is new.

`WriteTable` gathers the rows of a bundle so that a flush writes each file once; `write` is that flush, and needs no Beam.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from schemas.tables import DUPLICATES, Table, files, named
from transforms.batches import concat, empty, extended
from transforms.sinks.files import damaged, encode, locked, read, replace, verify
from transforms.sinks.union import Ints, conformed, sort_order, union
from transforms.stages import timed

FLUSH_BYTES = 1 << 30
"""Rows of a bundle are held back up to this many bytes."""
THREADS = 2


class Written(NamedTuple):
    """What a write changed: rows that are new in a file or stand for an older one, and files replaced."""

    rows: int
    files: int


class _Part(NamedTuple):
    """A file, and the rows that go there."""

    path: Path
    indices: Ints


class _Merged(NamedTuple):
    """A file's next content, empty when it stays as it is; how many new rows it takes; the messages it displaces."""

    path: Path
    data: bytes | bytearray
    taken: int
    displaced: pa.RecordBatch


def write(table: Table, output: Path, rows: Sequence[pa.RecordBatch], file_minutes: int) -> Written:
    """Add rows to the files of a table below `output`; afterwards they are on disk.

    Batches hold the table's columns in any order, further ones are ignored. Each file is replaced at most once, under the lock of
    its folder, and not at all when nothing in it changes. Messages whose report another message already is go to the duplicates
    table *before* the reports are replaced: a crash in between leaves a message in two tables, of which reconcile counts one,
    never in none.

    Raises:
        OutputFull: no space is left; files written so far are whole, the same call again completes the rest.
        DamagedFile: a file that would be merged is not as it was written.
    """
    if not rows:
        return Written(0, 0)
    gathered = concat([conformed(batch, table.schema) for batch in rows])
    folders: dict[Path, list[_Part]] = defaultdict(list)
    for path, indices in _routed(table, gathered, file_minutes):
        folders[(output / path).parent].append(_Part(output / path, indices))
    with ThreadPoolExecutor(THREADS) as pool:
        taken = list(pool.map(partial(_write_folder, table, output, gathered, file_minutes), folders, folders.values()))
    counts = [count for folder in taken for count in folder]
    return Written(sum(counts), len(counts))


def _routed(table: Table, rows: pa.RecordBatch, file_minutes: int) -> Iterator[tuple[str, Ints]]:
    """The path of each file, relative to the output, and int64[m]: its rows, in the table's order, so that none is sorted twice."""
    codes, paths = files(table, rows, file_minutes)
    keys = extended(rows.select(table.order), [(pa.field("file", pa.int64()), pa.array(codes))])
    order = sort_order(keys, ("file", *table.order))
    ends = np.cumsum(np.bincount(codes, minlength=len(paths)))
    yield from zip(paths, np.split(order, ends[:-1]))


def _write_folder(
    table: Table, output: Path, rows: pa.RecordBatch, file_minutes: int, folder: Path, parts: Sequence[_Part]
) -> list[int]:
    """Merge some rows into the files of a folder; the number of rows that each file that changed has taken."""
    with locked(folder):
        merged = [_merge(table, part.path, rows.take(pa.array(part.indices))) for part in parts]
        displaced = concat([one.displaced for one in merged])
        if displaced.num_rows:
            write(DUPLICATES, output, [displaced], file_minutes)
        changed = [one for one in merged if one.taken]
        for one in changed:
            replace(one.path, one.data)
    return [one.taken for one in changed]


def _merge(table: Table, path: Path, new: pa.RecordBatch) -> _Merged:
    """The union of a file, if there is one, and new rows."""
    stored = empty(table.schema)
    if path.exists():
        if problem := verify(path):
            raise damaged(path, problem)
        stored = read(path)
    merged = union(table, stored, new)
    return _Merged(path, encode(merged.rows) if merged.taken else b"", merged.taken, merged.displaced)


@dataclass(eq=False)
class WriteTable(beam.PTransform):
    """RecordBatches of a table's columns -> files below `output`, in which each key stands once.

    Every bundle is on disk when it is done. `file_minutes` (a divisor of 60) is the span of a `<HHMM>.parquet`. Counters, in the
    namespace `sink`: `rows_written` (new, or standing for an older row) and `files_written`.
    """

    table: Table
    output: Path
    file_minutes: int

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.ParDo(_Write(self.table.name, str(self.output), self.file_minutes))


class _Write(beam.DoFn):
    """Gathers a bundle's rows and writes them at its end, or when they are many."""

    def __init__(self, table: str, output: str, file_minutes: int) -> None:
        self.table, self.output, self.file_minutes = table, output, file_minutes
        self.rows_written = Metrics.counter("sink", "rows_written")
        self.files_written = Metrics.counter("sink", "files_written")

    def start_bundle(self) -> None:
        self.held: list[pa.RecordBatch] = []
        self.held_bytes = 0

    def process(self, batch: pa.RecordBatch) -> None:
        self.held.append(batch)
        self.held_bytes += batch.nbytes
        if self.held_bytes >= FLUSH_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        with timed(f"write {self.table}", sum(batch.num_rows for batch in self.held)):
            written = write(named(self.table), Path(self.output), self.held, self.file_minutes)
        self.rows_written.inc(written.rows)
        self.files_written.inc(written.files)
        self.start_bundle()
