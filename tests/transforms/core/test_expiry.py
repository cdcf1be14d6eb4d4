"""Expiry: which new rows lie in days that have expired."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from schemas.tables import AGENTS, QUARANTINED, REPORTS, TASKS, TIME, Table
from transforms.core.expiry import CLOSED_HOURS, NOTHING, Expiry
from transforms.history.time_rules import LOOKBACK_HOURS

DAY = date(2026, 3, 1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
EXPIRY = Expiry({table.name: DAY for table in (REPORTS, TASKS, QUARANTINED)})
MICROSECOND = timedelta(microseconds=1)


def find(table: Table, *times: datetime | None, expiry: Expiry = EXPIRY) -> list[bool]:
    rows = pa.record_batch([pa.array(times, TIME)], [table.time or "effective_at"])
    return list(expiry.find_expired(table, rows))


@pytest.mark.parametrize("table", [TASKS, QUARANTINED])
def test_a_row_expires_before_the_first_day_that_is_kept(table: Table) -> None:
    assert find(table, MIDNIGHT - MICROSECOND, MIDNIGHT) == [True, False]


def test_a_report_also_expires_in_the_hours_whose_late_reports_need_those_before() -> None:
    start = MIDNIGHT + timedelta(hours=LOOKBACK_HOURS)
    assert find(REPORTS, MIDNIGHT, start - MICROSECOND, start) == [True, True, False]
    assert CLOSED_HOURS == LOOKBACK_HOURS


def test_a_row_without_a_time_does_not_expire() -> None:
    assert find(QUARANTINED, None) == [False]


def test_a_table_that_the_ledger_does_not_name_and_one_without_a_time_do_not_expire() -> None:
    long_ago = datetime(1990, 1, 1, tzinfo=UTC)
    assert find(REPORTS, long_ago, expiry=Expiry({TASKS.name: DAY})) == [False]
    assert find(AGENTS, long_ago, expiry=Expiry({AGENTS.name: DAY})) == [False]
    assert find(REPORTS, long_ago, expiry=NOTHING) == [False]


def test_a_batch_without_expired_rows_stays_the_same_batch() -> None:
    rows = pa.record_batch([pa.array([MIDNIGHT, None], TIME)], [TASKS.time])
    found = EXPIRY.split(TASKS, rows)
    assert found.kept is rows
    assert found.expired == 0
