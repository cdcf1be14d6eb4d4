"""Compare orders of the rows in the file of a sealed day: blocks of hours, each sorted by agent and time.

For each length of a block, the first day of the reports of OUT is written as one file. Prints lines of
Markdown: size, and s of CPU (the least of five) to recall an hour, to find the newest reports of an agent,
and to find those of a task.

    python -m tests.benchmarks.day_order OUT
"""

import argparse
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import duckdb
import pyarrow as pa

from schemas.tables import REPORTS
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import concat
from transforms.core.time_range import Span
from transforms.sinks.parquet import day_file
from transforms.sinks.parquet.parquet_file import read_file, read_span

WAYS = ((24, 1 << 16), (24, 1 << 15), (6, 1 << 15), (3, 1 << 15), (1, 1 << 15))
"""Hours of a block, and rows of a row group."""
COLUMNS = "recorded_at, report_id, task_id, agent_id, latency_ms, accuracy, cpu_usage, memory_mb"


def main() -> None:
    """Write the day in each way, read it, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    rows = read_day(parser.parse_args().output)
    print("| hours, rows of a row group | MB | an hour | an agent | a task |\n|---|---|---|---|---|")
    with TemporaryDirectory(prefix="kpiflow-order-") as folder:
        path = Path(folder) / "day.parquet"
        for hours, group in WAYS:
            with mock.patch.multiple(day_file, BLOCK_HOURS=hours, ROW_GROUP=group):
                path.write_bytes(day_file.encode_day_file(REPORTS, rows))
            times = " | ".join(f"{least_cpu(read):.3f}" for read in list_reads(path, rows))
            print(f"| {hours}, {group:,} | {path.stat().st_size / 1e6:.1f} | {times} |", flush=True)


def read_day(output: Path) -> pa.RecordBatch:
    """The reports of the first day of an output of files of hours, in the order of the table."""
    first = min((output / REPORTS.name).glob("date=2*"))
    rows = concat([read_file(path) for path in sorted(first.rglob("*.parquet"))])
    return rows.take(pa.array(sort_by_columns(rows.select(REPORTS.file_order), REPORTS.file_order)))


def list_reads(path: Path, rows: pa.RecordBatch) -> list[Callable[[], object]]:
    """What is read of the file: an hour in the middle, an agent, a task."""
    middle = rows["recorded_at"][rows.num_rows // 2].as_py()
    start = middle.replace(minute=0, second=0, microsecond=0)
    agent, task = (rows[name][rows.num_rows // 2].as_py() for name in ("agent_id", "task_id"))
    connection = duckdb.connect(config={"threads": 1})

    def find(condition: str) -> object:
        newest = "ORDER BY recorded_at DESC, report_id LIMIT 100"
        return connection.sql(f"SELECT {COLUMNS} FROM '{path}' WHERE {condition} {newest}").fetchall()

    return [
        lambda: recall(path, start),
        lambda: find(f"agent_id = '{agent}'"),
        lambda: find(f"task_id = '{task}'"),
    ]


def recall(path: Path, start: datetime) -> int:
    """Read the reports of an hour, as a backfill does; how many there are."""
    span = Span(start, start + timedelta(hours=1))
    return sum(part.num_rows for part in read_span(path.read_bytes(), REPORTS.time, span))


def least_cpu(read: Callable[[], object]) -> float:
    """The least s of CPU of five calls."""
    times = []
    for _ in range(5):
        began = time.process_time()
        read()
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    main()
