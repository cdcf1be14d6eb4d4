"""The whole way of the data, as one function. Stream and batch call it alike; `pipelines.assembly` chooses what differs.

archive | Redis stream ------------> archive, trimmed
       |
   validate ------------------------> quarantine
       |   reports
       |<--- recall: stored reports that the new ones touch
 key by shard
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
"""

from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa

from pipelines.settings import Settings
from schemas.registry import Schema, load
from schemas.tables import AGGREGATIONS, DUPLICATES, FLEET, QUARANTINED, REPORTS, TRIMMED
from transforms.aggregation import aggregate
from transforms.aggregation.aggregate import Aggregate, Windows
from transforms.core.sharding import KeyByShard
from transforms.core.time_range import KeepWithin, Span
from transforms.enrich import Enrich
from transforms.history.batch_history import BatchHistory
from transforms.outliers import FlagOutliers
from transforms.validation.quarantine_rows import shorten_oversize
from transforms.validation.validate import Limits, Rules, Validate


@dataclass(frozen=True)
class Sources:
    """Where messages come from.

    `messages` gives `.messages` (RAW) and `.quarantine` from the pipeline's root; `recall`, where there is an output that holds
    rows already, gives the stored reports that new ones touch; `span` is the time that is asked for.
    """

    messages: beam.PTransform
    recall: beam.PTransform | None = None
    span: Span = field(default_factory=Span)


@dataclass(frozen=True)
class Timing:
    """What a stream does otherwise than a batch: how history remembers, and when windows come out."""

    history: beam.PTransform
    windows: tuple[Windows, ...] = aggregate.BATCH


@dataclass(frozen=True)
class Sinks:
    """Where rows go: `tables` takes the rows of each table by its name.

    Where asked for, `archive` takes every message, with what is refused before it could be one, and `live` the rows of reports
    within milliseconds. `fleet` says whether kpi_fleet is made: some of the tables' places take it.
    """

    tables: beam.PTransform
    archive: beam.PTransform | None = None
    live: beam.PTransform | None = None
    fleet: bool = False


def build(
    root: beam.Pipeline, sources: Sources, sinks: Sinks, settings: Settings, timing: Timing | None = None
) -> None:
    """Wire the graph of this module's picture, for a batch unless `timing` says otherwise."""
    timing = timing or Timing(BatchHistory(settings.min_samples))
    read = root | "Read" >> sources.messages
    validated = read.messages | "Validate" >> Validate(make_rules(settings))
    new = validated.reports | "Reports in span" >> KeepWithin(sources.span, "recorded_at")

    reports = (
        new
        if sources.recall is None
        else (new, new | "Recall" >> sources.recall) | "With recalled" >> beam.Flatten()
    )
    history = reports | "Key by shard" >> KeyByShard(settings.shards) | "History" >> timing.history
    flagged = history.reports | "Flag outliers" >> FlagOutliers(settings.iqr_factor, settings.flat_margin)
    judged = flagged.reports | "Enrich" >> _enrich(settings)
    enriched = judged.reports
    wrong = (validated.quarantine, history.quarantine, flagged.quarantine, judged.quarantine)
    refused = (read.quarantine, *wrong) | beam.Flatten()
    refused = refused | "Shorten oversize" >> beam.Map(shorten_oversize).with_output_types(pa.RecordBatch)
    aggregated = (
        enriched
        | "Shard again" >> KeyByShard(settings.shards)
        | "Aggregate" >> Aggregate(timing.windows, sinks.fleet)
    )

    tables = {
        REPORTS.name: enriched,
        AGGREGATIONS.name: aggregated.rows,
        DUPLICATES.name: history.duplicates,
        QUARANTINED.name: refused | "Refused in span" >> KeepWithin(sources.span, "received_at"),
    }
    if aggregated.fleet is not None:
        tables[FLEET.name] = aggregated.fleet
    if read.trimmed is not None:
        tables[TRIMMED.name] = read.trimmed
    _ = tables | "Write" >> sinks.tables
    if sinks.archive is not None:
        _ = (read.messages, read.quarantine) | "Archive" >> sinks.archive
    if sinks.live is not None:
        _ = enriched | "Publish live" >> sinks.live


def make_rules(settings: Settings) -> Rules:
    """What the settings ask of a message."""
    limits = Limits(settings.max_payload_bytes, settings.max_depth)
    return Rules(limits, settings.stale_seconds, settings.future_seconds, settings.custom_metric_limit)


def load_report_schema(settings: Settings) -> Schema:
    """The schema of reports, with what the settings bound in it."""
    return load("kpi_report").bounded(settings.custom_metric_limit)


def _enrich(settings: Settings) -> Enrich:
    return Enrich(
        settings.reference_latency_ms, settings.time_zone, settings.peak_start_hour, settings.peak_end_hour
    )
