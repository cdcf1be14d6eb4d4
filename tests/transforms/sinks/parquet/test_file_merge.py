"""Writing tables: where rows go, what a crash leaves behind, and several writers of one file."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS, Table, find_table
from tests.patience import PATIENCE
from transforms.core.durable_files import replace_file
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.record_batches import conform
from transforms.sinks.parquet import parquet_store
from transforms.sinks.parquet.parquet_file import encode_file, read_file, verify_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.row_merge import merge_rows
from transforms.sinks.sink import Written
from transforms.storage.local_folder import LocalFolder

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
Row = dict[str, Any]


def batch(table: Table, *rows: Row) -> pa.RecordBatch:
    """The rows in all columns of the table."""
    named = pa.schema([field for field in table.schema if any(field.name in row for row in rows)])
    return conform(pa.RecordBatch.from_pylist(list(rows), schema=named), table.schema)


def report(number: int, message: int | None = None, minute: int = 0, **values: Any) -> Row:
    """Report `number`, as message `message` (its own number when not given), recorded `minute` minutes after
    noon."""
    at = NOON + timedelta(minutes=minute)
    message = number if message is None else message
    received = at + timedelta(seconds=message)
    identity = {"source": "s", "message_id": f"{message}-0", "received_at": received, "revision": 0}
    return {
        "report_id": f"r{number}",
        "agent_id": "a",
        "recorded_at": at,
        "latency_ms": float(number),
        **identity,
        **values,
    }


def write(table: Table, output: Path, rows: list[pa.RecordBatch], file_minutes: int) -> Written:
    return ParquetStore(LocalFolder(output), file_minutes).write(table, rows)


def reports(*rows: Row) -> pa.RecordBatch:
    return batch(REPORTS, *rows)


UNTIMED = "date=unknown/hour=unknown"


def stored(output: Path) -> dict[str, list[Row]]:
    """The rows of every file below the output, by its relative path; every file must verify."""
    found = {}
    for path in sorted(output.rglob("*.parquet")):
        assert verify_file(path) is None
        found[str(path.relative_to(output))] = read_file(path).to_pylist()
    return found


def test_rows_go_to_the_file_of_their_time_granularity_or_key(tmp_path: Path) -> None:
    write(REPORTS, tmp_path, [reports(report(1), report(2, minute=11), report(3, minute=61))], 10)
    windows = [{"granularity": g, "agent_id": "a", "time_window_start": NOON} for g in ("5s", "1m", "1h")]
    write(AGGREGATIONS, tmp_path, [batch(AGGREGATIONS, *windows)], 10)
    unknown = {"source": "a/b", "message_id": "f:1", "reason": "json"}
    write(QUARANTINED, tmp_path, [batch(QUARANTINED, unknown, {**unknown, "received_at": NOON})], 10)
    assert list(stored(tmp_path)) == [
        "kpi_aggregations/window_size=1h/date=2025-10-22/hour=12/1200.parquet",
        "kpi_aggregations/window_size=1m/date=2025-10-22/hour=12/1200.parquet",
        "kpi_aggregations/window_size=5s/date=2025-10-22/hour=12/1200.parquet",
        "kpi_reports/date=2025-10-22/hour=12/1200.parquet",
        "kpi_reports/date=2025-10-22/hour=12/1210.parquet",
        "kpi_reports/date=2025-10-22/hour=13/1300.parquet",
        "quarantine/date=2025-10-22/hour=12/1200.parquet",
        f"quarantine/{UNTIMED}/09.parquet",
    ]


def test_batches_of_other_column_orders_and_of_further_columns_are_written_as_the_table(
    tmp_path: Path,
) -> None:
    rows = reports(report(1), report(2))
    names = [*reversed(rows.schema.names)]
    shuffled = rows.select(names).append_column("context", pa.array([False, True]))
    assert write(REPORTS, tmp_path, [shuffled, rows.slice(0, 0)], 10) == Written(2, 1)
    assert read_file(next(tmp_path.rglob("*.parquet"))).equals(rows)


def test_the_result_does_not_depend_on_how_rows_were_gathered(tmp_path: Path) -> None:
    rows = reports(*(report(i % 20, i, minute=i % 20) for i in range(40)))
    order = np.random.default_rng(1).permutation(40)
    write(REPORTS, tmp_path / "a", [rows], 10)
    for i in order.tolist():
        write(REPORTS, tmp_path / "b", [rows.slice(i, 1)], 10)
    assert stored(tmp_path / "a") == stored(tmp_path / "b")


def test_a_write_that_changes_nothing_replaces_no_file(tmp_path: Path) -> None:
    rows = reports(report(1, accuracy=float("nan")), report(2))
    assert write(REPORTS, tmp_path, [rows], 10) == Written(2, 1)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")}
    assert write(REPORTS, tmp_path, [rows, rows], 10) == Written(0, 0)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")} == before


def test_a_message_whose_report_another_message_is_goes_to_the_duplicates(tmp_path: Path) -> None:
    write(REPORTS, tmp_path, [reports(report(1, message=2))], 10)
    write(REPORTS, tmp_path, [reports(report(1, message=1), report(1, message=3))], 10)
    duplicates = [
        {"source": "s", "message_id": f"{i}-0", "received_at": NOON + timedelta(seconds=i)} for i in (2, 3)
    ]
    assert stored(tmp_path) == {
        "duplicates/date=2025-10-22/hour=12/1200.parquet": [
            {**row, "kind": "kpi_report", "record_id": None, "report_id": "r1", "revision": 1}
            for row in duplicates
        ],
        "kpi_reports/date=2025-10-22/hour=12/1200.parquet": reports(report(1)).to_pylist(),
    }


def test_a_file_of_an_older_schema_gains_the_new_columns(tmp_path: Path) -> None:
    write(REPORTS, tmp_path, [reports(report(1))], 10)
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(encode_file(read_file(path).drop_columns(["priority", "extra"])))
    write(REPORTS, tmp_path, [reports(report(2, priority=3))], 10)
    assert read_file(path).equals(reports(report(1), report(2, priority=3)))


def test_a_changed_file_is_not_merged_and_sealed_anew(tmp_path: Path) -> None:
    write(REPORTS, tmp_path, [reports(report(1), report(2))], 10)
    path = next(tmp_path.rglob("*.parquet"))
    pq.write_table(pa.Table.from_batches([read_file(path)]).slice(1), path)
    with pytest.raises(DamagedFile, match=f"{path} has no digest.*move it away"):
        write(REPORTS, tmp_path, [reports(report(3))], 10)


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Every call that changes the disk from number `step` on does not happen: nothing is tidied up after a
    kill."""
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        for name in ("write", "fsync", "replace", "unlink", "mkdir"):
            real = getattr(os, name)

            def call(*args: Any, name: str = name, real: Any = real, **options: Any) -> Any:
                calls.append(name)
                if len(calls) > step:
                    raise Killed
                return real(*args, **options)

            patched.setattr(os, name, call)
        yield calls


