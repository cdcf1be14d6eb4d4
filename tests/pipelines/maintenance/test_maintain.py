"""`kpiflow maintain` on a small output: seal, move, expire, and kills at every point of every step."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.lock import lock_folders, lock_for_batch
from pipelines.jobs.maintain import Maintenance
from pipelines.maintenance import sealed_day
from pipelines.maintenance.plan import SEAL
from pipelines.maintenance.steps import CHANGED, FORGOTTEN, REMOVED, WRITTEN
from schemas.tables import AGGREGATIONS, DUPLICATES, REPORTS, TASKS
from tests.pipelines.maintenance.stored import (
    FIRST,
    SETTINGS,
    list_contents,
    make_output,
    make_rows,
    read_rows,
)
from tests.pipelines.marks import add_marks, read_marks
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sinks.parquet.maintenance_ledger import COLD, HOT, WARM, read_ledger
from transforms.storage.local_folder import LocalFolder

FOLDERS = {
    REPORTS.name: REPORTS,
    "kpi_aggregations/window_size=1h": AGGREGATIONS,
    DUPLICATES.name: DUPLICATES,
}
START = datetime(2026, 1, 3, 6, tzinfo=UTC)
DATES = (START, START + timedelta(hours=2), START + timedelta(days=8), START + timedelta(days=34))
"""When maintenance runs: days are sealed, files of hours removed, the days moved to warm, then to cold."""


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Kills once, at the n-th point that is reached."""

    def __init__(self, after: int) -> None:
        self.after, self.points = after, []

    def __call__(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) == self.after:
            raise Killed(point)


def maintain(top: Path, at: datetime, reach=lambda point: None, **settings):
    urls = {WARM: str(top / "warm"), COLD: str(top / "cold")}
    options = SETTINGS.model_copy(update=settings)
    work = Maintenance(top / "out", options, urls, clock=lambda: at, reach=reach)
    return work.run(lambda *_: None)


def read_all(top: Path) -> dict[str, list[dict]]:
    roots = {HOT: LocalFolder(top / "out")} | {tier: LocalFolder(top / tier) for tier in (WARM, COLD)}
    ledger, _ = read_ledger(roots[HOT])
    return {folder: read_rows(table, folder, roots, ledger) for folder, table in FOLDERS.items()}


def list_names(top: Path) -> list[str]:
    return sorted(name.removeprefix(str(top)) for name in list_contents(top) if name.endswith(".parquet"))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    make_output(tmp_path / "out")
    return tmp_path


def test_a_complete_day_becomes_one_file_for_each_table_and_keeps_its_rows(top):
    before = read_all(top)
    maintain(top, DATES[0])
    assert read_all(top) == before
    days = [f"/out/{folder}/date=2026-01-0{day}/day.parquet" for folder in FOLDERS for day in (1, 2)]
    assert set(days) < set(list_names(top))
    maintain(top, DATES[1])
    assert read_all(top) == before
    assert [name for name in list_names(top) if "/tasks/" not in name] == sorted(days)
    assert not list((top / "out" / REPORTS.name).rglob("hour=*"))


def test_days_move_to_warm_and_to_cold_and_keep_their_rows(top):
    before = read_all(top)
    for at, tier in zip(DATES, ("out", "out", "warm", "cold")):
        maintain(top, at)
        assert read_all(top) == before
        assert f"/{tier}/{REPORTS.name}/date=2026-01-01/day.parquet" in list_names(top)
    maintain(top, DATES[-1] + timedelta(hours=2))
    assert {name.split("/")[1] for name in list_names(top) if "/tasks/" not in name} == {"cold"}
    assert read_all(top) == before


def test_marks_stay_when_their_reports_are_sealed_moved_and_expire(top):
    marks = add_marks(top / "out")
    for at in (*DATES[:3], START + timedelta(days=30)):
        maintain(top, at, keep_reports_days=31, keep_records_days=31)
        assert read_marks(top / "out") == marks
    assert {row["recorded_at"].date() for row in read_all(top)[REPORTS.name]} == {FIRST + timedelta(days=1)}


def test_nothing_is_done_twice(top):
    maintain(top, DATES[0])
    stored = list_contents(top)
    assert maintain(top, DATES[0]).steps == ()
    assert list_contents(top) == stored


def test_a_run_that_is_killed_at_any_point_is_completed_by_the_next(tmp_path):
    whole = tmp_path / "whole"
    make_output(whole / "out", 2, 2, (REPORTS,))
    killer = Killer(0)
    for at in DATES:
        maintain(whole, at, killer)
    expected, rows = relative(whole), read_all(whole)
    assert {WRITTEN, CHANGED, REMOVED, FORGOTTEN} == set(killer.points)
    for after in range(1, len(killer.points) + 1):
        top = tmp_path / f"killed{after}"
        make_output(top / "out", 2, 2, (REPORTS,))
        killer = Killer(after)
        for at in DATES:
            try:
                maintain(top, at, killer)
            except Killed:
                assert read_all(top) == rows
                maintain(top, at, killer)
            assert read_all(top) == rows
        assert relative(top) == expected, killer.points[after - 1]


def relative(top: Path) -> dict[str, bytes]:
    """The files below a folder by name; the roots are named differently in each ledger."""
    contents = {name.removeprefix(str(top)): data for name, data in list_contents(top).items()}
    return {name: data.replace(str(top).encode(), b"TOP") for name, data in contents.items()}


