"""Rows without a time expire by the day at which maintenance first found them."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.jobs.maintain import Maintenance
from pipelines.maintenance.plan import EXPIRE_UNTIMED, MaintenancePlan
from pipelines.maintenance.steps import ignore_point
from pipelines.verify.parity import compare_outputs
from pipelines.verify.reconcile import reconcile
from pipelines.verify.table_scan import scan
from schemas.tables import QUARANTINED
from tests.builders import messages
from tests.outputs import open_output
from tests.pipelines.maintenance.test_maintain import Killed, Killer
from tests.pipelines.verify.rows import TEN_MINUTES
from tests.pipelines.verify.test_reconcile_expired import write
from transforms.core.record_batches import RAW

START = datetime(2026, 3, 1, tzinfo=UTC)
YEAR = timedelta(days=366)


def make_message(message_id: str, source: str = "archive") -> pa.RecordBatch:
    """A message that is not valid, received at an unknown time."""
    raw = messages(["{"], START)
    changed = {
        "source": pa.array([source]),
        "message_id": pa.array([message_id]),
        "received_at": pa.nulls(1, RAW.field("received_at").type),
    }
    for name, column in changed.items():
        raw = raw.set_column(RAW.get_field_index(name), RAW.field(name), column)
    return raw


OLD, NEW = [make_message(f"{number}-0") for number in (1, 2, 3)], [make_message("4-0")]


def maintain(output: Path, at: datetime, reach=ignore_point, expire_most: bool = True) -> MaintenancePlan:
    work = Maintenance(output, TEN_MINUTES, {}, clock=lambda: at, reach=reach, expire_most=expire_most)
    return work.run(lambda *_: None)


def list_ids(output: Path) -> list[str]:
    return sorted(name for rows in scan(output, QUARANTINED) for name in rows["message_id"].to_pylist())


def count_fates(output: Path, sent: list[pa.RecordBatch]) -> tuple[int, int]:
    """How many messages are in quarantine and have expired; no other is anywhere."""

    def read(_: object = None) -> Iterator[pa.RecordBatch]:
        yield from sent

    found = reconcile(output, read, payloads=read)
    assert (found.problems, found.missing, found.surplus) == ([], 0, 0)
    assert reconcile(output).problems == []
    return found.quarantined, found.expired


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three messages that were first seen at START, and one that was half a year later."""
    path = tmp_path / "out"
    open_output(path, TEN_MINUTES, create=True)
    write(path, OLD)
    maintain(path, START)
    write(path, NEW)
    maintain(path, START + YEAR / 2)
    return path


def test_rows_expire_a_year_after_they_were_first_found_whatever_the_time_of_their_files(output, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    for each in (output, copy):
        maintain(each, START + YEAR - timedelta(days=2))
        assert list_ids(each) == ["1-0", "2-0", "3-0", "4-0"]
        maintain(each, START + YEAR)
        assert list_ids(each) == ["4-0"]
        assert count_fates(each, [*OLD, *NEW]) == (1, 3)
        assert maintain(each, START + YEAR).steps == ()
        maintain(each, START + 2 * YEAR)
        assert list_ids(each) == []
        assert count_fates(each, [*OLD, *NEW]) == (0, 4)


def test_a_message_whose_source_and_id_join_to_those_of_another_expires_by_its_own_day(tmp_path):
    output = tmp_path / "out"
    open_output(output, TEN_MINUTES, create=True)
    write(output, [make_message("id", source="a\0b")])
    maintain(output, START)
    write(output, [make_message("b\0id", source="a")])
    maintain(output, START + YEAR / 2)
    maintain(output, START + YEAR)
    assert list_ids(output) == ["b\0id"]


def test_an_expired_message_that_is_read_again_is_removed_by_the_next_run(output):
    maintain(output, START + YEAR)
    write(output, [*OLD, *NEW])
    assert count_fates(output, [*OLD, *NEW]) == (4, 0)
    maintain(output, START + YEAR, expire_most=False)
    assert count_fates(output, [*OLD, *NEW]) == (1, 3)


def test_a_message_that_is_lost_and_has_not_expired_is_missing(output):
    maintain(output, START + YEAR)
    shutil.rmtree(output / QUARANTINED.name)

    def read(_: object = None) -> Iterator[pa.RecordBatch]:
        yield from [*OLD, *NEW]

    found = reconcile(output, read, payloads=read)
    assert (found.expired, found.missing) == (3, 1)


def test_most_rows_expire_only_if_that_is_allowed(output):
    plan = maintain(output, START + 2 * YEAR, expire_most=False)
    assert [(each.folder, each.days) for each in plan.withheld] == [("quarantine/date=unknown", 2)]
    assert len(list_ids(output)) == 4


def test_an_expiry_that_is_killed_at_any_point_is_completed_by_the_next_run(output, tmp_path):
    killer = Killer(0)
    whole = tmp_path / "whole"
    shutil.copytree(output, whole)
    assert EXPIRE_UNTIMED in {step.action for step in maintain(whole, START + YEAR, killer).steps}
    assert len(killer.points) >= 3
    for after in range(1, len(killer.points) + 1):
        top = tmp_path / f"killed{after}"
        shutil.copytree(output, top)
        with pytest.raises(Killed):
            maintain(top, START + YEAR, Killer(after))
        assert sum(count_fates(top, [*OLD, *NEW])) == 4
        maintain(top, START + YEAR)
        assert list_ids(top) == ["4-0"]


def test_parity_leaves_out_rows_without_a_time_where_some_have_expired(output, tmp_path):
    fresh = tmp_path / "fresh"
    open_output(fresh, TEN_MINUTES, create=True)
    write(fresh, [*OLD, *NEW])
    maintain(output, START + YEAR)
    found = compare_outputs(output, fresh, identity=True)[QUARANTINED.name]
    assert found.same
    assert (found.rows_a, found.compared_from) == (0, {"quarantine/date=unknown": ""})