def messages(output: Path) -> set[str]:
    paths = [path for name in ("kpi_reports", "duplicates") for path in (output / name).rglob("*.parquet")]
    return {
        message for path in paths for message in read_file(path, ["message_id"])["message_id"].to_pylist()
    }


def contents(output: Path) -> dict[str, bytes]:
    """Every file below the output, temporary ones too; equal sets of rows are equal bytes."""
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def rows_of(output: Path, table: str) -> list[Row]:
    return [row for path, rows in stored(output).items() if path.startswith(table) for row in rows]


def test_a_kill_at_any_step_loses_nothing_and_the_same_write_then_converges(tmp_path: Path) -> None:
    first = [reports(report(1, message=5), report(2))]
    second = [reports(report(1, message=1), report(2, message=7), report(3, minute=70))]
    for output in ("calm", "counted"):
        write(REPORTS, tmp_path / output, first, 10)
    write(REPORTS, tmp_path / "calm", second, 10)
    with killed_at(10_000) as calls:
        write(REPORTS, tmp_path / "counted", second, 10)
    calm = contents(tmp_path / "calm")
    assert contents(tmp_path / "counted") == calm
    for step in range(len(calls)):
        output = tmp_path / str(step)
        write(REPORTS, output, first, 10)
        with killed_at(step), pytest.raises(Killed):
            write(REPORTS, output, second, 10)
        assert messages(output) >= {"5-0", "2-0"}
        write(REPORTS, output, second, 10)
        assert contents(output) == calm


