"""The derived table `features`: each report in the context of its task, its agent and the past.

docs/columns.md defines every column; `feature_sql` has the queries, in parts.
"""

from datetime import timedelta

import pyarrow as pa

from schemas.tables import TIME, Table
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.feature_sql import complexity, context, join_queries, rows, standing, windows

COLUMNS = pa.schema(
    [
        ("report_id", pa.string()),
        ("recorded_at", TIME),
        ("agent_id", pa.string()),
        ("task_id", pa.string()),
        ("context_state", pa.string()),
        ("agent_type", pa.string()),
        ("agent_type_category", pa.string()),
        ("source_layer", pa.string()),
        ("target_agent_type", pa.string()),
        ("priority", pa.int64()),
        ("priority_encoded", pa.int64()),
        ("experience_tasks", pa.int64()),
        ("experience_level", pa.string()),
        ("workload", pa.float64()),
        ("workload_level", pa.string()),
        ("latency_trend", pa.float64()),
        ("latency_trend_se", pa.float64()),
        ("accuracy_trend", pa.float64()),
        ("accuracy_trend_se", pa.float64()),
        ("trend_n", pa.int64()),
        ("throughput_trend", pa.float64()),
        ("throughput_trend_se", pa.float64()),
        ("throughput_trend_n", pa.int64()),
        ("task_complexity_score", pa.float64()),
        ("task_complexity_n", pa.int64()),
        ("cpu_correlation", pa.float64()),
        ("memory_correlation", pa.float64()),
        ("resource_correlation", pa.float64()),
        ("resource_correlation_n", pa.int64()),
        ("agent_fitness_score", pa.float64()),
        ("agent_fitness_weight", pa.float64()),
        ("execution_hour_sin", pa.float64()),
        ("execution_hour_cos", pa.float64()),
        ("execution_day_sin", pa.float64()),
        ("execution_day_cos", pa.float64()),
        ("experiment", pa.string()),
        ("variant", pa.string()),
    ]
)
FEATURES = Table(
    "features", COLUMNS, key=("report_id",), order=("agent_id", "recorded_at"), time="recorded_at"
)

PARTS = (context, windows, complexity, standing, rows)
PAST = timedelta(hours=2, minutes=2)
"""How long before a report the reports begin that it is compared with: the hour before the hour of the minute
before the last two."""
FIT_PAST = timedelta(hours=complexity.FIT_HOURS + 2)

TABLE = DerivedTable(
    FEATURES,
    version=2,
    inputs=(
        Input("past_reports", PAST),
        Input("past_windows", "experience_days"),
        Input("tasks", "context_hours"),
        Input("agents"),
        Input("task_sums", FIT_PAST),
    ),
    sql=join_queries({name: text for part in PARTS for name, text in part.QUERIES.items()}, rows.RESULT),
)
