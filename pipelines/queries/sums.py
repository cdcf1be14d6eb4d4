"""Means and spread of latency and accuracy by agent, merged from reports and from windows of reports.

A window has the number, the means and the standard deviation of its reports. Numbers merge exactly. Sums of
squared distances merge after Chan, Golub and LeVeque (1979), up to rounding. The sum of accuracy is one of
integers (1e-12), so that it does not depend on the order of rows: a cursor compares it with the one of the
page before. Percentiles of windows do not merge, so no query asks for them here.
"""

from pipelines.queries.query import Input
from schemas.tables import AGGREGATIONS, REPORTS

REPORT_ROWS = Input("reports", REPORTS)
WINDOW_ROWS = Input("windows", AGGREGATIONS)
WINDOWS = ("time_window_start", "agent_id", "task_count", "avg_latency_ms", "latency_stddev", "avg_accuracy")
"""The columns of windows that are merged."""
_OF_REPORTS = """count(*) AS n, avg(latency_ms) AS mean,
    coalesce(var_samp(latency_ms), 0) * (count(*) - 1) AS m2,
    sum(round(accuracy * 1e12)::HUGEINT) AS accuracy"""
_OF_WINDOWS = """task_count, avg_latency_ms, coalesce(latency_stddev ** 2, 0) * (task_count - 1),
    round(avg_accuracy * task_count * 1e12)::HUGEINT"""
_COUNTED = "sum(accuracy)::DOUBLE / sum(n) / 1e12 AS avg_accuracy, sum(n)::BIGINT"

BY_AGENT = f"""
SELECT agent_id, first(total) AS avg_latency, {_COUNTED} AS task_count,
    sqrt(sum(m2 + n * (mean - total) ** 2) / nullif(sum(n) - 1, 0)) AS latency_stddev
FROM (
    SELECT *, sum(n * mean) OVER agents / sum(n) OVER agents AS total
    FROM (
        SELECT agent_id, {_OF_REPORTS} FROM reports GROUP BY agent_id
        UNION ALL SELECT agent_id, {_OF_WINDOWS} FROM windows
    )
    WINDOW agents AS (PARTITION BY agent_id)
)
GROUP BY agent_id"""
BY_HOUR = f"""
SELECT hour, agent_id, sum(n * mean) / sum(n) AS avg_latency, {_COUNTED} AS sample_size
FROM (
    SELECT date_trunc('hour', recorded_at) AS hour, agent_id, {_OF_REPORTS}
    FROM reports
    GROUP BY hour, agent_id
    UNION ALL SELECT date_trunc('hour', time_window_start), agent_id, {_OF_WINDOWS} FROM windows
)
GROUP BY hour, agent_id"""
