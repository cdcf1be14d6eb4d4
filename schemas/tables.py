"""Every table of an output, once: its columns and Arrow types, its key, and which of two rows is kept.

`schemas.partitioning` says which file a row belongs to. A file is a set of rows with distinct keys:
`transforms.sinks.row_merge` makes it, `pipelines.verify.table_scan` reads it.
"""

from dataclasses import dataclass

import pyarrow as pa

from schemas.readers.formats import TIME
from schemas.record_columns import AGENT, EXECUTION_CONTEXT, HEALTH, RESULT, TASK

LAYOUT_VERSION = 2
"""Raised when folders, keys or the meaning of stored columns change; older code refuses a newer layout."""

GRANULARITIES = {"5s": 5, "1m": 60, "1h": 3600}
"""Window length in seconds of each granularity."""

METRICS = ("latency", "accuracy", "cpu", "memory")
"""The metrics that have a baseline and fences; METRIC_COLUMNS and OUTLIER_FLAGS name the report columns of
each: its value, and whether that is an outlier."""
METRIC_COLUMNS = {"latency": "latency_ms", "accuracy": "accuracy", "cpu": "cpu_usage", "memory": "memory_mb"}
OUTLIER_FLAGS = {metric: f"is_{metric}_outlier" for metric in METRICS}

MESSAGE = [("source", pa.string()), ("message_id", pa.string()), ("received_at", TIME)]
MESSAGE_KEY = ("source", "message_id")
"""The columns that identify a message."""

REPORT = pa.schema(
    [
        ("task_id", pa.string()),
        ("agent_id", pa.string()),
        ("recorded_at", TIME),
        ("latency_ms", pa.float64()),
        ("accuracy", pa.float64()),
        ("cpu_usage", pa.float64()),
        ("memory_mb", pa.float64()),
        ("network_bytes", pa.int64()),
        ("custom_metrics", pa.map_(pa.string(), pa.float64())),
        ("execution_context", EXECUTION_CONTEXT),
        ("gpu_utilization", pa.float64()),
        ("error_details", pa.string()),
        ("source_layer", pa.string()),
        ("target_agent_type", pa.string()),
        ("priority", pa.int64()),
        ("extra", pa.string()),
        ("report_id", pa.string()),
        *MESSAGE,
        ("schema_version", pa.int64()),
    ]
)
"""The columns of a valid report."""

BASELINE = pa.schema(
    [("baseline_n", pa.int64())]
    + [
        (f"{metric}_{name}", type_)
        for metric in METRICS
        for name, type_ in (("baseline_state", pa.string()), ("q1", pa.float64()), ("q3", pa.float64()))
    ]
    + [("latency_zscore", pa.float64()), ("accuracy_percentile", pa.float64())]
)
"""What history adds to a report: statistics of the agent's own past hour, as of the report's minute."""

FLAGS = pa.schema(
    [
        (name, type_)
        for metric in METRICS
        for name, type_ in (
            (f"{metric}_low_fence", pa.float64()),
            (f"{metric}_high_fence", pa.float64()),
            (OUTLIER_FLAGS[metric], pa.bool_()),
        )
    ]
    + [(f"is_{name}_anomaly", pa.bool_()) for name in ("latency", "accuracy", "resource")]
)

ENRICHMENT = pa.schema(
    [
        ("performance_score", pa.float64()),
        ("efficiency_ratio", pa.float64()),
        ("resource_efficiency", pa.float64()),
        ("cpu_efficiency", pa.float64()),
        ("memory_efficiency", pa.float64()),
        ("network_efficiency", pa.float64()),
        ("hour_of_day", pa.int32()),
        ("day_of_week", pa.int32()),
        ("is_peak_hour", pa.bool_()),
    ]
)

AGGREGATION = pa.schema(
    [
        ("granularity", pa.string()),
        ("time_window_start", TIME),
        ("time_window_end", TIME),
        ("agent_id", pa.string()),
        ("target_agent_type", pa.string()),
        ("task_count", pa.int64()),
        ("success_rate", pa.float64()),
        ("avg_latency_ms", pa.float64()),
        ("latency_stddev", pa.float64()),
        ("min_latency_ms", pa.float64()),
        ("max_latency_ms", pa.float64()),
        ("latency_p50_ms", pa.float64()),
        ("latency_p95_ms", pa.float64()),
        ("latency_p99_ms", pa.float64()),
        ("avg_accuracy", pa.float64()),
        ("accuracy_stddev", pa.float64()),
        ("avg_cpu_usage", pa.float64()),
        ("avg_memory_mb", pa.float64()),
        ("total_network_bytes", pa.int64()),
        ("performance_score", pa.float64()),
        ("efficiency_ratio", pa.float64()),
        *((f"{metric}_outlier_count", pa.int64()) for metric in METRICS),
        ("revision", pa.int64()),
    ]
)

QUARANTINE = pa.schema(
    [
        *MESSAGE,
        ("kind", pa.string()),
        ("encoding", pa.string()),
        ("payload", pa.binary()),
        ("payload_bytes", pa.int64()),
        ("payload_sha256", pa.string()),
        ("reason", pa.string()),
        ("field", pa.string()),
        ("rule", pa.string()),
        ("message", pa.string()),
        ("resolution", pa.string()),
        ("dismissed_because", pa.string()),
        ("dismissed_at", TIME),
        ("revision", pa.int64()),
    ]
)

DUPLICATE = pa.schema(
    [
        *MESSAGE,
        ("kind", pa.string()),
        ("record_id", pa.string()),
        ("report_id", pa.string()),
        ("revision", pa.int64()),
    ]
)

