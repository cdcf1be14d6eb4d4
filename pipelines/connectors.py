"""What differs between jobs: which transforms read the messages and write the tables of the graph."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from pipelines.graph import Sinks, Sources
from pipelines.settings import Settings
from pipelines.spool import ReadSpool
from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS
from transforms import stages
from transforms.quarantine import misfits
from transforms.sinks.parquet import WriteTable
from transforms.sources.archives import ArchiveFile, ReadArchives
from transforms.sources.stored import Recall
from transforms.within import Span

UNREADABLE = "unreadable"
"""The kind of `transforms.stages.notes` that names input which could not be read to its end."""


class Read(NamedTuple):
    """What a source gives the graph: messages (RAW), and what is refused before it could be one (QUARANTINE)."""

    messages: beam.PCollection
    quarantine: beam.PCollection


class Archives(beam.PTransform):
    """The messages of archive files; files that cannot be read to their end are noted under `UNREADABLE`."""

    def __init__(self, files: Iterable[ArchiveFile], block_bytes: int) -> None:
        super().__init__()
        self.files, self.block_bytes = tuple(files), block_bytes

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        read = root | ReadArchives(self.files, self.block_bytes, count_bytes, readers=1)
        _ = read.unreadable | "Note unreadable" >> beam.MapTuple(note_unreadable)
        return Read(read.raw, read.bad | "Misfits" >> beam.Map(misfits).with_output_types(pa.RecordBatch))


class Spooled(beam.PTransform):
    """The messages of some spool files, and QUARANTINE rows that are at hand already."""

    def __init__(self, paths: Sequence[Path], refused: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.paths, self.refused = paths, refused

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        refused = root | "Refused" >> beam.Create(self.refused, reshuffle=False).with_output_types(pa.RecordBatch)
        return Read(root | ReadSpool(self.paths), refused)


def count_bytes(number: int) -> None:
    """Count bytes of input as read."""
    stages.add("read", bytes=number)


def note_unreadable(file: str, reason: str) -> None:
    """Keep the name of a file that could not be read to its end, for the command to show."""
    stages.note(UNREADABLE, f"{file} {reason}")


def sources(messages: beam.PTransform, output: Path, span: Span) -> Sources:
    """The sources of a job that writes `output`: stored reports are recalled from it if it has any."""
    stored = next((output / REPORTS.name).rglob("*.parquet"), None)
    return Sources(messages, Recall(output) if stored else None, span)


def folder(output: Path, settings: Settings) -> Sinks:
    """Every table as Parquet files below `output`."""
    reports, aggregations, quarantine, duplicates = (
        WriteTable(table, output, settings.file_minutes) for table in (REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES)
    )
    return Sinks(reports, aggregations, quarantine, duplicates)
