"""Whether a rival's tables say the same as kpiflow's, row by row.

Quartiles are exact with the rivals and of buckets with kpiflow, so these may lie a bucket apart, fences
seven, and a flag may be another where its value is that near to its fence. Percentiles may differ by 1 %,
sums and means by 1e-9. All else is equal.

    python -m tests.benchmarks.rivals.equal KPIFLOWS THEIRS
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from schemas.tables import METRIC_COLUMNS, METRICS, RECORD_TABLES, TABLES

_CONTEXT = ("hostname", "available_cores", "available_memory_mb", "gpu_info", "network_interfaces")
_SAME = (
    "task_id", "agent_id", "recorded_at", "received_at", "source", *METRIC_COLUMNS.values(),
    "network_bytes", "gpu_utilization",
    "priority", "source_layer", "target_agent_type", "error_details",
    *(f"execution_context.{name}" for name in _CONTEXT),
    "schema_version", "revision", "baseline_n", "hour_of_day", "day_of_week", "is_peak_hour",
)  # fmt: skip
_CLOSE = (
    "performance_score", "efficiency_ratio", "resource_efficiency", "cpu_efficiency", "memory_efficiency",
    "network_efficiency"
)  # fmt: skip
_SAME_WINDOWS = (
    "time_window_end", "target_agent_type", "task_count", "min_latency_ms", "max_latency_ms",
    "total_network_bytes", "revision"
)  # fmt: skip
_CLOSE_WINDOWS = (
    "success_rate", "avg_latency_ms", "latency_stddev", "avg_accuracy", "accuracy_stddev", "avg_cpu_usage",
    "avg_memory_mb",
    "performance_score", "efficiency_ratio",
)  # fmt: skip
_BUCKET = {
    "latency": "0.005 * a.latency_q3",
    "accuracy": "1 / 2000",
    "cpu": "1 / 2000",
    "memory": "0.005 * a.memory_q3",
}
_ROUNDED = 1 + 1e-6


class UnequalError(ValueError):
    """Two outputs do not say the same; the message tells where."""


@dataclass(frozen=True)
class Likeness:
    """How far two outputs agree: their rows by table, and the flags and baseline states (of 4 a report) that
    differ."""

    rows: dict[str, int]
    flags: int
    states: int


def likeness(ours: Path, theirs: Path) -> Likeness:
    """How a rival's folder `theirs`, a file a table, compares with kpiflow's output `ours`.

    Raises:
        UnequalError: beyond the tolerances of this module.
    """
    with duckdb.connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        names = [name for name in TABLES if name not in RECORD_TABLES]
        for name in names:
            _view(connection, f"a_{name}", f"{ours}/{name}/**/*.parquet")
            _view(connection, f"b_{name}", f"{theirs}/{name}.parquet")
        rows = {name: _rows(connection, name) for name in names}
        _same(connection, "quarantine", "message_id, reason")
        _same(connection, "duplicates", "message_id")
        flags, states = _reports(connection)
        _windows(connection, flags)
    return Likeness(rows, flags, states)


def _view(connection: duckdb.DuckDBPyConnection, name: str, pattern: str) -> None:
    connection.from_parquet(pattern, hive_partitioning=False).create_view(name)


def _rows(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    ours, theirs = _row(
        connection, f"SELECT (SELECT count(*) FROM a_{name}), (SELECT count(*) FROM b_{name})"
    )
    if ours != theirs:
        raise UnequalError(f"{name} has {ours} rows of kpiflow and {theirs} of the rival")
    return int(ours)


def _same(connection: duckdb.DuckDBPyConnection, table: str, columns: str) -> None:
    """Both have the same values of these columns, once each."""
    ours, theirs = (f"SELECT {columns} FROM {which}_{table}" for which in "ab")
    (lacking,) = _row(connection, f"SELECT count(*) FROM ({ours} EXCEPT ALL {theirs})")
    if lacking:
        raise UnequalError(f"{table}: {lacking} of ({columns}) are not the rival's")


def _reports(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """How many flags and states differ; both are within the tolerance."""
    wrong = {name: f"a.{name} IS DISTINCT FROM b.{name}" for name in _SAME} | {
        name: _apart(name) for name in _CLOSE
    }
    wrong["custom_metrics"] = "(a.custom_metrics IS NULL) <> (b.custom_metrics IS NULL)"
    flags, states = [], []
    for metric in METRICS:
        state, flag, value = f"{metric}_baseline_state", f"is_{metric}_outlier", METRIC_COLUMNS[metric]
        flags.append(f"count(*) FILTER (a.{flag} <> b.{flag})")
        states.append(f"count(*) FILTER (a.{state} <> b.{state})")
        wrong[state] = f"(a.{state} = 'warmup') <> (b.{state} = 'warmup')"
        bucket = f"{_ROUNDED} * ({_BUCKET[metric]})"
        for name in (f"{metric}_q1", f"{metric}_q3"):
            wrong[name] = _apart(name, f"abs(a.{name} - b.{name}) > {bucket}")
        for name in (f"{metric}_low_fence", f"{metric}_high_fence"):
            wrong[name] = _apart(name, f"a.{state} = b.{state} AND abs(a.{name} - b.{name}) > 7 * {bucket}")
        nearest = f"least(abs(a.{value} - b.{metric}_low_fence), abs(a.{value} - b.{metric}_high_fence))"
        wrong[flag] = f"a.{flag} <> b.{flag} AND a.{state} = b.{state} AND {nearest} > 7 * {bucket}"
    _pairs(connection, "reports", "kpi_reports", ("message_id",))
    _none(connection, "reports", wrong)
    counted = _row(connection, f"SELECT {' + '.join(flags)}, {' + '.join(states)} FROM reports")
    return int(counted[0]), int(counted[1])


def _windows(connection: duckdb.DuckDBPyConnection, flags: int) -> None:
    """`flags` of the reports differ: so may the outliers counted by each of the three windows that they are
    in."""
    wrong = {name: f"a.{name} IS DISTINCT FROM b.{name}" for name in _SAME_WINDOWS}
    wrong |= {name: _apart(name) for name in _CLOSE_WINDOWS}
    for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"):
        wrong[name] = _apart(name, f"abs(a.{name} - b.{name}) > 0.01 * b.{name}")
    _pairs(connection, "windows", "kpi_aggregations", TABLES["kpi_aggregations"].key)
    _none(connection, "windows", wrong)
    apart = " + ".join(f"abs(a.{metric}_outlier_count - b.{metric}_outlier_count)" for metric in METRICS)
    (counted,) = _row(connection, f"SELECT coalesce(sum({apart}), 0) FROM windows")
    if counted > 3 * flags:
        raise UnequalError(f"the windows count {counted} outliers otherwise, where {flags} flags differ")


def _pairs(connection: duckdb.DuckDBPyConnection, name: str, table: str, key: tuple[str, ...]) -> None:
    """A view of pairs of rows `a` and `b` of one key; every row has its like."""
    same = " AND ".join(f"x.{column} = y.{column}" for column in key)
    connection.execute(
        f"CREATE VIEW {name} AS SELECT x AS a, y AS b FROM a_{table} AS x JOIN b_{table} AS y ON {same}"
    )
    pairs, rows = _row(connection, f"SELECT (SELECT count(*) FROM {name}), (SELECT count(*) FROM a_{table})")
    if pairs != rows:
        raise UnequalError(f"{table}: {pairs} pairs of {rows} rows")


def _apart(name: str, far: str | None = None) -> str:
    """The condition that two values of a column differ by more than 1e-9, or are `far` apart, or that one of
    them is null."""
    far = far or f"abs(a.{name} - b.{name}) > 1e-9 * greatest(abs(a.{name}), 1)"
    return f"(a.{name} IS NULL) <> (b.{name} IS NULL) OR coalesce({far}, false)"


def _none(connection: duckdb.DuckDBPyConnection, pairs: str, wrong: dict[str, str]) -> None:
    """No pair meets any of the conditions that a column be wrong."""
    counted = _row(
        connection,
        f"SELECT {', '.join(f'count(*) FILTER ({condition})' for condition in wrong.values())} FROM {pairs}",
    )
    if any(counted):
        raise UnequalError(
            f"{pairs} differ: " + ", ".join(f"{name} in {rows}" for name, rows in zip(wrong, counted) if rows)
        )


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return tuple(connection.sql(query).fetchall()[0])


def main() -> None:
    """Print how far two outputs agree; exit code 1 and why, where they do not."""
    try:
        found = likeness(*map(Path, sys.argv[1:3]))
    except UnequalError as error:
        sys.exit(str(error))
    rows = ", ".join(f"{rows:,} of {name}" for name, rows in found.rows.items())
    print(f"equal: {rows}; {found.flags} flags and {found.states} baseline states differ within tolerance")


if __name__ == "__main__":
    main()
