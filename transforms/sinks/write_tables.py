"""Writing tables: every row goes to each sink that takes its table, a bundle or a gathering at a time.

A sink that is away holds its writer up, which tries on with growing pauses; so the runner reads no further, completes no
checkpoint, and nothing is committed to the source before every sink has the rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from schemas.partitioning import assign_files
from schemas.readers.verdicts import Rejection
from schemas.tables import QUARANTINED, Table, find_table
from transforms.core.errors import Refused, Unavailable
from transforms.core.grouping import split_rows
from transforms.core.micro_batching import MOST_ROWS, Gather
from transforms.core.record_batches import concat, conform, split_by_rows
from transforms.core.retry import retry_while_unavailable
from transforms.core.stage_counters import time_stage
from transforms.sinks.sink import Sink, Written
from transforms.sinks.sink_status import Status
from transforms.validation.quarantine_rows import bisect_faults, quarantine_unwritten

FLUSH_BYTES = 1 << 30
"""Rows of a bundle are held back up to this many bytes."""
PATIENCE_SECONDS = 3600
"""How long a write is tried again while a sink is away."""
_SPREAD_MINUTES = 60


@dataclass(frozen=True)
class Write:
    """How to write to some sinks: for how many seconds an absent one is waited for, and the folder where each writer says how it
    does (`transforms.sinks.sink_status`), if any."""

    sinks: tuple[Sink, ...]
    patience: float = PATIENCE_SECONDS
    status: Path | None = None

    def steps(self, name: str, rows: beam.PCollection, sinks: Sequence[Sink]) -> list[beam.PCollection]:
        """The rows of the table `name` -> those of `sinks` that take it."""
        takers = [(self.sinks.index(sink), sink) for sink in sinks if name in sink.tables]
        return [
            rows
            | f"Write {name} to {place}"
            >> beam.ParDo(_Write(name, sink, self.patience, Status(self.status, place, name)))
            for place, sink in takers
        ]


@dataclass(eq=False)
class WriteTables(beam.PTransform):
    """{name of a table: its rows} -> the sinks, where each bundle's rows are safe when the bundle is done.

    Counters, in the namespace `sink`: `rows_written` (new, or standing for an older row) and `requests`.
    """

    write: Write

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        return [
            step for name, rows in tables.items() for step in self.write.steps(name, rows, self.write.sinks)
        ]


@dataclass(eq=False)
class WriteGathered(beam.PTransform):
    """{name of a table: its rows} -> the sinks, each at most about its `gather_seconds` after the rows came.

    All tables of one pace are gathered in one step: each step of a stream costs its runner time, rows or not. `writers` is how many
    workers may write at once; rows of one file (of `file_minutes`) always have the same one.
    """

    write: Write
    file_minutes: int = _SPREAD_MINUTES
    writers: int = 1

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        paces = dict.fromkeys(sink.gather_seconds for sink in self.write.sinks)
        return [step for pace in paces for step in self._at_pace(pace, tables)]

    def _at_pace(self, seconds: int, tables: Mapping[str, beam.PCollection]) -> Iterator[beam.PCollection]:
        sinks = [sink for sink in self.write.sinks if sink.gather_seconds == seconds]
        names = [name for name in tables if any(name in sink.tables for sink in sinks)]
        keyed = [
            tables[name]
            | f"By writer {name}, {seconds} s"
            >> beam.FlatMap(by_writer, name, place, self.file_minutes, self.writers).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            for place, name in enumerate(names)
        ]
        gathered = keyed | f"All, {seconds} s" >> beam.Flatten() | f"Gather {seconds} s" >> Gather(seconds)
        parted = beam.FlatMap(part_by_table, names, self.writers).with_output_types(
            pa.RecordBatch, **dict.fromkeys(names, pa.RecordBatch)
        )
        rows = gathered | f"By table, {seconds} s" >> parted.with_outputs(*names)
        for name in names:
            yield from self.write.steps(name, rows[name], sinks)


def by_writer(
    batch: pa.RecordBatch, table: str, place: int, file_minutes: int, writers: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each writer of the table at `place`, under place * writers + writer; a file's path alone decides its writer."""
    parts: Iterable[tuple[int, pa.RecordBatch]] = [(place, batch)]
    if writers > 1:
        codes, paths = assign_files(find_table(table), batch, file_minutes)
        parts = split_rows(
            batch, np.array([place * writers + crc32(path.encode()) % writers for path in paths])[codes]
        )
    for key, rows in parts:
        for portion in split_by_rows(rows, MOST_ROWS):
            yield key, portion


def part_by_table(
    gathered: tuple[int, Iterable[pa.RecordBatch]], names: list[str], writers: int
) -> Iterator[beam.pvalue.TaggedOutput]:
    """The batches of a group, each under the tag of its table."""
    key, batches = gathered
    for batch in batches:
        yield beam.pvalue.TaggedOutput(names[key // writers], batch)


def write_apart(sink: Sink, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
    """Write rows of a table; a row of a message at which the write raises goes to this sink's quarantine alone, as `refused`.

    Raises:
        Unavailable, Refused: as `Sink.write`.
        Exception: every row raises, or rows that are of no message: the fault is not that of a row.
    """
    try:
        return sink.write(table, rows)
    except MemoryError:
        raise
    except _OF_A_ROW:
        if table.name == QUARANTINED.name or "message_id" not in table.schema.names:
            raise
        gathered = concat([conform(batch, table.schema) for batch in rows])
        written, faults = bisect_faults(lambda part: sink.write(table, [part]), gathered, _OF_A_ROW)
        if not written and gathered.num_rows > 1:
            raise
    rejections = [Rejection("refused", why.message, None, "write") for _, why in faults]
    written.append(
        sink.write(QUARANTINED, [quarantine_unwritten(concat([row for row, _ in faults]), rejections)])
    )
    return Written(sum(each.rows for each in written), sum(each.requests for each in written))


_OF_A_ROW = (pa.ArrowInvalid, pa.ArrowTypeError, ArithmeticError, ValueError, TypeError, LookupError)
"""What a kernel raises at a row that it cannot take; what places raise is an OSError, Unavailable or Refused."""


class _Write(beam.DoFn):
    """Gathers a bundle's rows and writes them at its end, or when they are many."""

    def __init__(self, table: str, sink: Sink, patience: float, status: Status) -> None:
        self.table, self.sink, self.patience, self.status = table, sink, patience, status
        self.rows_written = Metrics.counter("sink", "rows_written")
        self.requests = Metrics.counter("sink", "requests")

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
        if self.held:
            with time_stage(f"write {self.table}", sum(batch.num_rows for batch in self.held)):
                written = self._written()
            self.rows_written.inc(written.rows)
            self.requests.inc(written.requests)
        self.start_bundle()

    def _written(self) -> Written:
        """Write what is held, again and again while the sink is unavailable."""
        for attempt in retry_while_unavailable(self.patience):
            with attempt:
                try:
                    written = write_apart(self.sink, find_table(self.table), self.held)
                except (Unavailable, Refused) as error:
                    self.status.waits(self.sink.name, str(error))
                    raise
                self.status.wrote(self.sink.name, written.rows, self.held)
                return written
        raise AssertionError("a retry ends by a result or an error")