LOST = pa.schema(
    [
        *MESSAGE,
        ("after", pa.string()),
        ("entries", pa.int64()),
        ("reason", pa.string()),
        ("revision", pa.int64()),
    ]
)
"""Entries that left a stream before they were read: `entries` of them, or an unknown number. All are newer
than `after`, the last entry that had been read. `message_id` is the first entry that could be read again, or
the stream's last; received_at is the time of `after`."""


@dataclass(frozen=True)
class Preference:
    """A term of the rule which row of a key is kept: the smallest, or `largest`, value of a column.

    A null is smaller than any value. Texts compare by their length in bytes first: `5-9` is before `5-10`.
    """

    column: str
    largest: bool = False
    is_text: bool = False


KEPT_ROW = (
    Preference("revision", largest=True),
    Preference("received_at"),
    Preference("source", is_text=True),
    Preference("message_id", is_text=True),
)
"""Which of several rows with one key is kept; a term counts where the terms before it are equal. A table that
lacks a column skips its term. Parquet files, BigQuery and history follow this rule, so the order of writes
does not matter."""


@dataclass(frozen=True)
class Table:
    """One table of the output.

    `key`: the columns that identify a row. `order`: the first columns by which the rows of a file are sorted.
    `time`: the column that decides which file a row belongs to; empty if the first column of the key does.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    order: tuple[str, ...]
    time: str

    @property
    def file_order(self) -> tuple[str, ...]:
        """The columns by which the rows of a file are sorted. They contain the key, so equal sets of rows are
        equal files."""
        return (*self.order, *(name for name in self.key if name not in self.order))

    @property
    def span_time(self) -> str:
        """The column that decides whether a row is in a span of time: `time`, of agents effective_at."""
        return self.time or "effective_at"

    @property
    def preferences(self) -> tuple[Preference, ...]:
        """The terms of KEPT_ROW that count in this table."""
        return tuple(each for each in KEPT_ROW if each.column in self.schema.names)

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that say which message a row came from, its revision, or why and when it was dismissed.

        Two outputs with the same reports may differ in them; `parity` compares them only with `--identity`.
        """
        names = {name for name, _ in MESSAGE} | {"effective_at", "revision"}
        names |= {"dismissed_because", "dismissed_at"}
        return tuple(name for name in self.schema.names if name in names)


REPORTS = Table(
    "kpi_reports",
    pa.schema([*REPORT, pa.field("revision", pa.int64()), *ENRICHMENT, *FLAGS, *BASELINE]),
    key=("report_id",),
    order=("agent_id", "recorded_at", "report_id"),
    time="recorded_at",
)
AGGREGATIONS = Table(
    "kpi_aggregations",
    AGGREGATION,
    key=("granularity", "agent_id", "time_window_start"),
    order=("agent_id", "time_window_start"),
    time="time_window_start",
)
QUARANTINED = Table("quarantine", QUARANTINE, key=MESSAGE_KEY, order=MESSAGE_KEY, time="received_at")
REPLAYED, WAIVED = "replayed", "recency waived"
CLOSED = (REPLAYED, WAIVED)
"""Resolutions of a quarantine row whose message counts as a report or a duplicate instead."""
DISMISSED = "dismissed"
"""The resolution of a quarantine row whose message was corrected or given up by its producer."""
DUPLICATES = Table("duplicates", DUPLICATE, key=MESSAGE_KEY, order=MESSAGE_KEY, time="received_at")
TRIMMED = Table(
    "trimmed",
    LOST,
    key=("source", "after", "reason"),
    order=("source", "after", "reason"),
    time="received_at",
)
"""Entries that left a stream before they were read. Not in TABLES, since its rows are not messages. A gap
that is found again after a restart may have grown: its key and file stay the same, and its revision is the
number of entries, of a reset its end, so the larger row is kept."""
FLEET = Table(
    "kpi_fleet",
    pa.schema([field for field in AGGREGATION if field.name != "agent_id"]),
    key=("granularity", "target_agent_type", "time_window_start"),
    order=("target_agent_type", "time_window_start"),
    time="time_window_start",
)
"""The windows of AGGREGATIONS over all agents of a type. Not in TABLES, since it is made only for sinks that
take it. A report counts under its own type and never moves, so a row's revision only grows."""


def _make_record_table(
    name: str, columns: pa.Schema, key: tuple[str, ...], order: tuple[str, ...], time: str
) -> Table:
    schema = pa.schema([*columns, *(pa.field(*column) for column in MESSAGE), ("schema_version", pa.int64())])
    return Table(name, schema, key, order, time)


_TASK_KEY, _AGENT_KEY = ("task_id", "version"), ("agent_id", "version")
TASKS = _make_record_table("tasks", TASK, _TASK_KEY, ("created_at", *_TASK_KEY), "created_at")
RESULTS = _make_record_table("results", RESULT, _TASK_KEY, ("completed_at", *_TASK_KEY), "completed_at")
AGENTS = _make_record_table("agents", AGENT, _AGENT_KEY, ("agent_id", "effective_at", "version"), "")
SYSTEM_HEALTH = _make_record_table("system_health", HEALTH, MESSAGE_KEY, MESSAGE_KEY, "received_at")
RECORD_TABLES = {table.name: table for table in (TASKS, RESULTS, AGENTS, SYSTEM_HEALTH)}
"""The tables of records: what other messages than reports say. Every version of a record is kept; the current
one at a time is that with the largest (effective_at, version) up to it. They have no revision."""
TABLES = {
    table.name: table for table in (REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES, *RECORD_TABLES.values())
}


def find_table(name: str) -> Table:
    """The table with this name; TRIMMED and FLEET too."""
    return (TABLES | {TRIMMED.name: TRIMMED, FLEET.name: FLEET})[name]