def test_expired_days_are_gone_and_their_rows_are_no_longer_read(top):
    maintain(top, DATES[0])
    at = datetime(2026, 2, 2, 6, tzinfo=UTC)
    kept = {"keep_reports_days": 31, "keep_records_days": 31}
    maintain(top, at, **kept)
    assert {row["recorded_at"].date() for row in read_all(top)[REPORTS.name]} == {FIRST + timedelta(days=1)}
    maintain(top, at + timedelta(hours=2), **kept)
    names = list_names(top)
    assert not [name for name in names if "/kpi_reports/date=2026-01-01" in name]
    assert not [name for name in names if f"/{TASKS.name}/date=2026-01-01" in name]
    assert [name for name in names if f"/{TASKS.name}/date=2026-01-02" in name]


def test_a_day_that_gets_rows_while_it_is_read_is_sealed_by_the_next_run(top, monkeypatch):
    """The windows of a stream that has got no message for days are written when the next one comes."""
    count, late = sealed_day.count_verified, make_rows(REPORTS, FIRST, 120)
    left = iter(range(20, 120))

    def count_and_write(path: Path) -> int:
        found = count(path)
        if path.is_relative_to(top / "out" / REPORTS.name / f"date={FIRST}"):
            write_rows(REPORTS, LocalFolder(top / "out"), [late.slice(next(left), 1)], 30)
        return found

    def is_sealed() -> bool:
        return read_ledger(LocalFolder(top / "out"))[0].find(REPORTS.name, FIRST).sealed

    with monkeypatch.context() as patch:
        patch.setattr(sealed_day, "count_verified", count_and_write)
        maintain(top, DATES[0])
    assert not is_sealed()
    before = read_all(top)
    assert len(before[REPORTS.name]) == 20 + next(left)
    maintain(top, DATES[0])
    assert is_sealed()
    assert read_all(top) == before


def test_a_damaged_file_of_hours_is_not_sealed_and_the_others_are(top):
    path = next((top / "out" / REPORTS.name / "date=2026-01-02").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    before = list_contents(top / "out" / REPORTS.name / "date=2026-01-02")
    with pytest.raises(RunFailed, match=r"\.parquet cannot be read"):
        maintain(top, DATES[0])
    assert list_contents(top / "out" / REPORTS.name / "date=2026-01-02") == before
    ledger, _ = read_ledger(LocalFolder(top / "out"))
    assert FIRST in ledger.days[REPORTS.name]


def test_a_batch_and_maintenance_exclude_each_other(top):
    with lock_for_batch(top / "out"), pytest.raises(WrongUse, match="a batch, has"):
        maintain(top, DATES[0])


def test_an_output_that_a_job_without_known_state_writes_to_is_left_alone(top):
    with lock_folders(top / "out"), pytest.raises(WrongUse, match="no stream's state"):
        maintain(top, DATES[0])


def write_stream_state(out: Path, committed: datetime | None) -> None:
    readers = out / "_stream" / "readers"
    readers.mkdir(parents=True, exist_ok=True)
    depends = {"streams": ["s"], "outputs": [str(out)], "group": "kpiflow"}
    job = {"depends": depends, "redis": "redis://localhost", "settle_seconds": 10}
    (out / "_stream" / "job.json").write_text(json.dumps(job))
    moment = None if committed is None else int(committed.timestamp() * 1000)
    reader = {"streams": {}, "read": 0, "time": 0, "committed": moment, "watermark": 10**15}
    (readers / "reader-0.json").write_text(json.dumps(reader))


def test_beside_a_stream_only_what_its_checkpoints_are_past_is_sealed(top):
    write_stream_state(top / "out", None)
    with lock_folders(top / "out"):
        assert maintain(top, DATES[0]).complete_before is None
        write_stream_state(top / "out", datetime(2026, 1, 2, 6, tzinfo=UTC))
        assert {step.day for step in maintain(top, DATES[0]).steps if step.action == SEAL} == {FIRST}


def test_the_roots_are_kept_and_cannot_be_exchanged_while_they_are_in_use(top):
    maintain(top, DATES[2])
    other = Maintenance(top / "out", SETTINGS, {WARM: str(top / "other")}, clock=lambda: DATES[2])
    with pytest.raises(WrongUse, match="not in"):
        other.plan()
    inside = Maintenance(top / "out", SETTINGS, {COLD: str(top / "out" / "cold")}, clock=lambda: DATES[2])
    with pytest.raises(WrongUse, match="not apart"):
        inside.plan()


def test_the_plan_is_printed_and_nothing_is_done(top, capsys):
    before = list_contents(top)
    assert run(["maintain", str(top / "out"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {step["action"] for step in plan["steps"]} == {"seal"}
    assert len(plan["steps"]) == 2 * len(FOLDERS)
    assert list_contents(top) == before
    assert run(["maintain", str(top / "out"), "--dry-run"]) == 0
    assert "due: 6 steps" in capsys.readouterr().out


def test_most_of_an_output_expires_only_if_that_is_allowed(top, monkeypatch, capsys):
    monkeypatch.setenv("KPIFLOW_KEEP_REPORTS_DAYS", "30")
    monkeypatch.setenv("KPIFLOW_KEEP_RECORDS_DAYS", "30")
    command, before = ["maintain", str(top / "out")], list_contents(top)
    assert run([*command, "--dry-run"]) == 0
    assert "2 days of kpi_reports before" in capsys.readouterr().out
    assert list_contents(top) == before
    assert run(command) == 1
    ledger, _ = read_ledger(LocalFolder(top / "out"))
    assert not ledger.expired_before
    assert len(ledger.days[REPORTS.name]) == 2
    assert run([*command, "--expire"]) == 0
    assert not read_all(top)[REPORTS.name]
