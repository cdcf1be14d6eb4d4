"""An output of some days for maintenance to work on: reports, windows and duplicates, without a pipeline."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.settings import Settings
from schemas.tables import AGGREGATIONS, DUPLICATES, REPORTS, TASKS, Table
from tests.outputs import open_output
from transforms.core.record_batches import build_batch
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import HOT, Ledger, locate_day
from transforms.sinks.parquet.parquet_file import read_file
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

FIRST = date(2026, 1, 1)
SETTINGS = Settings.model_construct()
TABLES = (REPORTS, AGGREGATIONS, DUPLICATES, TASKS)


def make_rows(table: Table, day: date, count: int) -> pa.RecordBatch:
    """Rows of a day at random times, of few agents; every other column is null."""
    rng = np.random.default_rng(day.toordinal())
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    numbers = [f"{day}-{number}" for number in range(count)]
    columns = {
        **{name: pa.array(numbers) for name in ("report_id", "task_id", "message_id")},
        "agent_id": pa.array([f"agent-{number}" for number in rng.integers(0, 9, count)]),
        "source": pa.array(["s"] * count),
        "granularity": pa.array(["1h"] * count),
        "latency_ms": pa.array(rng.random(count)),
        table.time: pa.array((midnight + np.sort(rng.choice(86_400, count, False))) * 1_000_000).cast(
            table.schema.field(table.time).type
        ),
    }
    own = {
        field.name: columns[field.name].cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in table.schema
    }
    return build_batch(own, table.schema, count)


def add_day(output: Path, day: date, count: int = 20, tables: Sequence[Table] = TABLES) -> None:
    """Write the rows of a day into its files of hours."""
    for table in tables:
        write_rows(table, LocalFolder(output), [make_rows(table, day, count)], 30)


def make_output(output: Path, days: int = 2, count: int = 20, tables: Sequence[Table] = TABLES) -> Path:
    """An output with so many days from FIRST."""
    output.mkdir(parents=True)
    open_output(output, SETTINGS, create=True)
    for number in range(days):
        add_day(output, FIRST + timedelta(days=number), count, tables)
    return output


def read_rows(table: Table, folder: str, roots: dict[str, Storage], ledger: Ledger) -> list[dict]:
    """The rows that a reader of this ledger finds in a folder, in the order of the table."""
    names = [(HOT, name) for name in roots[HOT].list_files(folder)]
    current = [
        (tier, name)
        for tier, name in names
        if name.endswith(".parquet")
        and not name.endswith("/day.parquet")
        and _is_current(ledger, folder, name)
    ]
    current += [(place.tier, locate_day(folder, day)) for day, place in ledger.days.get(folder, {}).items()]
    batches = [read_file(roots[tier].get(name).data) for tier, name in current]  # type: ignore[union-attr]
    rows = [row for batch in batches for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: [str(row[name]) for name in table.key])


def _is_current(ledger: Ledger, folder: str, name: str) -> bool:
    day = date.fromisoformat(name.removeprefix(f"{folder}/date=")[:10])
    return not ledger.find(folder, day).sealed and not ledger.is_expired(folder, day)


def list_contents(*roots: Path) -> dict[str, bytes]:
    """Every file of some roots with its bytes, without locks."""
    files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    return {f"{path.parent}/{path.name}": path.read_bytes() for path in files if path.name != "_maintain"}
