"""A year of an output with a few messages a week: each message keeps one fate, and the files stay few."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipelines.jobs.maintain import Maintenance
from pipelines.verify.reconcile import reconcile
from schemas.kinds import KINDS
from schemas.tables import AGGREGATIONS, QUARANTINED, REPORTS, TASKS
from tests.builders import messages, report, task
from tests.outputs import open_output
from tests.pipelines.verify.rows import TEN_MINUTES, put, windows
from transforms.core.expiry import Expiry
from transforms.core.record_batches import RAW, conform
from transforms.sinks.parquet.maintenance_ledger import COLD, WARM, Ledger, read_ledger
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.validation.validate import MessageRules, drop_expired, judge_kinds

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
WEEK = timedelta(weeks=1)
WEEKS = 58


def make_messages(week: int) -> list[pa.RecordBatch]:
    """Two reports, a task and a message that is not valid, of two days of a week."""
    made = []
    for day in (0, 3):
        at = START + week * WEEK + timedelta(days=day)
        number = 10 * week + day
        documents = [report(number, at), report(number + 1, at + timedelta(hours=1)), task(number, at), "{"]
        for place, document in enumerate(documents):
            source = KINDS["task"].stream if place == 2 else "test"
            raw = messages([document], at + timedelta(hours=1, minutes=1), source)
            made.append(raw.set_column(1, RAW.field("message_id"), pa.array([f"{number}-{place}"])))
    return made


def write(output: Path, sent: list[pa.RecordBatch]) -> None:
    """Write messages and their windows as a job does, without history."""
    store = ParquetStore(LocalFolder(output), TEN_MINUTES.file_minutes)
    expiry, reports = Expiry(read_ledger(store.storage)[0].expired_before), []
    for raw in sent:
        for kind, judged in judge_kinds(raw, MessageRules()):
            found = drop_expired(judged, kind, expiry)
            for table, rows in ((kind.table, found.rows), (QUARANTINED, found.quarantine)):
                if rows.num_rows:
                    store.write(table, [conform(rows, table.schema)])
            if kind.table is REPORTS:
                rows = conform(found.rows, REPORTS.schema).to_pylist()
                reports += [{name: value for name, value in row.items() if value is not None} for row in rows]
    put(output, AGGREGATIONS, windows(reports))


def count_files(root: Path) -> int:
    return sum(path.suffix == ".parquet" for path in root.rglob("*"))


def test_a_year_of_weekly_maintenance_keeps_each_message_and_few_files(tmp_path: Path) -> None:
    output, roots = tmp_path / "out", {WARM: tmp_path / "warm", COLD: tmp_path / "cold"}
    open_output(output, TEN_MINUTES, create=True)
    sent: list[pa.RecordBatch] = []

    def read(_: object = None) -> Iterator[pa.RecordBatch]:
        yield from sent

    urls, withheld, expired = {tier: str(root) for tier, root in roots.items()}, 0, 0
    for week in range(WEEKS):
        new = make_messages(week)
        sent += new
        write(output, new)
        now = START + (week + 1) * WEEK
        work = Maintenance(
            output, TEN_MINUTES, urls, clock=partial(datetime.fromtimestamp, now.timestamp(), UTC)
        )
        withheld += len(work.run(lambda *_: None).withheld)
        if week % 4 == 3 or week == WEEKS - 1:
            found = reconcile(output, read, payloads=read)
            assert (found.problems, found.received, found.missing, found.surplus) == ([], len(sent), 0, 0), (
                week
            )
            assert found.expired >= expired
            expired = found.expired
            assert count_files(output) - count_files(output / TASKS.name) <= 30, week
            assert count_files(roots[WARM]) <= 40, week
            check_ledger(read_ledger(LocalFolder(output))[0], now)
    assert withheld == 0
    assert expired > 0


def check_ledger(ledger: Ledger, now: datetime) -> None:
    """Each day is on the tier of its age, and only what the last run has replaced waits for its removal."""
    for folder, days in ledger.days.items():
        for day, place in days.items():
            age = (now.date() - day).days - 1
            assert place.tier == (COLD if age >= 30 else WARM if age >= 7 else "hot"), (folder, day)
    assert {each.since for each in ledger.replaced} <= {now}
    assert len(ledger.days[REPORTS.name]) <= 2 * 53
