"""Rows of tables, made by hand, for tests of what is stored: of reports, windows, records, quarantine and
duplicates."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.settings import Settings
from pipelines.verify.reconcile import Messages, Unreadable
from schemas.kinds import Kind
from schemas.tables import GRANULARITIES, Table
from transforms.core.record_batches import conform
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
TEN_MINUTES = Settings.model_construct().model_copy(update={"file_minutes": 10})
Row = dict[str, Any]


def batch(table: Table, rows: list[Row]) -> pa.RecordBatch:
    named = pa.schema([field for field in table.schema if any(field.name in row for row in rows)])
    return conform(pa.RecordBatch.from_pylist(rows, schema=named), table.schema)


def report(number: int, second: int, **values: Any) -> Row:
    identity: Row = {
        "report_id": f"r{number}",
        "source": "s",
        "message_id": f"{number}-0",
        "received_at": NOON,
        "revision": 0,
    }
    flags = {"is_latency_outlier": number % 3 == 0, "is_cpu_outlier": number % 2 == 0}
    at = NOON + timedelta(seconds=second)
    return {
        **identity,
        **flags,
        "agent_id": "ab"[number % 2],
        "recorded_at": at,
        "latency_ms": 100.0 + number / 7,
        **values,
    }


def refused(number: int, **values: Any) -> Row:
    message = {"source": "s", "message_id": f"{number}-0", "received_at": NOON}
    return {**message, "payload": b"{", "reason": "json", "revision": 0, **values}


def duplicate(number: int, of: int, **values: Any) -> Row:
    return {**refused(number), "report_id": f"r{of}", "revision": 1, **values}


def windows(reports: list[Row]) -> list[Row]:
    """The windows of reports, counted one by one."""
    groups: dict[tuple[str, str, datetime], list[Row]] = defaultdict(list)
    for row in reports:
        for granularity, seconds in GRANULARITIES.items():
            start = row["recorded_at"].timestamp() // seconds * seconds
            groups[granularity, row["agent_id"], datetime.fromtimestamp(start, UTC)].append(row)
    return [
        {
            "granularity": granularity, "agent_id": agent, "time_window_start": start,
            "task_count": len(rows), "revision": len(rows),
            "avg_latency_ms": sum(row["latency_ms"] for row in reversed(rows)) / len(rows),
            **{f"{m}_outlier_count": sum(row.get(f"is_{m}_outlier", False) for row in rows)
               for m in ("latency", "accuracy", "cpu", "memory")},
        }
        for (granularity, agent, start), rows in groups.items()
    ]  # fmt: skip


def put(output: Path, table: Table, rows: list[Row]) -> None:
    if rows:
        ParquetStore(LocalFolder(output), 10).write(table, [batch(table, rows)])


def stored(kind: Kind, content: int, message: int, received_at: datetime | None = NOON) -> Row:
    """A row of a kind's table: a message whose content has a number."""
    row: Row = {"source": kind.stream, "message_id": f"{message}-0", "received_at": received_at}
    if kind.is_report:
        return report(content, 60 * content, **row)
    keys = {name: f"{name}{content}" for name in kind.table.key if name not in row}
    times = {kind.table.time: NOON + timedelta(minutes=content)} if kind.table.time else {}
    return {**keys, **times, "effective_at": NOON, **row}


def rejected(kind: Kind, message: int, received_at: datetime | None = NOON) -> Row:
    """A row of quarantine: a message of a kind that is not valid."""
    return refused(message, kind=kind.schema, source=kind.stream, received_at=received_at)


def repeated(kind: Kind, content: int, message: int) -> Row:
    """A row of duplicates: a message of a kind with the content of another."""
    key = " ".join(stored(kind, content, message)[name] for name in kind.table.key)
    name = "report_id" if kind.is_report else "record_id"
    return refused(message, kind=kind.schema, source=kind.stream) | {name: key, "revision": 1}


def as_source(rows: Iterable[Row]) -> Messages:
    """A source with the messages of these rows."""
    names = [{name: row[name] for name in ("source", "message_id")} for row in rows]

    def messages(_: Unreadable) -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist(names).to_batches() if names else ()

    return messages
