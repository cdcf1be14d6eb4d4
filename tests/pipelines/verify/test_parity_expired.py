"""Parity of outputs of which other days have expired: what both keep is compared, and the answer says so."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from pipelines.verify.parity import compare_outputs
from schemas.tables import AGGREGATIONS, QUARANTINED, REPORTS
from tests.outputs import open_output
from tests.pipelines.verify.rows import NOON, TEN_MINUTES, put, refused, report, windows
from transforms.sinks.parquet.maintenance_ledger import Ledger, put_ledger
from transforms.storage.local_folder import LocalFolder

DAY = 86_400
FIRST = NOON.date()


def make_output(folder: Path, numbers: range, before: dict[str, date] | None = None) -> Path:
    """An output with a report and a rejected message on each of some days."""
    open_output(folder, TEN_MINUTES, create=True)
    reports = [report(n, n * DAY) for n in numbers]
    put(folder, REPORTS, reports)
    put(folder, AGGREGATIONS, windows(reports))
    put(folder, QUARANTINED, [refused(n, received_at=NOON + timedelta(days=n)) for n in numbers])
    ledger = Ledger()
    for name, day in (before or {}).items():
        ledger = ledger.expire(name, day, frozenset(), NOON)
    put_ledger(LocalFolder(folder), ledger, None)
    return folder


ALL = {
    name: FIRST + timedelta(days=2)
    for name in (
        "kpi_reports",
        "quarantine",
        *(f"kpi_aggregations/window_size={s}" for s in ("5s", "1m", "1h")),
    )
}


def test_days_that_one_output_has_let_expire_are_not_compared(tmp_path: Path) -> None:
    a, b = make_output(tmp_path / "a", range(5)), make_output(tmp_path / "b", range(2, 5), ALL)
    found = compare_outputs(a, b, identity=True)
    assert [name for name, each in found.items() if not each.same] == []
    assert (found["kpi_reports"].rows_a, found["kpi_reports"].rows_b) == (2, 2)
    assert found["kpi_reports"].compared_from == {"kpi_reports": str(FIRST + timedelta(days=3))}


@pytest.mark.parametrize("identity", [True, False])
def test_a_row_that_is_missing_from_a_day_that_both_keep_is_a_difference(
    tmp_path: Path, identity: bool
) -> None:
    a, b = make_output(tmp_path / "a", range(5)), make_output(tmp_path / "b", range(2, 4), ALL)
    found = compare_outputs(a, b, identity)
    assert {name for name, each in found.items() if each.only_a} == {
        "kpi_reports", "kpi_aggregations", "quarantine",
    }  # fmt: skip


def test_windows_are_not_compared_where_the_reports_of_one_output_have_expired(tmp_path: Path) -> None:
    a = make_output(tmp_path / "a", range(5))
    b = make_output(tmp_path / "b", range(2, 5), {"kpi_reports": FIRST + timedelta(days=2)})
    found = compare_outputs(a, b, identity=True)
    assert found["kpi_aggregations"].same
    assert not found["quarantine"].same


def test_outputs_of_which_nothing_has_expired_are_compared_whole(tmp_path: Path) -> None:
    a, b = make_output(tmp_path / "a", range(3)), make_output(tmp_path / "b", range(3))
    found = compare_outputs(a, b, identity=True)
    assert found["kpi_reports"].rows_a == 3
    assert {len(each.compared_from) for each in found.values()} == {0}
