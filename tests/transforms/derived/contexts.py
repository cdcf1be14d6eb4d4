"""Rows of stored tables for tests of derived tables: reports and records in a line each.

Times are seconds after NOON. A report is recorded at 0, received 1 s later, by agent `a`, for task `t`; it
fits the task, result and agent that these functions give.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import pyarrow as pa

from pipelines.settings import Settings
from tests.builders import NOON
from transforms.derived.bounds import EVER, Period
from transforms.derived.derived_table import DerivedTable
from transforms.derived.registry import find_stored_table
from transforms.derived.run import derive_rows

Row = dict[str, Any]
HOUR = 3600.0


def at(seconds: float | None) -> Any:
    """The moment this long after NOON."""
    return None if seconds is None else NOON + timedelta(seconds=seconds)


def report(name: str = "r", recorded: float = 0, late: float | None = 1, **fields: Any) -> Row:
    """A row of kpi_reports."""
    row = {
        "report_id": name,
        "task_id": "t",
        "agent_id": "a",
        "recorded_at": at(recorded),
        "received_at": None if late is None else at(recorded + late),
        "latency_ms": 1000.0,
        "accuracy": 0.9,
        "cpu_usage": 0.5,
        "memory_mb": 512.0,
        "execution_context": {"available_cores": 4},
        "source": "s",
        "message_id": name,
    }
    outliers = {f"is_{metric}_outlier": False for metric in ("latency", "accuracy", "cpu", "memory")}
    return row | outliers | fields


def task(name: str = "t", created: float = -10, received: float | None = -9, **fields: Any) -> Row:
    """A row of tasks: 2 cores, 512 MB, 1 s and 8 Mbit/s for an agent of type `x`."""
    row = {
        "task_id": name,
        "version": "v1",
        "created_at": at(created),
        "received_at": at(received),
        "effective_at": at(created if received is None else received),
        "target_agent_type": "x",
        "max_cpu_cores": 2.0,
        "max_memory_mb": 512,
        "max_execution_time_secs": 1,
        "max_network_mbps": 8,
        "source": "s",
        "message_id": f"task {name} {created} {received}",
    }
    return row | fields


def result(name: str = "t", completed: float = 0, received: float | None = 2, **fields: Any) -> Row:
    """A row of results."""
    row = {
        "task_id": name,
        "version": "v1",
        "completed_at": at(completed),
        "received_at": at(received),
        "effective_at": at(completed if received is None else received),
        "success": True,
        "source": "s",
        "message_id": f"result {name} {completed} {received}",
    }
    return row | fields


def agent(name: str = "a", received: float | None = -60, **fields: Any) -> Row:
    """A row of agents, of type `x`."""
    row = {
        "agent_id": name,
        "version": "v1",
        "received_at": at(received),
        "effective_at": at(received),
        "agent_type": "x",
        "source": "s",
        "message_id": f"agent {name} {received}",
    }
    return row | fields


def store(
    reports: Iterable[Row],
    tasks: Iterable[Row] = (),
    results: Iterable[Row] = (),
    agents: Iterable[Row] = (),
    **others: pa.Table,
) -> dict[str, pa.Table]:
    """The stored tables with these rows."""
    rows = {"kpi_reports": reports, "tasks": tasks, "results": results, "agents": agents}
    return {
        name: pa.Table.from_pylist(list(each), schema=find_stored_table(name).schema)
        for name, each in rows.items()
    } | others


def derive(
    table: DerivedTable, stored: Mapping[str, pa.Table], period: Period = EVER, **settings: Any
) -> list[Row]:
    """The rows of a derived table."""
    values = Settings(**settings).derived_settings()
    return derive_rows(table, stored, values, period).to_pylist()
