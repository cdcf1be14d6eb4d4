from datetime import UTC, date, datetime, timedelta

import pytest

from transforms.core.errors import Refused
from transforms.sinks.parquet.maintenance_ledger import (
    COLD,
    HOT,
    NAME,
    UNSEALED,
    WARM,
    DayPlace,
    Ledger,
    Replaced,
    locate_day,
    put_ledger,
    read_ledger,
)
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Conflict

DAY, AT = date(2026, 1, 2), datetime(2026, 3, 1, tzinfo=UTC)
REPORTS, WINDOWS = "kpi_reports", "kpi_aggregations/window_size=5s"
SEALED = DayPlace(True, HOT, 12)


def make_ledger() -> Ledger:
    ledger = Ledger().put_roots({WARM: "/warm", COLD: "s3://bucket/cold"})
    ledger = ledger.put_day(REPORTS, DAY, SEALED, AT).put_day(WINDOWS, DAY, SEALED, AT)
    return ledger.expire(WINDOWS, date(2025, 12, 1), frozenset(), AT)


def test_an_output_without_a_ledger_has_an_empty_one_and_no_file_is_made(tmp_path):
    assert read_ledger(LocalFolder(tmp_path)) == (Ledger(), None)
    assert not list(tmp_path.iterdir())
    assert Ledger().find(REPORTS, DAY) == UNSEALED
    assert not Ledger().is_expired(REPORTS, DAY)


def test_what_was_put_is_what_is_read(tmp_path):
    storage, ledger = LocalFolder(tmp_path), make_ledger()
    put_ledger(storage, ledger, None)
    found, version = read_ledger(storage)
    assert found.encode() == ledger.encode()
    assert found.find(REPORTS, DAY) == SEALED
    put_ledger(storage, Ledger(), version)
    assert read_ledger(storage)[0].encode() == Ledger().encode()


def test_a_ledger_that_another_process_changed_is_not_replaced(tmp_path):
    storage = LocalFolder(tmp_path)
    put_ledger(storage, make_ledger(), None)
    with pytest.raises(Conflict):
        put_ledger(storage, Ledger(), None)
    assert read_ledger(storage)[0].encode() == make_ledger().encode()


def test_a_day_with_a_new_place_leaves_the_files_of_its_old_place_to_be_removed():
    ledger = Ledger().put_day(REPORTS, DAY, SEALED, AT)
    assert ledger.replaced == (Replaced(REPORTS, DAY, False, HOT, AT),)
    later = AT + timedelta(days=7)
    moved = ledger.put_day(REPORTS, DAY, DayPlace(True, WARM, 12), later)
    assert moved.replaced[1:] == (Replaced(REPORTS, DAY, True, HOT, later),)
    assert moved.forget(*moved.replaced).replaced == ()


def test_a_file_that_is_read_again_is_not_removed():
    warm = DayPlace(True, WARM, 12)
    moved = Ledger().put_day(REPORTS, DAY, SEALED, AT).put_day(REPORTS, DAY, warm, AT)
    back = moved.put_day(REPORTS, DAY, SEALED, AT)
    assert Replaced(REPORTS, DAY, True, HOT, AT) not in back.replaced
    assert Replaced(REPORTS, DAY, True, WARM, AT) in back.replaced


def test_more_rows_in_the_same_file_replace_nothing():
    ledger = Ledger().put_day(REPORTS, DAY, SEALED, AT)
    more = ledger.put_day(REPORTS, DAY, SEALED._replace(rows=13), AT)
    assert more.find(REPORTS, DAY).rows == 13
    assert more.replaced == ledger.replaced


def test_expired_days_are_gone_from_the_ledger_and_their_files_are_to_be_removed():
    unsealed = frozenset([DAY - timedelta(days=1), DAY + timedelta(days=5)])
    ledger = Ledger().put_day(REPORTS, DAY, DayPlace(True, COLD, 1), AT).forget(*make_ledger().replaced)
    expired = ledger.expire(REPORTS, DAY + timedelta(days=1), unsealed, AT)
    assert expired.is_expired(REPORTS, DAY)
    assert not expired.is_expired(REPORTS, DAY + timedelta(days=1))
    assert DAY not in expired.days[REPORTS]
    assert expired.replaced == (
        Replaced(REPORTS, DAY - timedelta(days=1), False, HOT, AT),
        Replaced(REPORTS, DAY, True, COLD, AT),
    )


def test_what_has_expired_never_comes_back():
    ledger = Ledger().expire(REPORTS, DAY, frozenset(), AT)
    assert ledger.expire(REPORTS, DAY - timedelta(days=9), frozenset(), AT).is_expired(
        REPORTS, DAY - timedelta(days=1)
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        make_ledger().encode().replace(b'"version": 1', b'"version": 2'),
        make_ledger().encode().replace(b'"hot"', b'"tepid"'),
        make_ledger().encode().replace(b"2026-01-02", b"2026-01-32"),
    ],
)
def test_a_damaged_or_newer_ledger_is_refused_with_a_fix(tmp_path, data):
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(Refused, match=r"_maintenance\.json cannot be used \(.+\); put it back"):
        read_ledger(LocalFolder(tmp_path))


def test_a_day_has_the_same_name_below_each_root():
    assert locate_day(WINDOWS, DAY) == "kpi_aggregations/window_size=5s/date=2026-01-02/day.parquet"
