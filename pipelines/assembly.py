"""What differs between jobs: which transforms read the messages and write the tables of the graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from pipelines.graph import Sinks, Sources, Timing, make_rules
from pipelines.jobs.time_slices import ReadSpool
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from transforms.aggregation.windows import make_stream_windows
from transforms.core.time_range import Span
from transforms.history.recall import Recall, RecallShard
from transforms.history.stream_history import StreamHistory
from transforms.history.time_rules import LATE_SECONDS
from transforms.sinks.publish import LiveStreams
from transforms.sinks.write_tables import WriteGathered, WriteOptions, WriteTables
from transforms.validation.quarantine_rows import quarantine_misfits


class Read(NamedTuple):
    """What a source gives the graph: messages (RAW), what is refused before it is one (QUARANTINE), what it lost (TRIMMED)."""

    messages: beam.PCollection
    quarantine: beam.PCollection
    trimmed: beam.PCollection | None = None


class ReadSource(beam.PTransform):
    """The messages of a source, with those that it rejects as rows of quarantine.

    `reading`: what `transforms.sources.source.Source.read` gives.
    """

    def __init__(self, reading: beam.PTransform, settings: Settings) -> None:
        super().__init__()
        self.reading, self.limits = reading, make_rules(settings).limits

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        found = root | "Source" >> self.reading
        misfit = beam.Map(quarantine_misfits, self.limits).with_output_types(pa.RecordBatch)
        return Read(found.messages, found.rejected | "Misfits" >> misfit, found.gaps)


class Spooled(beam.PTransform):
    """The messages of some spool files, and QUARANTINE rows that are at hand already."""

    def __init__(self, paths: Sequence[Path], refused: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.paths, self.refused = paths, refused

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        refused = root | "Refused" >> beam.Create(self.refused, reshuffle=False).with_output_types(
            pa.RecordBatch
        )
        return Read(root | ReadSpool(self.paths), refused)


def choose_sources(messages: beam.PTransform, outputs: Outputs, span: Span) -> Sources:
    """The sources of a job: stored reports are recalled from its main output if that has any."""
    return Sources(messages, Recall(outputs.main) if outputs.main.has_reports() else None, span)


def choose_sinks(outputs: Outputs, settings: Settings) -> Sinks:
    """Every table to its sinks, a bundle at a time."""
    return Sinks(
        WriteTables(WriteOptions(outputs.sinks, settings.patience_seconds)), fleet=outputs.takes_fleet
    )


def time_stream(outputs: Outputs, settings: Settings) -> Timing:
    """What makes the graph a stream: history that remembers from batch to batch, windows with triggers."""
    recall = RecallShard(outputs.main, settings.shards)
    history = StreamHistory(settings.min_samples, settings.stale_seconds, settings.future_seconds, recall)
    lateness = settings.stale_seconds + LATE_SECONDS
    return Timing(history, make_stream_windows(settings.flush_seconds, lateness))


def gather_sinks(
    outputs: Outputs, settings: Settings, status: Path | None, live: LiveStreams | None = None
) -> Sinks:
    """Every table to its sinks, gathered first; and reports to live streams, if there are any."""
    write = WriteOptions(outputs.sinks, settings.patience_seconds, status)
    tables = WriteGathered(write, settings.file_minutes, settings.parallelism)
    return Sinks(tables, live=None if live is None else live.publish(), fleet=outputs.takes_fleet)
