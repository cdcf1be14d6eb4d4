"""Derived files whose inputs have expired stay as they are until they expire themselves."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shutil import rmtree

import pytest

from schemas.partitioning import format_day_folder
from schemas.tables import REPORTS, TASKS
from tests.transforms.derived.outputs import (
    EXAMPLES,
    MINUTE,
    SETTINGS,
    derive,
    make_report,
    make_task,
    read_derived,
    write,
)
from transforms.core.expiry import Expiry
from transforms.derived.closed import find_closed
from transforms.derived.registry import DERIVED
from transforms.sinks.parquet.maintenance_ledger import Ledger, put_ledger
from transforms.storage.local_folder import LocalFolder

FIRST = date(2026, 3, 1)
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
AGAIN = tuple(replace(table, version=table.version + 1) for table in EXAMPLES)


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in EXAMPLES:
        monkeypatch.setitem(DERIVED, table.table.name, table)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Four days with a report and its task each, derived; then the first two days of both expire."""
    times = [START + number * DAY + 600 * MINUTE for number in range(4)]
    write(tmp_path, REPORTS, [make_report(n, at, MINUTE, n) for n, at in enumerate(times)])
    write(tmp_path, TASKS, [make_task(n, at - MINUTE, at - MINUTE, n) for n, at in enumerate(times)])
    derive(tmp_path)
    ledger, kept = Ledger(), FIRST + timedelta(days=2)
    for table in (REPORTS, TASKS):
        ledger = ledger.expire(table.name, kept, frozenset(), START)
        for number in range(2):
            rmtree(tmp_path / table.name / format_day_folder(FIRST + timedelta(days=number)))
    put_ledger(LocalFolder(tmp_path), ledger, None)
    return tmp_path


def of_days(files: dict[str, bytes], days: range) -> dict[str, bytes]:
    names = [format_day_folder(FIRST + timedelta(days=number)) for number in days]
    return {name: data for name, data in files.items() if any(day in name for day in names)}


def test_files_whose_inputs_have_expired_are_neither_removed_nor_derived_again(output: Path) -> None:
    before = read_derived(output)
    closed = range(3)  # the third day is kept, but its context has expired
    assert of_days(before, closed)
    derive(output)
    assert of_days(read_derived(output), closed) == of_days(before, closed)
    derive(output, tables=AGAIN)
    after = read_derived(output)
    assert of_days(after, closed) == of_days(before, closed)
    assert of_days(after, range(3, 4)).keys() == of_days(before, range(3, 4)).keys()
    assert of_days(after, range(3, 4)) != of_days(before, range(3, 4))


def test_nothing_is_derived_twice_after_something_expired(output: Path) -> None:
    derive(output)
    assert derive(output).written == 0


def test_a_file_is_closed_as_long_as_an_input_reaches_into_what_has_expired() -> None:
    def find(name: str, folder: str) -> timedelta:
        moment = find_closed(DERIVED[name], Expiry({folder: FIRST}), SETTINGS)
        return datetime.fromtimestamp(moment / 1e6, UTC) - START

    assert find("features", "kpi_aggregations/window_size=1h") == timedelta(days=SETTINGS["experience_days"])
    assert find("features", "tasks") == timedelta(hours=SETTINGS["context_hours"])
    assert find("features", "features") == timedelta(0)
    assert find_closed(DERIVED["features"], Expiry({"kpi_aggregations/window_size=5s": FIRST}), SETTINGS) < 0
