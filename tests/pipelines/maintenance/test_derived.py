"""Derived tables under maintenance: their days are sealed, and derived again where late rows change them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.maintenance.steps import CHANGED, WRITTEN
from schemas.tables import AGENTS, REPORTS, TASKS
from tests.builders import NOON
from tests.outputs import open_output
from tests.pipelines.maintenance.stored import SETTINGS
from tests.pipelines.maintenance.test_maintain import maintain
from tests.pipelines.maintenance.test_replaced_files import WriteOnce
from tests.transforms.derived.outputs import EXAMPLES, derive, invent_rows, write
from transforms.derived.registry import DERIVED
from transforms.sinks.parquet.output_files import OutputFiles
from transforms.sinks.parquet.parquet_file import read_file

AT = datetime.combine(NOON.date(), datetime.min.time(), UTC) + timedelta(days=3)
ROWS = invent_rows(5)
TABLES = (REPORTS, TASKS, AGENTS)


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in EXAMPLES:
        monkeypatch.setitem(DERIVED, table.table.name, table)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """An output with two thirds of the rows, derived."""
    open_output(tmp_path / "out", SETTINGS, create=True)
    add(tmp_path, 0, 40)
    derive(tmp_path / "out")
    return tmp_path


def add(top: Path, first: int, end: int | None = None) -> None:
    for table in TABLES:
        write(top / "out", table, [row for of, row in ROWS[first:end] if of is table])


def read_all(top: Path) -> dict[str, list[dict]]:
    """The rows of the derived tables, as readers find them."""
    files = OutputFiles.of(top / "out")
    return {
        each.table.name: sorted(
            (row for file in files.list_table(each.table) for row in read_file(file.open()).to_pylist()),
            key=str,
        )
        for each in EXAMPLES
    }


def list_hours(top: Path) -> list[str]:
    names = (path.relative_to(top).as_posix() for path in top.rglob("hour=[0-9]*/*.parquet"))
    return [name for name in names if name.split("/")[1] in {each.table.name for each in EXAMPLES}]


def test_sealed_and_moved_days_are_not_derived_again(top):
    before = read_all(top)
    for later in (timedelta(0), timedelta(hours=2), timedelta(days=8), timedelta(days=40)):
        maintain(top, AT + later)
        assert read_all(top) == before
        assert derive(top / "out").written == 0
    assert list_hours(top) == []
    assert list((top / "cold" / "context").rglob("day.parquet"))


def test_late_rows_of_a_sealed_day_are_derived_into_its_file(top, tmp_path_factory):
    plain = tmp_path_factory.mktemp("plain")
    open_output(plain / "out", SETTINGS, create=True)
    add(plain, 0)
    derive(plain / "out")
    for later in (timedelta(0), timedelta(hours=2)):
        maintain(top, AT + later)
    add(top, 40)
    assert derive(top / "out").written
    assert derive(top / "out").written == 0
    assert read_all(top) == read_all(plain)
    maintain(top, AT + timedelta(hours=4))
    maintain(top, AT + timedelta(hours=6))
    assert read_all(top) == read_all(plain)
    assert derive(top / "out").written == 0


def test_the_file_of_a_sealed_day_that_is_missing_is_derived_again(top):
    before = read_all(top)
    for later in (timedelta(0), timedelta(hours=2)):
        maintain(top, AT + later)
    for path in (top / "out").rglob("day.parquet"):
        if path.parent.parent.name in before:
            path.unlink()
    derive(top / "out")
    assert read_all(top) == before


@pytest.mark.parametrize("point", [WRITTEN, CHANGED])
def test_what_is_derived_into_files_of_hours_during_a_seal_is_derived_again(top, point):
    add(top, 40)

    def derive_unsealed() -> None:
        ledger, aside = top / "out" / "_maintenance.json", top / "ledger"
        if ledger.exists():
            ledger.rename(aside)
        derive(top / "out")
        if aside.exists():
            aside.rename(ledger)

    maintain(top, AT, WriteOnce(point, derive_unsealed))
    derive(top / "out")
    expected = read_all(top)
    for later in (timedelta(hours=2), timedelta(hours=4), timedelta(hours=6)):
        maintain(top, AT + later)
        assert derive(top / "out").written == 0
        assert read_all(top) == expected
    assert list_hours(top) == []
