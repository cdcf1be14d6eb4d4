"""What differs between jobs: the sources, sinks and timing that the graph is built with.

A batch takes `make_sources`, `make_batch_sinks` and `make_batch_timing`; a stream `make_stream_sinks` and
`make_stream_timing`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from pipelines.graph import Sinks, Sources, Timing, make_rules
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from schemas.tables import AGGREGATIONS, FLEET, REPORTS
from transforms.aggregation.windows import make_batch_windows, make_stream_windows
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.message_encodings import give_encodings
from transforms.core.sharding import KeyByShard
from transforms.core.time_range import Span
from transforms.history.batch_history import BatchHistory
from transforms.history.blocks import Blocks, KeyByBlock
from transforms.history.recall import Recall, RecallShard
from transforms.history.stream_history import StreamHistory
from transforms.history.time_rules import LATE_SECONDS
from transforms.sinks.publish import LiveStreams
from transforms.sinks.write_tables import WriteGathered, WriteOptions, WriteTables
from transforms.validation.message_kinds import give_kinds
from transforms.validation.quarantine_rows import quarantine_misfits


class SourceRows(NamedTuple):
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

    `reading`: what `transforms.sources.source.Source.read` gives. `kinds`: the schemas that were given for
    some of its streams; `encodings`: those of streams that are not JSON.
    """

    def __init__(
        self,
        reading: beam.PTransform,
        settings: Settings,
        kinds: Mapping[str, str] | None = None,
        encodings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.reading, self.limits = reading, make_rules(settings).limits
        self.kinds, self.encodings = kinds or {}, encodings or {}

    def expand(self, root: beam.pvalue.PBegin) -> SourceRows:
        found = root | "Source" >> self.reading
        messages, rejected = found.messages, found.rejected
        if self.kinds:
            give = beam.Map(give_kinds, self.kinds).with_output_types(pa.RecordBatch)
            messages, rejected = messages | "Give kinds" >> give, rejected | "Give kinds of rejected" >> give
        if self.encodings:
            give = beam.Map(give_encodings, self.encodings).with_output_types(pa.RecordBatch)
            messages = messages | "Give encodings" >> give
        misfit = beam.Map(quarantine_misfits, self.limits).with_output_types(pa.RecordBatch)
        return SourceRows(messages, rejected | "Misfits" >> misfit, found.gaps)


class NoMessages(beam.PTransform):
    """A source without messages: of a run over stored reports only."""

    def expand(self, root: beam.pvalue.PBegin) -> SourceRows:
        none = root | beam.Create([]).with_output_types(pa.RecordBatch)
        return SourceRows(none, none)


def make_blocks(settings: Settings) -> Blocks:
    """The blocks of a batch; a day each if nothing says how many hours fit into memory."""
    return Blocks(settings.block_hours or 24, settings.shards)


def make_sources(
    messages: beam.PTransform,
    outputs: Outputs,
    settings: Settings,
    span: Span,
    recall: bool,
    expiry: Expiry = NOTHING,
) -> Sources:
    """The sources of a batch. `recall`: whether its main output may have reports, to be recalled. `expiry`:
    what has expired there."""
    stored = Recall(outputs.main, make_blocks(settings)) if recall else None
    return Sources(messages, stored, span, expiry)


def make_batch_timing(settings: Settings) -> Timing:
    """What makes the graph a batch: history by block, and windows that are emitted once."""
    blocks = make_blocks(settings)
    return Timing(KeyByBlock(blocks), BatchHistory(settings.min_samples), make_batch_windows(blocks.shards))


def make_batch_sinks(outputs: Outputs, settings: Settings) -> Sinks:
    """Write every table to its sinks, a bundle at a time.

    The rows of an hour come together, and so whole files, unless its agents are divided among shards.
    """
    options = WriteOptions(outputs.sinks, settings.patience_seconds)
    whole = (REPORTS.name, AGGREGATIONS.name) if settings.shards == 1 else ()
    return Sinks(WriteTables(options, settings.file_minutes, (*whole, FLEET.name)), fleet=outputs.takes_fleet)


def make_stream_timing(outputs: Outputs, settings: Settings) -> Timing:
    """What makes the graph a stream: history that keeps state, and windows with triggers."""
    recall = RecallShard(outputs.main, settings.shards)
    history = StreamHistory(settings.min_samples, settings.stale_seconds, settings.future_seconds, recall)
    lateness = settings.stale_seconds + LATE_SECONDS
    windows = make_stream_windows(settings.flush_seconds, lateness)
    return Timing(KeyByShard(settings.shards), history, windows)


def make_stream_sinks(
    outputs: Outputs, settings: Settings, status: Path | None, live: LiveStreams | None = None
) -> Sinks:
    """Gather the rows of some seconds, then write them to their sinks; publish reports to `live` streams."""
    options = WriteOptions(outputs.sinks, settings.patience_seconds, status)
    tables = WriteGathered(options, settings.file_minutes, settings.parallelism)
    return Sinks(tables, live=None if live is None else live.publish(), fleet=outputs.takes_fleet)
