"""Writing a table from a stream: rows are gathered for some seconds, so that a file is replaced now and then and not for each row."""

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.tables import files, named
from transforms.gather import Gather
from transforms.shard import split
from transforms.sinks.parquet import WriteTable


@dataclass(eq=False)
class WriteGathered(beam.PTransform):
    """RecordBatches of a table's columns -> its files, on disk at most about `seconds` after they came.

    `writers` is how many workers may write at once; a file always has the same one.
    """

    sink: WriteTable
    seconds: int
    writers: int = 1

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        sink = self.sink
        keyed = beam.FlatMap(by_writer, sink.table.name, sink.file_minutes, self.writers).with_output_types(tuple[int, pa.RecordBatch])
        gathered = batches | "By writer" >> keyed | Gather(self.seconds)
        return gathered | "Batches" >> beam.FlatMapTuple(lambda _, rows: rows).with_output_types(pa.RecordBatch) | sink


def by_writer(batch: pa.RecordBatch, table: str, file_minutes: int, writers: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each writer, 0 to `writers` - 1: that of a file is decided by its path alone."""
    if writers == 1:
        yield 0, batch
        return
    codes, paths = files(named(table), batch, file_minutes)
    yield from split(batch, np.array([crc32(path.encode()) % writers for path in paths])[codes])
