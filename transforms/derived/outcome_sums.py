"""The derived table `outcome_sums`: how the tasks of a minute went, counted for `recommendations`.

A measure is data: which reports it counts, for whom, and how many of them are beyond each of its steps.
docs/columns.md defines every column and measure.
"""

from dataclasses import dataclass

import pyarrow as pa

from schemas.tables import TIME, Table
from transforms.core.time_units import MINUTE_US, SECOND_US
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.feature_sql import join_queries
from transforms.derived.feature_sql.context import FEEDS, LATE_US

LADDER = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.95, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Shares of a quota: of each, how many tasks used more is counted."""
NEAR_QUOTA = 0.95
MOST_CORES = 10**9
"""Larger quotas count as this one in sums of quotas; nobody has as many cores."""


@dataclass(frozen=True)
class OutcomeMeasure:
    """What is counted of the finished tasks of a minute, in SQL over `cases`.

    `subject`: for whom. `known`: which tasks count. `total`: a whole number that is added up: the quota or
    time that could be changed. `hits`: what is counted of them, each a condition.
    """

    name: str
    subject: str
    known: str
    total: str
    hits: tuple[str, ...]

    def select(self) -> str:
        """SQL: the sums of this measure."""
        counts = ", ".join(f"count(*) FILTER ({hit})" for hit in self.hits)
        return f"""
        SELECT minute, '{self.name}' AS measure, {self.subject} AS subject, count(*) AS task_count,
            sum({self.total})::BIGINT AS total, array_to_string([{counts}], ' ') AS counts
        FROM cases WHERE {self.known} AND {self.subject} IS NOT NULL GROUP BY ALL"""


def _measure_quota(name: str, used: str, quota: str, total: str) -> OutcomeMeasure:
    hits = tuple(f"{used} > {quota} * {share!r}::DOUBLE" for share in LADDER)
    return OutcomeMeasure(name, "target_agent_type", f"{quota} > 0 AND {used} IS NOT NULL", total, hits)


MEASURES = (
    _measure_quota("memory", "memory_used", "max_memory_mb", "max_memory_mb"),
    # A task may name any number of cores, and a sum of all must fit into the column.
    _measure_quota(
        "cpu", "cores_used", "max_cpu_cores", f"round(least(max_cpu_cores, {MOST_CORES}) * 1000)::BIGINT"
    ),
    OutcomeMeasure(
        "timeouts",
        "target_agent_type",
        "max_execution_time_secs > 0 AND success IS NOT NULL",
        "max_execution_time_secs",
        (f"NOT success AND time_used >= max_execution_time_secs * {NEAR_QUOTA!r}::DOUBLE",),
    ),
    OutcomeMeasure(
        "deadlines",
        "priority::VARCHAR",
        "deadline IS NOT NULL AND completed IS NOT NULL",
        f"(deadline - created) // {SECOND_US}",
        ("completed > deadline",),
    ),
)

_MINUTE = f"epoch_us({{0}}) - (epoch_us({{0}}) % {MINUTE_US} + {MINUTE_US}) % {MINUTE_US}"


QUERIES = {
    # Of two versions of a task or a result none is known to be the right one.
    "ambiguous": "SELECT report_id FROM inconsistencies WHERE rule IN ('task_changed', 'result_changed')",
    "counted": f"""
        SELECT report_id, task_id, source, {_MINUTE.format("recorded_at")} AS minute, latency_ms, memory_mb,
            cpu_usage, execution_context.available_cores AS cores,
            effective_at + to_seconds(context_wait_seconds) AS horizon,
            recorded_at - to_hours(context_hours) AS oldest
        FROM reports, settings
        WHERE {FEEDS} AND epoch_us(recorded_at) - epoch_us(effective_at) <= {LATE_US}""",
    "cases": """
        SELECT minute, t.target_agent_type, t.priority, epoch_us(deadline) AS deadline,
            epoch_us(created_at) AS created, max_cpu_cores, max_memory_mb, max_execution_time_secs,
            epoch_us(completed_at) AS completed, success,
            greatest(memory_mb, coalesce(memory_peak_mb, 0)) AS memory_used,
            cpu_usage * cores AS cores_used,
            greatest(latency_ms, coalesce(execution_time_ms, 0)) / 1000 AS time_used
        FROM counted r JOIN tasks t ON t.task_id = r.task_id AND t.effective_at <= horizon
            AND created_at >= oldest
        LEFT JOIN results s ON s.task_id = r.task_id AND s.effective_at <= horizon
            AND completed_at >= oldest
        WHERE report_id NOT IN (FROM ambiguous)""",
    "known_minutes": """
        SELECT minute, max(horizon) AS horizon FROM counted GROUP BY minute""",
    "accepted": """
        SELECT minute, source, count(*) AS n FROM counted GROUP BY minute, source""",
    # What was rejected in a minute of which there are reports, as far as it came before the last of them.
    "rejected": f"""
        SELECT minute, source, count(*) AS n
        FROM quarantine q JOIN known_minutes k
            ON k.minute = {_MINUTE.format("q.received_at")} AND q.received_at <= horizon
        WHERE coalesce(kind, 'kpi_report') = 'kpi_report' AND reason NOT IN ('stale', 'future', 'refused')
        GROUP BY minute, source""",
    "sums": "\nUNION ALL".join(measure.select() for measure in MEASURES)
    + """
        UNION ALL
        SELECT minute, 'rejected', source, coalesce(a.n, 0) + coalesce(b.n, 0), NULL,
            coalesce(b.n, 0)::VARCHAR
        FROM accepted a FULL JOIN rejected b USING (minute, source)""",
}

OUTCOME_SUMS = Table(
    "outcome_sums",
    pa.schema(
        [
            ("time_window_start", TIME),
            ("measure", pa.string()),
            ("subject", pa.string()),
            ("task_count", pa.int64()),
            ("total", pa.int64()),
            ("counts", pa.string()),
        ]
    ),
    key=("time_window_start", "measure", "subject"),
    order=("time_window_start", "measure", "subject"),
    time="time_window_start",
)

TABLE = DerivedTable(
    OUTCOME_SUMS,
    version=1,
    inputs=(
        Input("tasks", "context_hours", is_joined=True),
        Input("results", "context_hours", is_joined=True),
        Input("quarantine"),
        Input("inconsistencies"),
    ),
    sql=join_queries(
        QUERIES,
        """SELECT make_timestamptz(minute) AS time_window_start, measure, subject, task_count, total, counts
        FROM sums""",
    ),
)
