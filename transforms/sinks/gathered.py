"""Writing tables from a stream: rows are gathered for some seconds, so that a file is replaced now and then, not for each row."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.tables import files, named
from transforms.batches import portions
from transforms.gather import PORTION, Gather
from transforms.shard import split
from transforms.sinks.parquet import WriteTable


@dataclass(eq=False)
class WriteGathered(beam.PTransform):
    """{name of a table: its rows} -> files below `output`, on disk at most about `seconds` after the rows came.

    All tables are gathered in one step: each step of a stream costs its runner time, rows or not. `writers` is how many workers may
    write at once; a file always has the same one.
    """

    output: Path
    file_minutes: int
    seconds: int
    writers: int = 1

    def expand(self, tables: Mapping[str, beam.PCollection]) -> list[beam.PCollection]:
        names = list(tables)
        keyed = [
            tables[name]
            | f"By writer {name}"
            >> beam.FlatMap(by_writer, name, place, self.file_minutes, self.writers).with_output_types(tuple[int, pa.RecordBatch])
            for place, name in enumerate(names)
        ]
        gathered = keyed | beam.Flatten() | Gather(self.seconds)
        parted = beam.FlatMap(part_by_table, names, self.writers).with_output_types(
            pa.RecordBatch, **dict.fromkeys(names, pa.RecordBatch)
        )
        rows = gathered | "By table" >> parted.with_outputs(*names)
        return [rows[name] | f"Write {name}" >> WriteTable(named(name), self.output, self.file_minutes) for name in names]


def by_writer(
    batch: pa.RecordBatch, table: str, place: int, file_minutes: int, writers: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each writer of the table at `place`, under place * writers + writer; a file's path alone decides its writer."""
    parts: Iterable[tuple[int, pa.RecordBatch]] = [(place, batch)]
    if writers > 1:
        codes, paths = files(named(table), batch, file_minutes)
        parts = split(batch, np.array([place * writers + crc32(path.encode()) % writers for path in paths])[codes])
    for key, rows in parts:
        for portion in portions(rows, PORTION):
            yield key, portion


def part_by_table(
    gathered: tuple[int, Iterable[pa.RecordBatch]], names: list[str], writers: int
) -> Iterator[beam.pvalue.TaggedOutput]:
    """The batches of a group, each under the tag of its table."""
    key, batches = gathered
    for batch in batches:
        yield beam.pvalue.TaggedOutput(names[key // writers], batch)
