"""Which file a row is in, or gets into: by the ledger, and by nothing that happens to be there."""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import FLEET, QUARANTINED, REPORTS
from tests.pipelines.verify.rows import batch, report
from transforms.core.errors import DamagedFile
from transforms.core.time_range import Span
from transforms.sinks.parquet import file_merge
from transforms.sinks.parquet.day_file import encode_day_file
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import (
    HOT,
    NAME,
    WARM,
    DayPlace,
    Ledger,
    locate_day,
    put_ledger,
)
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import read_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder

FOLDER, DAY = REPORTS.name, date(2025, 10, 22)
NOON = datetime(2025, 10, 22, 12, tzinfo=UTC)
HOUR_FILE = f"{FOLDER}/date=2025-10-22/hour=12/1200.parquet"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def seal(output: Path, rows: pa.RecordBatch, root: LocalFolder | None = None) -> OutputFile:
    """Put rows into the file of the day, and the day into the ledger."""
    home = LocalFolder(output)
    name, tier = locate_day(FOLDER, DAY), HOT if root is None else WARM
    (root or home).put(name, encode_day_file(REPORTS, rows), None)
    ledger = Ledger().put_roots({} if root is None else {WARM: root.name})
    put_ledger(home, ledger.put_day(FOLDER, DAY, DayPlace(True, tier, rows.num_rows), WHEN), None)
    return OutputFile(name, root or home)


def read_ids(output: Path) -> set[str]:
    files = OutputFiles.of(output).list_table(REPORTS)
    return {name for file in files for name in read_file(file.open(), ["report_id"])["report_id"].to_pylist()}


def test_without_a_ledger_every_file_is_one_of_hours_on_the_first_root(tmp_path: Path) -> None:
    files = OutputFiles.of(tmp_path)
    assert files.is_plain
    assert files.find(HOUR_FILE) == OutputFile(HOUR_FILE, LocalFolder(tmp_path))


def test_a_row_of_a_sealed_day_belongs_into_its_file_on_its_root(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "out", batch(REPORTS, [report(1, 0)]), LocalFolder(tmp_path / "warm"))
    files = OutputFiles.of(tmp_path / "out")
    other = HOUR_FILE.replace("10-22", "10-23")
    assert files.find(HOUR_FILE) == sealed
    assert files.find(other) == OutputFile(other, LocalFolder(tmp_path / "out"))
    untimed = f"{FOLDER}/date=unknown/hour=unknown/01.parquet"
    assert files.find(untimed) == OutputFile(untimed, LocalFolder(tmp_path / "out"))


def test_rows_of_an_expired_day_go_nowhere_and_its_files_are_not_read(tmp_path: Path) -> None:
    home = LocalFolder(tmp_path)
    rows = [batch(REPORTS, [report(1, 0)])]
    write_rows(REPORTS, home, rows, 60)
    put_ledger(home, Ledger().expire(FOLDER, DAY + timedelta(days=1), frozenset({DAY}), WHEN), None)
    assert read_ids(tmp_path) == set()
    assert write_rows(REPORTS, home, [batch(REPORTS, [report(2, 0)])], 60).rows == 0
    span = Span(NOON, NOON + timedelta(hours=1))
    assert OutputFiles.of(tmp_path).list_span(FOLDER, span, 60) == []


def test_messages_of_a_day_that_expired_after_the_job_began_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Validation drops and counts them by what had expired before; later they are counted here."""
    home, counted = LocalFolder(tmp_path), Counter[str]()
    monkeypatch.setattr(file_merge, "count_expired", lambda kind, count: counted.update({kind: count}))
    folders = (FOLDER, QUARANTINED.name, "kpi_fleet/window_size=1h")
    ledger = Ledger()
    for folder in folders:
        ledger = ledger.expire(folder, DAY + timedelta(days=1), frozenset({DAY}), WHEN)
    put_ledger(home, ledger, None)
    refused = {"source": "s", "message_id": "1-0", "received_at": NOON, "kind": "task", "revision": 0}
    write_rows(REPORTS, home, [batch(REPORTS, [report(1, 0), report(2, 0)])], 60)
    write_rows(QUARANTINED, home, [batch(QUARANTINED, [refused])], 60)
    window = {"time_window_start": NOON, "granularity": "1h", "revision": 0}
    write_rows(FLEET, home, [batch(FLEET, [window])], 60)
    assert counted == {"kpi_report": 2, "task": 1}
    assert "2 messages for kpi_reports not written" in caplog.text
    assert "kpi_fleet" not in caplog.text
    assert not list(home.list_files(FOLDER))


@dataclass(frozen=True)
class _SealedMeanwhile(LocalFolder):
    """A folder whose day is sealed, without the new row, just after the first write of an hour."""

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        super().put(name, data, version)
        if name == HOUR_FILE and not (self.path / NAME).exists():
            seal(self.path, batch(REPORTS, [report(1, 0)]))


def test_a_write_that_a_seal_overtakes_is_merged_into_the_sealed_day(tmp_path: Path) -> None:
    write_rows(REPORTS, _SealedMeanwhile(tmp_path), [batch(REPORTS, [report(2, 0)])], 60)
    assert read_ids(tmp_path) == {"r1", "r2"}


def test_writing_rows_of_a_sealed_day_again_changes_nothing(tmp_path: Path) -> None:
    file = seal(tmp_path, batch(REPORTS, [report(1, 0)]))
    late = [batch(REPORTS, [report(2, 0)])]
    assert write_rows(REPORTS, LocalFolder(tmp_path), late, 60).rows == 1
    before = file.read()
    assert write_rows(REPORTS, LocalFolder(tmp_path), late, 60).rows == 0
    assert file.read() == before


def test_an_hour_out_of_a_sealed_day_has_the_rows_of_that_hour_only(tmp_path: Path) -> None:
    seal(tmp_path, batch(REPORTS, [report(number, 1800 * number) for number in range(6)]))

    def read(hour: datetime) -> Iterator[str]:
        for rows in ParquetStore(LocalFolder(tmp_path)).read_reports(int(hour.timestamp()) // 3600):
            yield from rows["report_id"].to_pylist()

    assert set(read(NOON + timedelta(hours=1))) == {"r2", "r3"}
    assert list(read(NOON + timedelta(hours=3))) == []


def test_a_sealed_day_that_is_missing_is_reported_and_not_left_out(tmp_path: Path) -> None:
    file = seal(tmp_path, batch(REPORTS, [report(1, 0)]))
    file.storage.remove(file.name)
    with pytest.raises(DamagedFile, match="is missing"):
        list(ParquetStore(LocalFolder(tmp_path)).read_reports(int(NOON.timestamp()) // 3600))
    with pytest.raises(DamagedFile, match="is missing"):
        list(OutputFiles.of(tmp_path).list_versions(REPORTS))
