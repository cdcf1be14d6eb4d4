"""The table of data quality: four scores for each source and window of received_at."""

from collections.abc import Mapping

import pyarrow as pa

from schemas.readers.formats import FIRST_US
from schemas.tables import CLOSED, TIME, Table
from transforms.core.time_units import HOUR_US, MINUTE_US
from transforms.derived.derived_table import Clock, DerivedTable, Input

COUNTS = (
    "received", "incomplete", "checked", "inaccurate", "timed", "timely", "related", "consistent",
)  # fmt: skip
SCORES = {
    "completeness": ("received - incomplete", "received"),
    "accuracy": ("checked - inaccurate", "checked"),
    "timeliness": ("timely", "timed"),
    "consistency": ("consistent", "related"),
}
"""Numerator and denominator of each score."""


def count_score(score: str, counts: Mapping[str, int]) -> tuple[int, int]:
    """Numerator and denominator of a score of messages with these counts (COUNTS)."""
    numerator, denominator = SCORES[score]
    first, _, second = numerator.partition(" - ")
    return counts[first] - (counts[second] if second else 0), counts[denominator]


_UNREADABLE = (
    "oversize",
    "envelope",
    "depth",
    "utf8",
    "json",
    "protobuf",
    "duplicate_key",
    "not_object",
    "error",
)
_RECORDS = ("tasks", "results", "agents", "system_health")


def _quote(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _floor(time: str, width: int) -> str:
    """SQL: the start of the window of a time in microseconds; no number that is divided is negative."""
    return f"({time} - ({FIRST_US})) // {width} * {width} + ({FIRST_US})"


def _select_stored(name: str) -> str:
    """SQL: the counts of the messages of a table whose rows are neither reports nor rejected."""
    checked = 0 if name == "duplicates" else 1
    counts = f"0 AS incomplete, {checked} AS checked, 0 AS inaccurate"
    return f"SELECT source, message_id, received_at, {counts}, {_NO_REPORT} FROM {name}"


_NO_REPORT = "0 AS timed, 0 AS timely, 0 AS related, 0 AS consistent"
_STORED = "\n    UNION ALL ".join(_select_stored(name) for name in ("duplicates", *_RECORDS))

_SQL = f"""
WITH wrong AS (SELECT DISTINCT report_id FROM inconsistencies WHERE severity = 'error'),
-- Messages that were let in after all count as when they were rejected.
replayed AS (SELECT source, message_id FROM quarantine WHERE resolution IN ({_quote(CLOSED)})),
rejected AS (
    SELECT source, received_at,
        (reason IN ({_quote(_UNREADABLE)}) OR (reason = 'schema' AND coalesce(rule = 'required' OR
            (rule = 'type' AND starts_with(message, 'None is not of type')), false)))::INTEGER AS incomplete,
        (reason = 'schema')::INTEGER AS is_schema,
        (reason IN ('stale', 'future'))::INTEGER AS is_recency,
        (coalesce(kind, 'kpi_report') = 'kpi_report')::INTEGER AS is_report
    FROM quarantine
),
stored AS (
    SELECT source, message_id, received_at, 0 AS incomplete, 1 AS checked,
        (is_latency_outlier OR is_accuracy_outlier OR is_cpu_outlier OR is_memory_outlier)::INTEGER
            AS inaccurate,
        (received_at IS NOT NULL)::INTEGER AS timed,
        coalesce(epoch_us(received_at) - epoch_us(recorded_at) <= timely_seconds * 1000000, false)::INTEGER
            AS timely,
        1 AS related, (report_id NOT IN (FROM wrong))::INTEGER AS consistent
    FROM reports CROSS JOIN settings
    UNION ALL {_STORED}
),
messages AS (
    SELECT source, received_at, incomplete, (is_schema - incomplete * is_schema) + is_recency AS checked,
        is_schema - incomplete * is_schema AS inaccurate, is_recency * is_report AS timed, 0 AS timely,
        0 AS related, 0 AS consistent
    FROM rejected
    UNION ALL
    SELECT * EXCLUDE (message_id) FROM stored ANTI JOIN replayed USING (source, message_id)
),
minutes AS (
    SELECT source, {_floor("epoch_us(received_at)", MINUTE_US)} AS start,
        count(*) AS received, {", ".join(f"sum({name}) AS {name}" for name in COUNTS[1:])}
    FROM messages
    GROUP BY source, start
),
hours AS (
    SELECT source, {_floor("start", HOUR_US)} AS start,
        {", ".join(f"sum({name}) AS {name}" for name in COUNTS)}
    FROM minutes
    GROUP BY ALL
),
windows AS (
    SELECT '1m' AS granularity, {MINUTE_US} AS width, * FROM minutes WHERE start IS NOT NULL
    UNION ALL
    SELECT '1h', {HOUR_US}, * FROM hours
),
scores AS (
    SELECT granularity, source, make_timestamptz(start) AS time_window_start,
        make_timestamptz(start + width) AS time_window_end,
        {", ".join(f"{name}::BIGINT AS {name}" for name in COUNTS)},
        {
    ", ".join(
        f"(({part})::DOUBLE / nullif({whole}, 0)::DOUBLE) AS {score}"
        for score, (part, whole) in SCORES.items()
    )
}
    FROM windows
)
SELECT *, CASE WHEN {
    " AND ".join(f"coalesce({score} >= {score}_threshold, true)" for score in SCORES)
} THEN 'met' ELSE 'missed' END AS verdict
FROM scores CROSS JOIN (
    SELECT {", ".join(f"{score}_threshold" for score in SCORES)} FROM settings
)
"""

TABLE = DerivedTable(
    Table(
        "data_quality",
        pa.schema(
            [
                ("granularity", pa.string()),
                ("source", pa.string()),
                ("time_window_start", TIME),
                ("time_window_end", TIME),
                *((name, pa.int64()) for name in COUNTS),
                *((name, pa.float64()) for name in SCORES),
                *((f"{name}_threshold", pa.float64()) for name in SCORES),
                ("verdict", pa.string()),
            ]
        ),
        key=("granularity", "source", "time_window_start"),
        order=("source", "time_window_start"),
        time="time_window_start",
    ),
    version=1,
    inputs=(
        Input("inconsistencies"),
        Input("quarantine"),
        Input("duplicates"),
        *(Input(name, "context_hours") for name in _RECORDS),
    ),
    sql=_SQL,
    clock=Clock.RECEIVED,
)