def test_displaced_messages_are_on_disk_before_the_report_that_displaces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(REPORTS, tmp_path, [reports(report(1, message=2))], 10)

    def watched(path: Path, data: bytes) -> None:
        if "kpi_reports" in str(path):
            raise Killed
        replace_file(path, data)

    monkeypatch.setattr("transforms.storage.local_folder.replace_file", watched)
    with pytest.raises(Killed):
        write(REPORTS, tmp_path, [reports(report(1, message=1))], 10)
    assert [row["message_id"] for row in rows_of(tmp_path, "duplicates")] == ["2-0"]
    assert [row["message_id"] for row in rows_of(tmp_path, "kpi_reports")] == ["2-0"]


def test_a_full_disk_is_reported_with_the_folder_and_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        OutputFull, match=r"no space left for .*hour=12; free some and run the same command again"
    ):
        write(REPORTS, tmp_path, [reports(report(1))], 10)


@pytest.mark.parametrize("name", ParquetStore(LocalFolder(Path())).tables)
def test_every_table_is_written(name: str, tmp_path: Path) -> None:
    table = find_table(name)
    key = {name: "k" for name in table.key if name != "time_window_start"} | {
        "granularity": "5s",
        table.time: NOON,
    }
    write(table, tmp_path, [batch(table, key)], 10)
    assert rows_of(tmp_path, name) == batch(table, key).to_pylist()


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from schemas.tables import DUPLICATES
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
for i in range(12):
    row = {"source": sys.argv[2], "message_id": f"{i}-0", "received_at": 1_761_134_400_000_000}
    row |= {"report_id": "r", "revision": 1}
    rows = [pa.RecordBatch.from_pylist([row], schema=DUPLICATES.schema)]
    ParquetStore(LocalFolder(Path(sys.argv[1])), 10).write(DUPLICATES, rows)
"""


def test_two_processes_that_write_one_file_lose_nothing(tmp_path: Path) -> None:
    root = Path(parquet_store.__file__).parents[3]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root) for name in ("a", "b")
    ]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0]
    assert {(row["source"], row["message_id"]) for row in rows_of(tmp_path, "duplicates")} == {
        (name, f"{i}-0") for name in ("a", "b") for i in range(12)
    }


def test_the_bytes_of_a_file_do_not_depend_on_the_way_to_it(tmp_path: Path) -> None:
    a, b = reports(report(1), report(2)), reports(report(3))
    write(REPORTS, tmp_path / "one", [a, b], 10)
    write(REPORTS, tmp_path / "two", [b], 10)
    write(REPORTS, tmp_path / "two", [a], 10)
    one, two = (next((tmp_path / name).rglob("*.parquet")).read_bytes() for name in ("one", "two"))
    assert one == two == bytes(encode_file(merge_rows(REPORTS, a, b).rows))


def test_a_duplicate_without_a_time_goes_to_the_file_of_its_key(tmp_path: Path) -> None:
    archived = [report(1, message, source="archive", received_at=None) for message in (1, 2)]
    write(REPORTS, tmp_path, [reports(*archived)], 10)
    assert [row["message_id"] for row in stored(tmp_path)[f"duplicates/{UNTIMED}/48.parquet"]] == ["2-0"]
    assert DUPLICATES.schema.names == list(rows_of(tmp_path, "duplicates")[0])
