"""What differs between jobs: the sources, sinks and timing that the graph is built with.

A batch takes `make_sources` and `make_batch_sinks`; a stream `make_stream_sinks` and `make_stream_timing`.
"""

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
    """What a source gives the graph.

    Attributes:
        messages: RAW.
        quarantine: QUARANTINE rows of what is no message.
        trimmed: TRIMMED rows of what the source lost; None of a source that loses nothing.
    """

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
    """The messages of some spool files, and QUARANTINE rows that were made when these were written."""

    def __init__(self, paths: Sequence[Path], refused: Sequence[pa.RecordBatch]) -> None:
        super().__init__()
        self.paths, self.refused = paths, refused

    def expand(self, root: beam.pvalue.PBegin) -> Read:
        refused = root | "Refused" >> beam.Create(self.refused, reshuffle=False).with_output_types(
            pa.RecordBatch
        )
        return Read(root | ReadSpool(self.paths), refused)


def make_sources(messages: beam.PTransform, outputs: Outputs, span: Span) -> Sources:
    """The sources of a job; stored reports are recalled from its main output if that has any."""
    return Sources(messages, Recall(outputs.main) if outputs.main.has_reports() else None, span)


def make_batch_sinks(outputs: Outputs, settings: Settings) -> Sinks:
    """Write every table to its sinks, a bundle at a time."""
    options = WriteOptions(outputs.sinks, settings.patience_seconds)
    return Sinks(WriteTables(options), fleet=outputs.takes_fleet)


def make_stream_timing(outputs: Outputs, settings: Settings) -> Timing:
    """What makes the graph a stream: history that keeps state, and windows with triggers."""
    recall = RecallShard(outputs.main, settings.shards)
    history = StreamHistory(settings.min_samples, settings.stale_seconds, settings.future_seconds, recall)
    lateness = settings.stale_seconds + LATE_SECONDS
    return Timing(history, make_stream_windows(settings.flush_seconds, lateness))


def make_stream_sinks(
    outputs: Outputs, settings: Settings, status: Path | None, live: LiveStreams | None = None
) -> Sinks:
    """Gather the rows of some seconds, then write them to their sinks; publish reports to `live` streams."""
    options = WriteOptions(outputs.sinks, settings.patience_seconds, status)
    tables = WriteGathered(options, settings.file_minutes, settings.parallelism)
    return Sinks(tables, live=None if live is None else live.publish(), fleet=outputs.takes_fleet)
