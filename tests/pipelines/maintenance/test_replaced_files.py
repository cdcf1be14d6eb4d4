"""What is written to a file while it is sealed or moved, or after it, is in the output at the end."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.failures import RunFailed
from pipelines.maintenance.steps import CHANGED, FORGOTTEN, REMOVED, WRITTEN
from schemas.tables import REPORTS
from tests.pipelines.maintenance.stored import FIRST, make_output, make_rows
from tests.pipelines.maintenance.test_maintain import DATES, Killed, Killer, list_names, maintain, read_all
from transforms.core.record_batches import concat
from transforms.sinks.parquet.day_file import encode_day_file
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import NAME
from transforms.sinks.parquet.parquet_file import encode_file, read_file
from transforms.storage.local_folder import LocalFolder

LATE = make_rows(REPORTS, FIRST, 23).slice(20)
"""Three more reports of the first day."""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    make_output(tmp_path / "out", 1, tables=(REPORTS,))
    return tmp_path


class WriteOnce:
    """Calls once, at the first point of a name: a stream writes that has just read the ledger."""

    def __init__(self, point: str, write: Callable[[], None]) -> None:
        self.point, self.write, self.is_written = point, write, False

    def __call__(self, point: str) -> None:
        if point == self.point and not self.is_written:
            self.is_written = True
            self.write()


def write_hours(top: Path, rows: pa.RecordBatch) -> None:
    """Add rows to the files of hours, whatever the ledger says."""
    ledger, aside = top / "out" / NAME, top / NAME
    ledger.rename(aside)
    write_rows(REPORTS, LocalFolder(top / "out"), [rows], 30)
    aside.rename(ledger)


def write_day(top: Path, rows: pa.RecordBatch, keep: bool = True) -> None:
    """Add rows to the file of the day on the first root, or leave only these in it."""
    path = next((top / "out" / REPORTS.name).rglob("day.parquet"))
    path.write_bytes(encode_day_file(REPORTS, concat([read_file(path), rows] if keep else [rows])))


def die() -> None:
    raise Killed


def list_ids(top: Path) -> set[str]:
    rows = read_all(top)[REPORTS.name]
    ids = {row["report_id"] for row in rows}
    assert len(ids) == len(rows)
    return ids


def expected_ids() -> set[str]:
    return {f"{FIRST}-{number}" for number in range(23)}


def days_and_hours(top: Path) -> tuple[int, int]:
    names = list_names(top)
    return sum(name.endswith("day.parquet") for name in names), sum("/hour=" in name for name in names)


@pytest.mark.parametrize("point", [WRITTEN, CHANGED])
def test_rows_that_come_while_a_day_is_sealed_are_read_at_once(top, point):
    maintain(top, DATES[0], WriteOnce(point, lambda: write_hours(top, LATE)))
    assert list_ids(top) == expected_ids()
    maintain(top, DATES[0])
    assert list_ids(top) == expected_ids()
    assert days_and_hours(top)[0] == 1


@pytest.mark.parametrize("point", [WRITTEN, CHANGED])
def test_rows_that_come_while_a_day_is_moved_are_read_at_once(top, point):
    for at in DATES[:2]:
        maintain(top, at)
    maintain(top, DATES[2], WriteOnce(point, lambda: write_day(top, LATE)))
    assert list_ids(top) == expected_ids()
    for at in (DATES[2], DATES[2] + timedelta(hours=2)):
        maintain(top, at)
        assert list_ids(top) == expected_ids()
    assert [name.split("/")[1] for name in list_names(top)] == ["warm"]


def test_rows_that_are_replaced_after_a_removal_was_killed_do_not_come_back(top):
    maintain(top, DATES[0])
    with pytest.raises(Killed):
        maintain(top, DATES[1], WriteOnce(REMOVED, die))
    assert days_and_hours(top)[1] > 0
    write_day(top, LATE, keep=False)
    maintain(top, DATES[1])
    assert list_ids(top) == set(LATE["report_id"].to_pylist())
    assert days_and_hours(top) == (1, 0)


def test_rows_written_to_files_of_hours_after_the_seal_are_in_the_day_before_these_are_removed(top):
    maintain(top, DATES[0])
    write_hours(top, LATE)
    maintain(top, DATES[1])
    assert list_ids(top) == expected_ids()
    assert days_and_hours(top) == (1, 0)


def test_a_file_that_was_there_and_is_rewritten_after_the_seal_is_merged_too(top):
    maintain(top, DATES[0])
    path = next((top / "out" / REPORTS.name).rglob("hour=*/*.parquet"))
    stored = read_file(path)
    late = LATE.slice(0, 1).to_pylist()[0] | {"recorded_at": stored["recorded_at"][0].as_py()}
    path.write_bytes(encode_file(concat([stored, pa.RecordBatch.from_pylist([late], stored.schema)])))
    maintain(top, DATES[1])
    assert list_ids(top) == {f"{FIRST}-{number}" for number in range(20)} | {late["report_id"]}
    assert days_and_hours(top) == (1, 0)


def test_a_moved_day_that_is_rewritten_on_its_old_root_keeps_these_rows(top):
    for at in DATES[:3]:
        maintain(top, at)
    write_day(top, LATE)
    maintain(top, DATES[2] + timedelta(hours=2))
    assert [name.split("/")[1] for name in list_names(top)] == ["warm"]
    assert list_ids(top) == expected_ids()


def test_a_replaced_file_that_was_not_changed_is_not_read_again(top, monkeypatch):
    maintain(top, DATES[0])
    monkeypatch.setattr("pipelines.maintenance.steps.merge_again", None)
    maintain(top, DATES[1])
    assert days_and_hours(top) == (1, 0)


def test_a_changed_file_that_cannot_be_read_is_not_removed(top):
    maintain(top, DATES[0])
    path = next((top / "out" / REPORTS.name).rglob("hour=*/*.parquet"))
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    with pytest.raises(RunFailed, match="cannot be read"):
        maintain(top, DATES[1])
    assert path.exists()


def test_a_kill_during_the_merge_or_the_removal_loses_nothing(tmp_path):
    def prepare(top: Path) -> datetime:
        make_output(top / "out", 1, 3, (REPORTS,))
        maintain(top, DATES[0])
        write_hours(top, LATE)
        return DATES[1]

    whole = Killer(0)
    maintain(tmp_path / "whole", prepare(tmp_path / "whole"), whole)
    expected = list_ids(tmp_path / "whole")
    assert whole.points[-1] == FORGOTTEN
    for after in range(1, len(whole.points) + 1):
        top = tmp_path / f"killed{after}"
        at = prepare(top)
        with pytest.raises(Killed):
            maintain(top, at, Killer(after))
        maintain(top, at)
        assert list_ids(top) == expected
        assert days_and_hours(top) == (1, 0)
