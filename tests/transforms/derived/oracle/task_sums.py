"""The table task_sums, as docs/columns.md defines it."""

import math
from collections import defaultdict

from tests.transforms.derived.oracle.complexity import find_regressors
from tests.transforms.derived.oracle.context import Context
from tests.transforms.derived.oracle.features import feeds
from tests.transforms.derived.oracle.rows import MINUTE, Row, Settings, Tables
from tests.transforms.derived.oracle.sums import quantize


def derive_task_sums(tables: Tables, settings: Settings) -> list[Row]:
    """One row for each minute and type in which a report with a known task was recorded."""
    context = Context(tables, settings)
    groups = defaultdict(list)
    for report in filter(feeds, tables["kpi_reports"]):
        task = context.find_task(report)
        if task:
            minute = report["recorded_at"] // MINUTE * MINUTE
            groups[minute, task["target_agent_type"]].append((task, math.log(report["latency_ms"])))
    return [make_row(minute, of_type, observed) for (minute, of_type), observed in groups.items()]


def make_row(minute: int, of_type: str, observed: list[tuple[Row, float]]) -> Row:
    y = [latency for _, latency in observed]
    z = [[1, *map(quantize, find_regressors(task)), quantize(latency)] for task, latency in observed]
    sums = [sum(row[j] * row[k] for row in z) for j in range(13) for k in range(j, 13)]
    return {
        "time_window_start": minute,
        "target_agent_type": of_type,
        "task_count": len(observed),
        "low": min(y),
        "high": max(y),
        "sums": " ".join(map(str, sums)),
    }
