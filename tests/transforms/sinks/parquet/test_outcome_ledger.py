"""The ledger of outcomes: a message counts once, wherever its writer dies and however often it is written."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, TRIMMED, Table
from tests.builders import NOON
from transforms.core.durable_files import replace_file
from transforms.core.process_stats import WRITTEN, ProcessStats, StatsFile, record_process
from transforms.core.status_files import read_status
from transforms.sinks.parquet import outcome_ledger
from transforms.sinks.parquet.outcome_ledger import OutcomeLedger, read_outcomes
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage


def rows(table: Table, numbers: range, minute: int = 0, **columns: object) -> pa.RecordBatch:
    """Rows of messages that came in a minute, with ids of their numbers."""
    at = NOON + timedelta(minutes=minute)
    own = {"source": "s", "received_at": at, "recorded_at": at, "revision": 1}
    row = [
        own | {"message_id": str(number), "report_id": str(number), "agent_id": "a"} | columns
        for number in numbers
    ]
    return pa.RecordBatch.from_pylist(
        [{name: each.get(name) for name in table.schema.names} for each in row], table.schema
    )


def rejected(reason: str, numbers: range, revision: int = 1) -> pa.RecordBatch:
    return rows(QUARANTINED, numbers, reason=reason, payload=b"{}", revision=revision)


class Output:
    """An output with a ledger, and what the ledger says."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self.folder = storage, folder
        self.store = ParquetStore(storage, 1, ledger=OutcomeLedger(folder))

    def write(self, table: Table, batch: pa.RecordBatch) -> None:
        self.store.write(table, [batch])

    @property
    def totals(self) -> dict[str, Counter[str]]:
        def read(name: str) -> bytes | None:
            stored = self.storage.get(name)
            return stored and stored.data

        return read_outcomes(self.folder, read)


@pytest.fixture
def output(storage: Storage, tmp_path: Path) -> Output:
    if isinstance(storage, LocalFolder):
        replace_file(storage.path / "_kpiflow.json", b"{}")
    return Output(storage, tmp_path / "ledger")


def test_what_is_written_again_counts_once(output: Output) -> None:
    for _ in range(2):
        output.write(REPORTS, rows(REPORTS, range(5)))
        output.write(REPORTS, rows(REPORTS, range(3, 8)))
        output.write(REPORTS, rows(REPORTS, range(8, 10), minute=90))
    assert output.totals == {"kpi_reports": {"": 10}}


def test_reasons_duplicates_and_lost_entries_are_counted_and_windows_are_not(output: Output) -> None:
    output.write(QUARANTINED, rejected("json", range(3)))
    output.write(QUARANTINED, rejected("stale", range(2, 6)))
    output.write(TRIMMED, rows(TRIMMED, range(1), entries=20, after="1-0", reason="trimmed"))
    output.write(TRIMMED, rows(TRIMMED, range(1), entries=30, after="1-0", reason="trimmed", revision=30))
    output.write(DUPLICATES, rows(DUPLICATES, range(4)))
    assert output.totals == {
        "quarantine": {"json": 3, "stale": 3}, "trimmed": {"": 30}, "duplicates": {"": 4},
    }  # fmt: skip


def test_a_message_that_loses_its_place_is_a_duplicate_and_the_sum_is_that_of_the_messages(
    output: Output,
) -> None:
    output.write(REPORTS, rows(REPORTS, range(1), message_id="2"))
    output.write(REPORTS, rows(REPORTS, range(1), message_id="1"))
    assert output.totals == {"kpi_reports": {"": 1}, "duplicates": {"": 1}}


def test_a_replay_by_another_job_counts_for_nothing_and_hides_nothing(output: Output) -> None:
    output.write(QUARANTINED, rejected("stale", range(4)))
    other = ParquetStore(output.storage, 1)
    other.write(QUARANTINED, [rejected("stale", range(2), revision=2)])
    other.write(REPORTS, [rows(REPORTS, range(2))])
    output.write(QUARANTINED, rejected("stale", range(5)))
    output.write(REPORTS, rows(REPORTS, range(10, 12)))
    assert output.totals == {"quarantine": {"stale": 5}, "kpi_reports": {"": 2}}


class Died(Exception):  # noqa: N818 (an end, not an error)
    pass


def die(*_: object) -> None:
    raise Died


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
@pytest.mark.parametrize(
    ("dies_at", "is_stored"),
    [("begin", False), ("put", False), ("commit", True)],
    ids=["before the note", "before the put", "after the put"],
)
@pytest.mark.parametrize("goes_on", [True, False], ids=["writes again", "is only read"])
def test_a_writer_that_dies_at_any_step_leaves_the_truth(
    output: Output, dies_at: str, is_stored: bool, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.write(REPORTS, rows(REPORTS, range(3)))
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder if dies_at == "put" else OutcomeLedger, dies_at, die)
        with pytest.raises(Died):
            output.write(REPORTS, rows(REPORTS, range(3, 7)))
    assert output.totals == {"kpi_reports": {"": 7 if is_stored else 3}}
    if goes_on:
        output.write(REPORTS, rows(REPORTS, range(3, 9)))
        assert output.totals == {"kpi_reports": {"": 9}}


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
def test_a_file_that_another_job_replaces_after_a_death_is_not_taken_for_the_dead_writers(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "put", die)
        with pytest.raises(Died):
            output.write(REPORTS, rows(REPORTS, range(4)))
    ParquetStore(output.storage, 1).write(REPORTS, [rows(REPORTS, range(2))])
    output.write(REPORTS, rows(REPORTS, range(4)))
    assert output.totals == {"kpi_reports": {"": 2}}


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
@pytest.mark.parametrize("torn", ["", "{", '{"totals": 1, "open": {}}', '{"totals": {}, "open": {"a": 1}}'])
def test_a_torn_ledger_is_begun_again_and_reported_once(
    output: Output, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    output.folder.mkdir()
    path = output.folder / "kpi_reports.json"
    path.write_text(torn)
    output.write(REPORTS, rows(REPORTS, range(4)))
    assert output.totals == {"kpi_reports": {"": 4}}
    assert [str(path) in each.getMessage() for each in caplog.records] == [True]


def test_a_job_without_a_ledger_measures_nothing(tmp_path: Path, forbid: Callable[[str], None]) -> None:
    forbid("count_outcomes")
    replace_file(tmp_path / "_kpiflow.json", b"{}")
    ParquetStore(LocalFolder(tmp_path), 1).write(REPORTS, [rows(REPORTS, range(4))])


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(outcome_ledger, name, die)


def test_only_reports_that_are_in_no_file_yet_have_a_latency(tmp_path: Path) -> None:
    replace_file(tmp_path / "_kpiflow.json", b"{}")
    output = Output(LocalFolder(tmp_path), tmp_path / "ledger")
    (tmp_path / "processes").mkdir()
    with record_process(tmp_path / "processes", "worker"):
        output.write(REPORTS, rows(REPORTS, range(3)))
        output.write(REPORTS, rows(REPORTS, range(5), revision=2))
        output.write(QUARANTINED, rejected("json", range(3)))
    (path,) = (tmp_path / "processes").iterdir()
    latency = ProcessStats.of(read_status(path, StatsFile)).latency
    assert {stage: sum(each.counts) for stage, each in latency.items()} == {WRITTEN: 5}
