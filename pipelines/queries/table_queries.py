"""The queries of aggregates, features, experiments, trends, data quality, the quarantine and marks."""

import pyarrow as pa

from pipelines.queries.query import Order, Parameter, Query, QueryInput
from pipelines.queries.report_queries import AGENT
from schemas.marks import FLAGS, MARKS, VERDICTS
from schemas.tables import (
    AGGREGATIONS,
    FLEET,
    GRANULARITIES,
    MESSAGE_KEY,
    METRIC_COLUMNS,
    QUARANTINED,
    REPORTS,
    TIME,
)
from transforms.derived.data_quality import TABLE as DATA_QUALITY
from transforms.derived.features import FEATURES as FEATURE_ROWS
from transforms.derived.trend_sql import LEVELS, METRICS
from transforms.derived.trends import TRENDS as TREND_ROWS

EXPERIMENT_METRICS = (*METRIC_COLUMNS.values(), "performance_score")
_SOURCE = Parameter("source", "only this source of messages", "source = $source")
_AGENT_TYPE = Parameter("agent_type", "only this target_agent_type", "target_agent_type = $agent_type")
_TOTAL_MEANS = (
    "success_rate", "avg_latency_ms", "avg_accuracy", "avg_cpu_usage", "avg_memory_mb", "performance_score",
)  # fmt: skip
"""Columns of windows whose means over several windows are weighted by their tasks."""
_NEWEST_WINDOW = Order("time_window_start", descending=True)


def _choose_window(sizes: tuple[str, ...]) -> Parameter:
    return Parameter("granularity", "size of the windows", choices=sizes, default="1h")


AGGREGATES = Query(
    "aggregates",
    "windows of 5s, 1m or 1h by agent, newest first",
    (QueryInput("windows", AGGREGATIONS, window="granularity"),),
    "SELECT * FROM windows WHERE granularity = $granularity",
    AGGREGATIONS.schema,
    (_NEWEST_WINDOW, Order("agent_id")),
    (_choose_window(tuple(GRANULARITIES)), AGENT),
)

FLEET_WINDOWS = Query(
    "fleet",
    "windows of 5s, 1m or 1h over all agents of a type, newest first",
    (QueryInput("windows", FLEET, window="granularity"),),
    "SELECT * FROM windows WHERE granularity = $granularity",
    FLEET.schema,
    (_NEWEST_WINDOW, Order("target_agent_type")),
    (
        _choose_window(tuple(GRANULARITIES)),
        _AGENT_TYPE,
    ),
)

TOTALS = Query(
    "totals",
    "windows of 5s, 1m or 1h over all agents of all types, newest first",
    (QueryInput("windows", FLEET, window="granularity"),),
    f"""
SELECT time_window_start, count(*) AS agent_types, sum(task_count)::BIGINT AS task_count,
    {", ".join(f"sum({name} * task_count) / sum(task_count) AS {name}" for name in _TOTAL_MEANS)}
FROM windows
WHERE granularity = $granularity
GROUP BY time_window_start""",
    pa.schema(
        [
            ("time_window_start", TIME),
            ("agent_types", pa.int64()),
            ("task_count", pa.int64()),
            *((name, pa.float64()) for name in _TOTAL_MEANS),
        ]
    ),
    (_NEWEST_WINDOW,),
    (_choose_window(tuple(GRANULARITIES)),),
)

FEATURES = Query(
    "features",
    "what was known of each report when it came in, newest first",
    (QueryInput("features", FEATURE_ROWS),),
    "SELECT * FROM features",
    FEATURE_ROWS.schema,
    (Order("recorded_at", descending=True), Order("report_id")),
    (AGENT, Parameter("task_id", "only this task", "task_id = $task_id")),
)

EXPERIMENT = Query(
    "experiment",
    "the tasks of an experiment, with their variant and the means of their reports, oldest first",
    (QueryInput("features", FEATURE_ROWS), QueryInput("reports", REPORTS)),
    f"""
SELECT task_id, variant, agent_id, min(reports.recorded_at) AS first_recorded_at, count(*) AS reports,
    {", ".join(f"avg({name}) AS {name}" for name in EXPERIMENT_METRICS)}
FROM features JOIN reports USING (report_id, task_id, agent_id)
WHERE experiment = $experiment AND variant IS NOT NULL
GROUP BY task_id, variant, agent_id""",
    pa.schema(
        [
            ("task_id", pa.string()),
            ("variant", pa.string()),
            ("agent_id", pa.string()),
            ("first_recorded_at", TIME),
            ("reports", pa.int64()),
            *((name, pa.float64()) for name in EXPERIMENT_METRICS),
        ]
    ),
    (Order("first_recorded_at"), Order("task_id"), Order("agent_id"), Order("variant")),
    (Parameter("experiment", "the experiment of the task's metadata", required=True),),
)

