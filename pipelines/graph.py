"""The complete data flow, as one function. Stream and batch both call it.

`pipelines.assembly` chooses what differs.

archive | Redis stream ------------> archive, trimmed
       |
   validate ------------------------> quarantine  (what has expired is counted and dropped)
       |----------------------------> tasks, results, agents, system_health
       |   reports
  key by block (batch) or shard (stream)
       |<--- recall: stored reports that the new ones affect
       |
   history: dedup + baseline -------> duplicates
       |
 flag outliers
       |
    enrich ---------------------> live streams
       |------------------------> kpi_reports
   aggregate: 5 s, 1 min, 1 h
       |
       '------------------------> kpi_aggregations, kpi_fleet

Each element is an Arrow record batch. From the key to `aggregate` it is keyed by what history needs at once:
in a batch by its block, which is some hours of all agents, in a stream by its shard, which is some agents.
"""

from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa

from pipelines.settings import Settings
from schemas.readers.verdicts import MessageLimits
from schemas.tables import (
    AGGREGATIONS,
    DUPLICATES,
    FLEET,
    QUARANTINED,
    RECORD_TABLES,
    REPORTS,
    TRIMMED,
    Table,
)
from transforms.aggregation.aggregate import Aggregate
from transforms.aggregation.windows import Windows
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.keep_within import KeepWithin
from transforms.core.time_range import Span
from transforms.enrich import Enrich, EnrichOptions
from transforms.outliers import FlagOutliers
from transforms.validation.quarantine_rows import shorten_oversize
from transforms.validation.validate import MessageRules, Validate


@dataclass(frozen=True)
class Sources:
    """Where messages come from.

    Attributes:
        messages: gives `messages` (RAW), `quarantine` (QUARANTINE) and `trimmed` (TRIMMED or None) from the
            pipeline's root.
        recall: from new reports, the stored reports that they affect, with their keys; None where nothing is
            stored yet, and in a stream, whose history recalls by itself.
        span: the time that is asked for.
        expiry: what has expired in the main output; messages of that time are counted and dropped.
    """

    messages: beam.PTransform
    recall: beam.PTransform | None = None
    span: Span = field(default_factory=Span)
    expiry: Expiry = NOTHING


@dataclass(frozen=True)
class Timing:
    """What differs between a batch and a stream.

    Attributes:
        key: KeyByBlock or KeyByShard.
        history: BatchHistory or StreamHistory.
        windows: when aggregates are emitted.
    """

    key: beam.PTransform
    history: beam.PTransform
    windows: tuple[Windows, ...]


@dataclass(frozen=True)
class Sinks:
    """Where rows go.

    Attributes:
        tables: takes the rows of each table, as {name of the table: rows}.
        archive: takes every message, and what was rejected before it was one.
        live: takes the rows of reports, within milliseconds.
        fleet: whether kpi_fleet is made.
    """

    tables: beam.PTransform
    archive: beam.PTransform | None = None
    live: beam.PTransform | None = None
    fleet: bool = False


def build(root: beam.Pipeline, sources: Sources, sinks: Sinks, settings: Settings, timing: Timing) -> None:
    """Wire the graph of this module's picture."""
    read = root | "Read" >> sources.messages
    validated = read.messages | "Validate" >> Validate(make_rules(settings), sources.expiry)
    reports = validated.reports | "Keep reports in span" >> KeepWithin(sources.span, "recorded_at")
    keyed = reports | "Key" >> timing.key
    if sources.recall is not None:
        keyed = (keyed, reports | "Recall" >> sources.recall) | "Add stored reports" >> beam.Flatten()

    history = keyed | "History" >> timing.history
    flagged = history.reports | "Flag outliers" >> FlagOutliers(settings.iqr_factor, settings.flat_margin)
    enriched = flagged.reports | "Enrich" >> Enrich(make_enrich_options(settings))
    aggregated = enriched.reports | "Aggregate" >> Aggregate(timing.windows, sinks.fleet)
    rows = enriched.reports | "Drop key" >> beam.Values()

    steps = (read, validated, history, flagged, enriched)
    rejected = [step.quarantine for step in steps] | "Quarantine" >> beam.Flatten()
    rejected = rejected | "Shorten oversize" >> beam.Map(shorten_oversize).with_output_types(pa.RecordBatch)

    tables = {
        REPORTS.name: rows,
        AGGREGATIONS.name: aggregated.rows,
        FLEET.name: aggregated.fleet,
        DUPLICATES.name: history.duplicates,
        QUARANTINED.name: rejected | "Keep rejected in span" >> KeepWithin(sources.span, "received_at"),
        TRIMMED.name: read.trimmed,
        **{
            name: _keep_records(validated[name], table, sources.span) for name, table in RECORD_TABLES.items()
        },
    }
    _ = {name: table for name, table in tables.items() if table is not None} | "Write" >> sinks.tables
    if sinks.archive is not None:
        _ = (read.messages, read.quarantine) | "Archive" >> sinks.archive
    if sinks.live is not None:
        _ = rows | "Publish live" >> sinks.live


def _keep_records(rows: beam.PCollection, table: Table, span: Span) -> beam.PCollection:
    """The rows of a table of records that are in the span, by the table's `span_time`."""
    return rows | f"Keep {table.name} in span" >> KeepWithin(span, table.span_time)


def make_rules(settings: Settings) -> MessageRules:
    """The rules that a message must meet."""
    limits = MessageLimits(settings.max_payload_bytes, settings.max_depth)
    return MessageRules(limits, settings.stale_seconds, settings.future_seconds, settings.custom_metric_limit)


def make_enrich_options(settings: Settings) -> EnrichOptions:
    """What enrichment depends on beside the report."""
    return EnrichOptions(
        settings.reference_latency_ms, settings.time_zone, settings.peak_start_hour, settings.peak_end_hour
    )
