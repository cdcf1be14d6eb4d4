"""Writing tables: every row goes to each sink that takes its table, by the bundle or gathered for some
seconds first.

While a sink is unavailable, its writer retries with growing pauses. The runner then reads no further and
completes no checkpoint, so nothing is committed to the source before every sink has the rows.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from zlib import crc32

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from schemas.kinds import KIND_OF_TABLE
from schemas.partitioning import assign_files
from schemas.readers.verdicts import Rejection
from schemas.tables import QUARANTINED, Table, find_table
from transforms.core.errors import Refused, Unavailable
from transforms.core.grouping import split_rows
from transforms.core.micro_batching import MOST_ROWS, Gather
from transforms.core.process_stats import count_attempt
from transforms.core.record_batches import concat, conform, split_by_rows
from transforms.core.retry import retry_while_unavailable
from transforms.core.stage_counters import time_stage
from transforms.sinks.sink import Sink, Written
from transforms.sinks.sink_status import SinkStatus
from transforms.validation.quarantine_rows import bisect_faults, quarantine_unwritten

FLUSH_BYTES = 1 << 28
"""A bundle's rows are written before its end once they have so many bytes."""
PATIENCE_SECONDS = 3600
"""How long a write is retried while a sink is unavailable."""
_FILE_MINUTES = 60
_ROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, ArithmeticError, ValueError, TypeError, LookupError)
"""What a kernel raises for a row that it cannot take. Sinks raise OSError, Unavailable or Refused."""
MOST_REFUSALS = 200
"""Parts of a batch that a service may refuse before the batch is given up: enough to find a dozen rows."""


@dataclass(frozen=True)
class WriteOptions:
    """The sinks of a job, for how long a write is retried, and the folder of status files, if any."""

    sinks: tuple[Sink, ...]
    patience_seconds: float = PATIENCE_SECONDS
    status_folder: Path | None = None

    def write_to(self, sinks: Sequence[Sink], name: str, rows: beam.PCollection) -> list[beam.PCollection]:
        """The rows of the table `name` -> those of `sinks` that take it, a step each."""
        takers = [(self.sinks.index(sink), sink) for sink in sinks if name in sink.tables]
        return [
            rows
            | f"Write {name} to {place}"
            >> beam.ParDo(
                _WriteFn(name, sink, self.patience_seconds, SinkStatus(self.status_folder, place, name))
            )
            for place, sink in takers
        ]


@dataclass(eq=False)
class WriteTables(beam.PTransform):
    """{name of a table: its rows} -> the sinks; a bundle's rows are safe there when the bundle is done.

    `whole` are the tables whose rows come in batches of whole files: they are written as they come. The rows
    of a file of another table are grouped first, or parallel writers would replace each other's files.

    Counters, in the namespace `sink`: `rows_written` (new, or replacing an older row) and `requests`.
    """

    options: WriteOptions
    file_minutes: int
    whole: Collection[str] = ()

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        written = []
        for name, rows in tables.items():
            if name not in self.whole:
                rows = rows | f"Group {name} by file" >> _GroupByFile(find_table(name), self.file_minutes)
            written += self.options.write_to(self.options.sinks, name, rows)
        return written


class _GroupByFile(beam.PTransform):
    """Rows of a table -> the same rows, those of a file one after the other and in one bundle."""

    def __init__(self, table: Table, file_minutes: int) -> None:
        super().__init__()
        self.table, self.file_minutes = table, file_minutes

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        by_file = beam.FlatMap(split_by_file, self.table, self.file_minutes).with_output_types(
            tuple[str, pa.RecordBatch]
        )
        all_rows = beam.FlatMapTuple(lambda _, batches: batches).with_output_types(pa.RecordBatch)
        return rows | "By file" >> by_file | beam.GroupByKey() | "All rows" >> all_rows


@dataclass(eq=False)
class WriteGathered(beam.PTransform):
    """{name of a table: its rows} -> the sinks, each about its `gather_seconds` after the rows came at the
    latest.

    All tables of one pace are gathered in one step, since each step of a stream costs its runner time, rows
    or not. `writers` is how many workers may write at once; rows of one file (of `file_minutes`) always have
    the same one.
    """

    options: WriteOptions
    file_minutes: int = _FILE_MINUTES
    writers: int = 1

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        paces = dict.fromkeys(sink.gather_seconds for sink in self.options.sinks)
        return [step for pace in paces for step in self._write_at_pace(pace, tables)]

    def _write_at_pace(
        self, seconds: int, tables: Mapping[str, beam.PCollection]
    ) -> Iterator[beam.PCollection]:
        sinks = [sink for sink in self.options.sinks if sink.gather_seconds == seconds]
        names = [name for name in tables if any(name in sink.tables for sink in sinks)]
        keyed = [
            tables[name]
            | f"By writer {name}, {seconds} s"
            >> beam.FlatMap(key_by_writer, name, place, self.file_minutes, self.writers).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            for place, name in enumerate(names)
        ]
        gathered = keyed | f"All, {seconds} s" >> beam.Flatten() | f"Gather {seconds} s" >> Gather(seconds)
        tag = beam.FlatMap(tag_by_table, names, self.writers).with_output_types(
            pa.RecordBatch, **dict.fromkeys(names, pa.RecordBatch)
        )
        rows = gathered | f"By table, {seconds} s" >> tag.with_outputs(*names)
        for name in names:
            yield from self.options.write_to(sinks, name, rows[name])


