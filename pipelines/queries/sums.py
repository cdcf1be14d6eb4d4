"""Means and spread of latency and accuracy by agent, of reports or of windows that have them.

A window has the number, the means and the standard deviation of its reports. DuckDB makes such windows of
reports; a service merges those that an output has (`pipelines.service.window_sums`). The sum of accuracy is
one of integers (1e-12), so that it does not depend on the order of rows: a cursor compares it with the one of
the page before. Percentiles of windows do not merge, so no query asks for them here.
"""

from pipelines.queries.query import QueryInput, QueryWindows
from schemas.tables import AGGREGATIONS, REPORTS

REPORT_ROWS = QueryInput("reports", REPORTS)
_WINDOW_ROWS = QueryInput("windows", AGGREGATIONS)
WINDOWS = ("time_window_start", "agent_id", "task_count", "avg_latency_ms", "latency_stddev", "avg_accuracy")
"""The columns of windows that are merged."""
_OF_REPORTS = """agent_id, count(*) AS task_count, avg(latency_ms) AS avg_latency_ms,
    stddev_samp(latency_ms) AS latency_stddev,
    sum(round(accuracy * 1e12)::HUGEINT)::DOUBLE / count(*) / 1e12 AS avg_accuracy
FROM reports
GROUP BY ALL"""

BY_AGENT = QueryWindows(
    _WINDOW_ROWS,
    WINDOWS,
    f"SELECT NULL::TIMESTAMPTZ AS time_window_start, {_OF_REPORTS}",
    (
        ("agent_id", "agent_id"),
        ("avg_latency", "avg_latency_ms"),
        ("avg_accuracy", "avg_accuracy"),
        ("task_count", "task_count"),
        ("latency_stddev", "latency_stddev"),
    ),
)
BY_HOUR = QueryWindows(
    _WINDOW_ROWS,
    WINDOWS,
    f"SELECT date_trunc('hour', recorded_at) AS time_window_start, {_OF_REPORTS}",
    (
        ("hour", "time_window_start"),
        ("agent_id", "agent_id"),
        ("avg_latency", "avg_latency_ms"),
        ("avg_accuracy", "avg_accuracy"),
        ("sample_size", "task_count"),
    ),
    by_hour=True,
)