EXPERIMENTS = Query(
    "experiments",
    "the experiments that tasks belong to, with their variants and when they were seen, newest first",
    (QueryInput("features", FEATURE_ROWS),),
    """
SELECT experiment, list(DISTINCT variant ORDER BY variant) AS variants, count(DISTINCT task_id) AS tasks,
    count(DISTINCT agent_id) AS agents, min(recorded_at) AS first_recorded_at,
    max(recorded_at) AS last_recorded_at
FROM features
WHERE experiment IS NOT NULL AND variant IS NOT NULL
GROUP BY experiment""",
    pa.schema(
        [
            ("experiment", pa.string()),
            ("variants", pa.list_(pa.string())),
            ("tasks", pa.int64()),
            ("agents", pa.int64()),
            ("first_recorded_at", TIME),
            ("last_recorded_at", TIME),
        ]
    ),
    (Order("last_recorded_at", descending=True), Order("experiment")),
)

TRENDS = Query(
    "trends",
    "slopes and changes of level of agents, types and the fleet, newest first",
    (QueryInput("trends", TREND_ROWS),),
    "SELECT * FROM trends",
    TREND_ROWS.schema,
    (
        _NEWEST_WINDOW,
        *(Order(name) for name in ("kind", "level", "agent_id", "target_agent_type", "metric")),
    ),
    (
        Parameter("kind", "only slopes, or only changes", "kind = $kind", choices=("slope", "change")),
        Parameter("level", "only series of this level", "level = $level", choices=LEVELS),
        AGENT,
        _AGENT_TYPE,
        Parameter("metric", "only this metric", "metric = $metric", choices=tuple(METRICS)),
        Parameter("verdict", "only this verdict", "verdict = $verdict"),
    ),
)

QUALITY = Query(
    "quality",
    "scores of each source by window of received_at, newest first",
    (QueryInput("windows", DATA_QUALITY.table, window="granularity"),),
    "SELECT * FROM windows WHERE granularity = $granularity",
    DATA_QUALITY.table.schema,
    (_NEWEST_WINDOW, Order("source")),
    (_choose_window(("1m", "1h")), _SOURCE),
)

QUARANTINE = Query(
    "quarantine",
    "rejected messages and why, newest first; without their bytes",
    (QueryInput("rejected", QUARANTINED),),
    """
SELECT * REPLACE (coalesce(kind, 'kpi_report') AS kind)
FROM rejected
WHERE $state = 'all' OR resolution IS NULL""",
    pa.schema([field for field in QUARANTINED.schema if field.name != "payload"]),
    (Order("received_at", descending=True), *(Order(name) for name in MESSAGE_KEY)),
    (
        Parameter("state", "messages that are still open, or all", choices=("open", "all"), default="open"),
        Parameter("reason", "only this reason", "reason = $reason"),
        Parameter("kind", "only this kind of message", "kind = $kind"),
        _SOURCE,
    ),
)

_EXAMPLE = "ORDER BY received_at DESC NULLS LAST, source, message_id"

QUARANTINE_CAUSES = Query(
    "quarantine-causes",
    "how many rejected messages are open by cause, with the newest one of each, the most frequent first",
    (QueryInput("rejected", QUARANTINED),),
    f"""
SELECT coalesce(kind, 'kpi_report') AS kind, reason, rule, count(*) AS messages,
    list(DISTINCT field ORDER BY field) FILTER (WHERE field IS NOT NULL) AS fields,
    {", ".join(f"first({name} {_EXAMPLE}) AS {name}" for name in (*MESSAGE_KEY, "received_at", "message"))}
FROM rejected
WHERE resolution IS NULL
GROUP BY ALL""",
    pa.schema(
        [
            ("kind", pa.string()),
            ("reason", pa.string()),
            ("rule", pa.string()),
            ("messages", pa.int64()),
            ("fields", pa.list_(pa.string())),
            *((name, pa.string()) for name in MESSAGE_KEY),
            ("received_at", TIME),
            ("message", pa.string()),
        ]
    ),
    (Order("messages", descending=True), Order("kind"), Order("reason"), Order("rule")),
    (Parameter("kind", "only this kind of message", "kind = $kind"),),
)

MARKED = Query(
    "marks",
    "what people said of flagged values, newest first",
    (QueryInput("marks", MARKS),),
    """
SELECT * FROM marks
WHERE $state = 'all' OR marked_at NOT IN (SELECT replaces FROM marks WHERE replaces IS NOT NULL)""",
    MARKS.schema,
    (Order("marked_at", descending=True),),
    (
        Parameter(
            "state", "of each value the newest mark, or all", choices=("current", "all"), default="current"
        ),
        Parameter("report_id", "only of this report", "report_id = $report_id"),
        Parameter("column", "only of this column of reports", '"column" = $column', choices=tuple(FLAGS)),
        Parameter("verdict", "only this verdict", "verdict = $verdict", choices=VERDICTS),
        AGENT,
    ),
)
