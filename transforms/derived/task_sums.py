"""The derived table `task_sums`: what the expected latency of a task is fitted to, by minute and type.

docs/columns.md defines every column. `features` adds the sums of a day.
"""

import pyarrow as pa

from schemas.tables import TIME, Table
from transforms.core.time_units import MINUTE_US
from transforms.derived.derived_table import DerivedTable, Input
from transforms.derived.feature_sql import join_queries
from transforms.derived.feature_sql.arithmetic import fix
from transforms.derived.feature_sql.complexity import PRODUCTS, REGRESSORS
from transforms.derived.feature_sql.context import FEEDS, TASK, TASKS, select_task_versions

COLUMNS = pa.schema(
    [
        ("time_window_start", TIME),
        ("target_agent_type", pa.string()),
        ("task_count", pa.int64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("sums", pa.string()),
    ]
)
TASK_SUMS = Table(
    "task_sums",
    COLUMNS,
    key=("time_window_start", "target_agent_type"),
    order=("time_window_start", "target_agent_type"),
    time="time_window_start",
)

_X = ", ".join(f"{text} AS x{place}" for place, text in enumerate(REGRESSORS, 1))
_Z = ", ".join(f"{fix(f'x{place}')} AS z{place}" for place in range(1, len(REGRESSORS) + 1))
_SUMS = ", ".join(f"sum(z{j} * z{k})" for j, k in PRODUCTS)

QUERIES = {
    **TASKS,
    "task_versions": select_task_versions(),
    "regressors": f"""
        SELECT make_timestamptz(epoch_us(recorded_at) - (epoch_us(recorded_at) % {MINUTE_US} + {MINUTE_US})
            % {MINUTE_US}) AS time_window_start, t.target_agent_type, ln(latency_ms) AS y, {_X}
        FROM (SELECT * EXCLUDE (priority, source_layer, target_agent_type) FROM timed WHERE {FEEDS}) r
        JOIN task_versions t ON {TASK}""",
    "fixed": f"""
        SELECT time_window_start, target_agent_type, y, 1::BIGINT AS z0, {_Z},
            {fix("y")} AS z{len(REGRESSORS) + 1}
        FROM regressors""",
}

TABLE = DerivedTable(
    TASK_SUMS,
    version=1,
    inputs=(Input("tasks", "context_hours"),),
    sql=join_queries(
        QUERIES,
        f"""SELECT time_window_start, target_agent_type, count(*) AS task_count, min(y) AS low,
            max(y) AS high, array_to_string([{_SUMS}], ' ') AS sums
        FROM fixed GROUP BY time_window_start, target_agent_type""",
    ),
)