def split_by_file(
    batch: pa.RecordBatch, table: Table, file_minutes: int
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each file, keyed by its path."""
    codes, paths = assign_files(table, batch, file_minutes)
    for code, rows in split_rows(batch, codes.astype(np.int64)):
        yield paths[code], rows


def key_by_writer(
    batch: pa.RecordBatch, table: str, place: int, file_minutes: int, writers: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each writer, keyed place * writers + writer; `place` is that of the table among the tables.

    A file's path alone decides its writer, so no two workers write to one file.
    """
    parts: Iterable[tuple[int, pa.RecordBatch]] = [(place, batch)]
    if writers > 1:
        codes, paths = assign_files(find_table(table), batch, file_minutes)
        keys = np.array([place * writers + crc32(path.encode()) % writers for path in paths])
        parts = split_rows(batch, keys[codes])
    for key, rows in parts:
        for part in split_by_rows(rows, MOST_ROWS):
            yield key, part


def tag_by_table(
    gathered: tuple[int, Iterable[pa.RecordBatch]], names: list[str], writers: int
) -> Iterator[beam.pvalue.TaggedOutput]:
    """The batches of a key of `key_by_writer`, each tagged with the name of its table."""
    key, batches = gathered
    for batch in batches:
        yield beam.pvalue.TaggedOutput(names[key // writers], batch)


def write_or_quarantine(sink: Sink, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
    """Write rows of a table. A row of a message at which the write raises goes to this sink's quarantine, as
    `refused`.

    Raises:
        Unavailable, Refused: as `Sink.write`.
        Exception: every row raises, or the rows are not of messages: the fault is not that of one row.
    """
    try:
        return sink.write(table, rows)
    except MemoryError:
        raise
    except _ROW_ERRORS:
        if table.name == QUARANTINED.name or "message_id" not in table.schema.names:
            raise
        gathered = concat([conform(batch, table.schema) for batch in rows])
        write_part = _limit_refusals(lambda part: sink.write(table, [part]))
        written, faults = bisect_faults(write_part, gathered, _ROW_ERRORS)
        if not written and gathered.num_rows > 1:
            raise
    rejections = [Rejection("refused", why.message, None, "write") for _, why in faults]
    kind = KIND_OF_TABLE.get(table.name)
    refused = quarantine_unwritten(concat([row for row, _ in faults]), rejections, kind)
    written.append(sink.write(QUARANTINED, [refused]))
    return Written(sum(each.rows for each in written), sum(each.requests for each in written))


def _limit_refusals(write: Callable[[pa.RecordBatch], Written]) -> Callable[[pa.RecordBatch], Written]:
    """`write`, until a service has refused more than MOST_REFUSALS parts: each of them is a request.

    The refusal after that is no longer a fault of a row, so a search for the rows ends there.
    """
    refusals = count(1)

    def write_part(part: pa.RecordBatch) -> Written:
        try:
            return write(part)
        except Refused as error:
            if next(refusals) > MOST_REFUSALS:
                raise Refused(str(error)) from error
            raise

    return write_part


class _WriteFn(beam.DoFn):
    """Collects a bundle's rows, and writes them at its end or when they have FLUSH_BYTES."""

    def __init__(self, table: str, sink: Sink, patience_seconds: float, status: SinkStatus) -> None:
        self.table, self.sink, self.patience_seconds, self.status = table, sink, patience_seconds, status
        self.rows_written = Metrics.counter("sink", "rows_written")
        self.requests = Metrics.counter("sink", "requests")

    def start_bundle(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.bytes = 0

    def process(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)
        self.bytes += batch.nbytes
        if self.bytes >= FLUSH_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def teardown(self) -> None:
        self.status.close()

    def _flush(self) -> None:
        if self.batches:
            with time_stage(f"write {self.table}", sum(batch.num_rows for batch in self.batches)):
                written = self._write()
            self.rows_written.inc(written.rows)
            self.requests.inc(written.requests)
        self.start_bundle()

    def _write(self) -> Written:
        """Write the collected rows; retry while the sink is unavailable."""
        for attempt in retry_while_unavailable(self.patience_seconds):
            with attempt:
                try:
                    written = write_or_quarantine(self.sink, find_table(self.table), self.batches)
                except (Unavailable, Refused) as error:
                    count_attempt(self.sink.name, failed=True)
                    self.status.report_waiting(self.sink.name, str(error))
                    raise
                count_attempt(self.sink.name)
                self.status.report_written(self.sink.name, written.rows, self.batches)
                return written
        raise AssertionError("a retry ends with a result or an error")
