"""The queries of reports: by task, agent, type and performance, summaries, anomalies and outliers."""

import pyarrow as pa

from pipelines.queries.query import Lookup, Order, Parameter, ParameterKind, Query, QueryInput
from pipelines.queries.sums import BY_AGENT, BY_HOUR, REPORT_ROWS
from schemas.marks import MARKS
from schemas.readers.formats import TIME
from schemas.tables import METRIC_COLUMNS, OUTLIER_FLAGS, REPORTS

_REPORTS = (REPORT_ROWS,)
_NEWEST = (Order("recorded_at", descending=True), Order("report_id"))
_LIST = pa.schema(
    [
        REPORTS.schema.field(name)
        for name in (
            "recorded_at", "report_id", "task_id", "agent_id", "target_agent_type", "latency_ms", "accuracy",
            "cpu_usage", "memory_mb", "network_bytes", "performance_score", *OUTLIER_FLAGS.values(),
        )
    ]
)  # fmt: skip
AGENT = Parameter("agent_id", "only this agent", "agent_id = $agent_id")
_MARK = Lookup(
    "mark",
    QueryInput("marks", MARKS),
    "report_id",
    """
SELECT report_id, map_from_entries(list((marks.column, verdict) ORDER BY marks.column)) AS mark
FROM marks
WHERE marked_at NOT IN (SELECT replaces FROM marks WHERE replaces IS NOT NULL)
GROUP BY report_id""",
)
"""The newest verdict on each marked column of a report."""

REPORTS_BY_TASK = Query(
    "reports-by-task",
    "the reports of a task with all columns, newest first",
    _REPORTS,
    "SELECT * FROM reports",
    REPORTS.schema,
    _NEWEST,
    (Parameter("task_id", "the task", "task_id = $task_id", required=True),),
)

AGENT_OVER_TIME = Query(
    "agent-over-time",
    "the reports of an agent, newest first",
    _REPORTS,
    "SELECT * FROM reports",
    _LIST,
    _NEWEST,
    (Parameter("agent_id", "the agent", AGENT.condition, required=True),),
)

REPORTS_BY_TYPE = Query(
    "reports-by-type",
    "the reports of a type of agents, newest first",
    _REPORTS,
    "SELECT * FROM reports",
    _LIST,
    _NEWEST,
    (Parameter("agent_type", "the target_agent_type", "target_agent_type = $agent_type", required=True),),
)

REPORTS_BY_PERFORMANCE = Query(
    "reports-by-performance",
    "reports by accuracy and latency, the least accurate first, then the slowest",
    _REPORTS,
    "SELECT * FROM reports",
    _LIST,
    (Order("accuracy"), Order("latency_ms", descending=True), *_NEWEST),
    (
        Parameter("max_accuracy", "accuracy at most", "accuracy <= $max_accuracy", ParameterKind.NUMBER),
        Parameter(
            "min_latency_ms", "latency at least, in ms", "latency_ms >= $min_latency_ms", ParameterKind.NUMBER
        ),
        Parameter("agent_type", "only this target_agent_type", "target_agent_type = $agent_type"),
    ),
)

AGENT_SUMMARY = Query(
    "agent-summary",
    "means, number of reports and spread of latency by agent, the most accurate first",
    _REPORTS,
    BY_AGENT.whole,
    pa.schema(
        [
            ("agent_id", pa.string()),
            ("avg_latency", pa.float64()),
            ("avg_accuracy", pa.float64()),
            ("task_count", pa.int64()),
            ("latency_stddev", pa.float64()),
        ]
    ),
    (Order("avg_accuracy", descending=True), Order("agent_id")),
    (AGENT,),
    windows=BY_AGENT,
)

HOURLY_PATTERNS = Query(
    "hourly-patterns",
    "means of latency and accuracy by hour and agent, where there are enough reports",
    _REPORTS,
    BY_HOUR.whole,
    pa.schema(
        [
            ("hour", TIME),
            ("agent_id", pa.string()),
            ("avg_latency", pa.float64()),
            ("avg_accuracy", pa.float64()),
            ("sample_size", pa.int64()),
        ]
    ),
    (Order("hour"), Order("agent_id")),
    (
        AGENT,
        Parameter(
            "min_reports",
            "only above so many reports",
            "sample_size > $min_reports",
            ParameterKind.INTEGER,
            default=10,
        ),
    ),
    windows=BY_HOUR,
)

ANOMALIES = Query(
    "anomalies",
    "reports far from the mean latency or accuracy of their agent, newest first",
    (*_REPORTS, QueryInput("baseline_reports", REPORTS, span=("baseline_from", "baseline_to"))),
    """
SELECT reports.*, baseline_latency, latency_stddev, baseline_accuracy, accuracy_stddev
FROM reports JOIN (
    SELECT agent_id, avg(latency_ms) AS baseline_latency, stddev_samp(latency_ms) AS latency_stddev,
        avg(accuracy) AS baseline_accuracy, stddev_samp(accuracy) AS accuracy_stddev
    FROM baseline_reports
    GROUP BY agent_id
) USING (agent_id)
WHERE abs(latency_ms - baseline_latency) > $deviations * latency_stddev
    OR abs(accuracy - baseline_accuracy) > $deviations * accuracy_stddev""",
    pa.schema(
        [
            *_LIST,
            ("baseline_latency", pa.float64()),
            ("latency_stddev", pa.float64()),
            ("baseline_accuracy", pa.float64()),
            ("accuracy_stddev", pa.float64()),
            (_MARK.column, pa.map_(pa.string(), pa.string())),
        ]
    ),
    _NEWEST,
    (
        Parameter("baseline_from", "start of the reports that make the means", kind=ParameterKind.TIME),
        Parameter(
            "baseline_to", "end of these reports; without both, those of the query", kind=ParameterKind.TIME
        ),
        Parameter(
            "deviations", "how many standard deviations are far", kind=ParameterKind.NUMBER, default=2.0
        ),
        AGENT,
    ),
    _MARK,
)

_BASELINE = ("low_fence", "high_fence", "q1", "q3", "baseline_state")
_MEASURED = ", ".join(
    f"{{value_column: '{column}', value: {column}, "
    + ", ".join(f"{name}: {metric}_{name}" for name in _BASELINE)
    + f", is_outlier: {OUTLIER_FLAGS[metric]}}}"
    for metric, column in METRIC_COLUMNS.items()
)

OUTLIERS = Query(
    "outliers",
    "values outside the fences of their agent's past hour, with these fences, newest first",
    _REPORTS,
    f"""
SELECT * EXCLUDE (found), found.*
FROM (
    SELECT recorded_at, report_id, task_id, agent_id, target_agent_type, baseline_n,
        unnest([{_MEASURED}]) AS found
    FROM reports
    WHERE {" OR ".join(OUTLIER_FLAGS.values())}
)
WHERE found.is_outlier""",
    pa.schema(
        [
            *(REPORTS.schema.field(name) for name in ("recorded_at", "report_id", "task_id", "agent_id")),
            *(REPORTS.schema.field(name) for name in ("target_agent_type", "baseline_n")),
            ("value_column", pa.string()),
            ("value", pa.float64()),
            *((name, pa.float64()) for name in _BASELINE[:4]),
            ("baseline_state", pa.string()),
            (_MARK.column, pa.map_(pa.string(), pa.string())),
        ]
    ),
    (*_NEWEST, Order("value_column")),
    (
        AGENT,
        Parameter(
            "column",
            "only values of this column",
            "value_column = $column",
            choices=tuple(METRIC_COLUMNS.values()),
        ),
    ),
    _MARK,
)
