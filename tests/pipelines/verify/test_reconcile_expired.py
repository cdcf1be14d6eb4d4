"""Messages whose rows have expired: whatever expired when, and whenever a message came, it has one fate."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.verify.reconcile import reconcile
from pipelines.verify.table_scan import scan
from pipelines.verify.verdict import Reconciliation
from schemas.kinds import KINDS
from schemas.partitioning import format_day_folder, format_window_folder
from schemas.tables import AGGREGATIONS, DUPLICATES, GRANULARITIES, QUARANTINED, REPORTS, TASKS
from tests.builders import messages, report, task
from tests.outputs import open_output
from tests.pipelines.verify.rows import TEN_MINUTES, put, windows
from transforms.core.expiry import Expiry
from transforms.core.record_batches import RAW, conform
from transforms.sinks.parquet.maintenance_ledger import Ledger, put_ledger, read_ledger
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.validation.validate import MessageRules, drop_expired, judge_kinds

FIRST = date(2026, 3, 1)
START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 4
WINDOWS = tuple(f"{AGGREGATIONS.name}/{format_window_folder(size)}" for size in GRANULARITIES)
EXPIRING = (REPORTS.name, TASKS.name, DUPLICATES.name, QUARANTINED.name, *WINDOWS)


@dataclass(frozen=True)
class Sent:
    """A message: a report, a task, or one that is not valid, of a number, and when it was received."""

    what: str
    number: int
    minute: int
    lag: int

    def make(self, name: int) -> pa.RecordBatch:
        at = START + timedelta(minutes=self.minute)
        make = {"report": report, "task": task}.get(self.what)
        document = "{" if make is None else make(self.number, at)
        # A report that is received too late would be rejected; a task may come days after it was created.
        lag = timedelta(minutes=self.lag % 60 if self.what == "report" else self.lag)
        source = KINDS["task"].stream if self.what == "task" else "test"
        raw = messages([document], at + lag, source)
        return raw.set_column(1, RAW.field("message_id"), pa.array([f"{name}-0"]))


def write(output: Path, sent: list[pa.RecordBatch]) -> int:
    """Write messages as a job does, without history: how many were not written since they have expired."""
    expiry = Expiry(read_ledger(LocalFolder(output))[0].expired_before)
    store, written = ParquetStore(LocalFolder(output), TEN_MINUTES.file_minutes), 0
    for raw in sent:
        for kind, judged in judge_kinds(raw, MessageRules()):
            found = drop_expired(judged, kind, expiry)
            for table, rows in ((kind.table, found.rows), (QUARANTINED, found.quarantine)):
                written += rows.num_rows
                if rows.num_rows:
                    store.write(table, [conform(rows, table.schema)])
    return len(sent) - written


def expire(output: Path, before: dict[str, date]) -> None:
    """Do what maintenance does: change the ledger, then remove the days that have expired."""
    storage = LocalFolder(output)
    ledger, version = read_ledger(storage)
    for folder, day in before.items():
        ledger = ledger.expire(folder, day, frozenset(), START)
    put_ledger(storage, ledger, version)
    remove_expired(output, ledger)


def remove_expired(output: Path, ledger: Ledger) -> None:
    for folder in EXPIRING:
        for number in range(DAYS + 1):
            if ledger.is_expired(folder, day := FIRST + timedelta(days=number)):
                shutil.rmtree(output / folder / format_day_folder(day), ignore_errors=True)


def aggregate(output: Path) -> None:
    """Make the windows of the stored reports, as far as they are kept."""
    shutil.rmtree(output / AGGREGATIONS.name, ignore_errors=True)
    stored = [row for batch in scan(output, REPORTS) for row in batch.to_pylist()]
    kept = [{name: value for name, value in row.items() if value is not None} for row in stored]
    put(output, AGGREGATIONS, windows(kept))
    remove_expired(output, read_ledger(LocalFolder(output))[0])


def check(output: Path, sent: list[pa.RecordBatch]) -> Reconciliation:
    def read(_: object = None) -> Iterator[pa.RecordBatch]:
        yield from sent

    return reconcile(output, read, payloads=read)


SENT = st.builds(
    Sent,
    st.sampled_from(["report", "report", "task", "broken"]),
    st.integers(0, 5),
    st.integers(0, DAYS * 1440 - 1) | st.sampled_from([0, 1439, 1440, 1500, 1559, 1560, 2880]),
    st.integers(-1, 90) | st.integers(0, 4000),
)
BEFORE = st.dictionaries(
    st.sampled_from(EXPIRING), st.integers(0, DAYS).map(lambda days: FIRST + timedelta(days=days))
)


@settings(max_examples=15, deadline=None)
@given(st.lists(SENT, max_size=8), BEFORE, st.lists(SENT, max_size=6), BEFORE)
def test_every_message_has_one_fate_whatever_expired_before_or_after_it_came(
    early: list[Sent], first: dict[str, date], late: list[Sent], second: dict[str, date]
) -> None:
    raw = [each.make(number) for number, each in enumerate([*early, *late])]
    with TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        open_output(output, TEN_MINUTES, create=True)
        write(output, raw[: len(early)])
        expire(output, first)
        write(output, raw[len(early) :])
        expire(output, second)
        write(output, raw)  # everything is read again, as after a restart
        aggregate(output)
        found = check(output, raw)
        assert (found.problems, found.received, found.surplus) == ([], len(raw), 0)
        assert reconcile(output).problems == []


def make_output(folder: Path, sent: list[pa.RecordBatch], before: dict[str, date]) -> Path:
    output = folder / "out"
    open_output(output, TEN_MINUTES, create=True)
    write(output, sent)
    aggregate(output)
    expire(output, before)
    return output


def test_a_message_whose_row_has_expired_is_no_longer_missing(tmp_path: Path) -> None:
    sent = [Sent("report", 1, 10, 1).make(1), Sent("report", 2, 3000, 1).make(2)]
    found = check(make_output(tmp_path, sent, {REPORTS.name: FIRST + timedelta(days=1)}), sent)
    assert (found.problems, found.reports, found.expired, found.missing) == ([], 1, 1, 0)


def test_a_message_that_is_lost_from_a_day_that_is_kept_is_still_missing(tmp_path: Path) -> None:
    sent = [Sent("task", 1, 10, 1).make(1), Sent("task", 2, 3000, 1).make(2)]
    output = make_output(tmp_path, sent, {TASKS.name: FIRST + timedelta(days=1)})
    shutil.rmtree(output / TASKS.name)
    found = check(output, sent)
    assert (found.expired, found.missing) == (1, 1)
    assert "1 message of the source without a fate" in found.problems[0]


def test_a_duplicate_of_a_report_that_has_expired_is_no_problem(tmp_path: Path) -> None:
    midnight = 1440
    sent = [Sent("report", 1, midnight - 1, 0).make(1), Sent("report", 1, midnight - 1, 30).make(2)]
    output = make_output(tmp_path, sent, {REPORTS.name: FIRST + timedelta(days=1)})
    assert list(scan(output, DUPLICATES)) != []
    for found in (check(output, sent), reconcile(output)):
        assert (found.problems, found.duplicates) == ([], 0)
    assert check(output, sent).expired == 2


def test_a_window_stays_as_it_is_when_its_reports_have_expired(tmp_path: Path) -> None:
    sent = [Sent("report", 1, 10, 1).make(1)]
    output = make_output(tmp_path, sent, {REPORTS.name: FIRST + timedelta(days=1)})
    before = [batch.to_pylist() for batch in scan(output, AGGREGATIONS)]
    late = [Sent("report", 2, 10, 50).make(2)]
    assert write(output, late) == 1
    assert check(output, [*sent, *late]).problems == []
    assert [batch.to_pylist() for batch in scan(output, AGGREGATIONS)] == before != []


def test_windows_that_are_kept_are_counted_again_beside_sizes_that_have_expired(tmp_path: Path) -> None:
    sent = [Sent("report", 1, 10, 1).make(1)]
    output = make_output(tmp_path, sent, {WINDOWS[0]: FIRST + timedelta(days=1)})
    assert check(output, sent).problems == []
    shutil.rmtree(output / WINDOWS[1])
    assert "window_size=1m" in check(output, sent).problems[0]
