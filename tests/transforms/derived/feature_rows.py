"""Features of a few reports, by report_id: `task_sums` is derived first, as the engine does."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pipelines.settings import Settings
from tests.transforms.derived import contexts
from tests.transforms.derived.contexts import Row, at
from transforms.derived import features, task_sums
from transforms.derived.bounds import EVER, Period
from transforms.derived.registry import find_stored_table
from transforms.derived.run import derive_rows

MINUTE, HOUR = 60.0, 3600.0


def report(name: str = "r", recorded: float = 0, late: float | None = 1, **fields: Any) -> Row:
    """A row of kpi_reports with what features read."""
    scores = {"performance_score": 0.5, "hour_of_day": 12, "day_of_week": 3}
    return contexts.report(name, recorded, late, **(scores | fields))


def past(*minutes: float, name: str = "p", **columns: Iterable[Any]) -> list[Row]:
    """Reports of the agent `a`, half a minute after these minutes, each with its values of `columns`."""
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())] or [{}] * len(minutes)
    return [
        report(f"{name}{place}", minute * MINUTE + 30, **fields)
        for place, (minute, fields) in enumerate(zip(minutes, rows))
    ]


def window(start: float, count: int, name: str = "a", granularity: str = "1h") -> Row:
    """A row of kpi_aggregations; `start` in hours after NOON."""
    times = {"time_window_start": at(start * HOUR), "time_window_end": at((start + 1) * HOUR)}
    return {"granularity": granularity, "agent_id": name, "task_count": count} | times


def store(
    reports: Iterable[Row],
    tasks: Iterable[Row] = (),
    agents: Iterable[Row] = (),
    windows: Iterable[Row] = (),
) -> dict[str, pa.Table]:
    """The stored tables with these rows."""
    schema = find_stored_table("kpi_aggregations").schema
    aggregations = pa.Table.from_pylist(list(windows), schema=schema)
    return contexts.store(reports, tasks, agents=agents, kpi_aggregations=aggregations)


def derive_sums(stored: Mapping[str, pa.Table], **settings: Any) -> dict[str, pa.Table]:
    """The table `task_sums` of all reports."""
    sums = derive_rows(task_sums.TABLE, stored, Settings(**settings).derived_settings())
    return {"task_sums": pa.Table.from_batches([sums])}


def derive(
    stored: Mapping[str, pa.Table], period: Period = EVER, threads: int = 1, **settings: Any
) -> pa.RecordBatch:
    """The rows of features for a span; task_sums are derived unless they are given."""
    if "task_sums" not in stored:
        stored = {**stored, **derive_sums(stored, **settings)}
    return derive_rows(features.TABLE, stored, Settings(**settings).derived_settings(), period, threads)


def find(*given: Any, **settings: Any) -> dict[str, Row]:
    """The features of reports (and tasks, agents, windows), by report_id."""
    return {row["report_id"]: row for row in derive(store(*given), **settings).to_pylist()}
